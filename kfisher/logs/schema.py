"""Every folder, tag and name in a log, spelled here and nowhere else, and the look of each kind of Fisher.

Nothing is imported: the process of TensorBoard reads this, where TensorFlow would start for a web page.
"""

from __future__ import annotations

import re
from typing import NamedTuple

PLUGIN = "fisher"  # whose data it is, for TensorBoard

# Sub-directories of a `log_dir`: ours, and those of Keras.
FOLDER, TRAIN_FOLDER, VALIDATION_FOLDER = "fisher", "train", "validation"
FOLDERS = (FOLDER, TRAIN_FOLDER, VALIDATION_FOLDER)

START_FILE = "start.npz"  # the weights before the first step, beside the statistics of steps

# What tags begin with: statistics of each step, the same of each layer, numbers of a measurement, and what
# Keras logs of each epoch.
STEP, LAYER, FISHER, EPOCH = "step/", "layer/", "fisher/", "epoch_"

VALIDATION_LOSS_TAG = "evaluation_loss_vs_iterations"  # by Keras, at steps of the optimizer

MEASUREMENT_TAG = "fisher/measurement"
NOTES_TAG = "fisher/notes"  # what was left out, and why: a list of sentences as JSON
PICTURE = "fisher/picture/"
VERDICT_TAG = "fisher/verdict"
VERDICT_TEXT_TAG = "fisher/verdict_text"
SUMMARY_TAG = "fisher/summary"  # of the verdicts so far; the last one is that of the run
SUMMARY_TEXT_TAG = "fisher/summary_text"

# Statistics of each step, below `step/`.
LOSS = "loss"
UPDATE_NORM = "update_norm"
GRADIENT_NORM = "gradient_norm"
UPDATE_TO_GRADIENT = "update_to_gradient"
COSINE = "cosine"
DISTANCE = "distance"
WEIGHT_NORM = "weight_norm"
LEARNING_RATE = "learning_rate"
RATE_IN_USE = "rate_in_use"
MOMENTUM_IN_USE = "momentum_in_use"
DAMPING = "damping"
KL = "kl"
RADIUS = "radius"
REJECTED_STEPS = "rejected_steps"
SKIPPED_STEPS = "skipped_steps"

# Numbers of a measurement, below `fisher/`, besides COSINE, GRADIENT_NORM and DAMPING; those that each kind
# has end in its name, or in "taken" for the step of the optimizer.
TRACE = "trace"
EFFECTIVE_DIMENSION = "effective_dimension"
CONDITION = "condition"
LARGEST_EIGENVALUE = "largest_eigenvalue"
OVERLAP = "overlap_"
RATIO_EIGENVALUE = "ratio_eigenvalue"
TRACE_RATIO = "trace_ratio"
LENGTH_RATIO = "length_ratio"
STEP_NORM = "step_norm"
GAMMA = "gamma"
SECONDS = "seconds"
SECOND_MOMENT = "second_moment"


class Statistic(NamedTuple):
    """Statistic of each step, and what is said of it.

    Attributes:
        title: With its symbol.
        unit: In words.
        sentence: What it tells.
        logarithmic: Whether a wide range is drawn on a logarithmic axis.
        noisy: Whether it jumps from step to step; of others a moving average would blur what they say.
    """

    title: str
    unit: str
    sentence: str
    logarithmic: bool = True
    noisy: bool = False


STATISTICS = {
    LOSS: Statistic("Training loss", "loss", "Of each batch, before the step.", noisy=True),
    UPDATE_NORM: Statistic(
        "Update norm ‖Δθ‖", "parameter", "How far the weights moved in the step.", noisy=True
    ),
    GRADIENT_NORM: Statistic(
        "Gradient norm ‖∇L‖", "loss / parameter", "The gradient that the optimizer was given.", noisy=True
    ),
    UPDATE_TO_GRADIENT: Statistic(
        "Ratio ‖Δθ‖ / ‖∇L‖", "parameter² / loss", "Step length for each unit of gradient.", noisy=True
    ),
    COSINE: Statistic(
        "Cosine of Δθ and −∇L", "no unit", "1 for plain gradient descent, 0 at a right angle.", False, True
    ),
    DISTANCE: Statistic(
        "Distance ‖θ − θ₀‖", "parameter", "How far the weights are from where they began.", False
    ),
    WEIGHT_NORM: Statistic("Weight norm ‖θ‖", "parameter", "Length of all weights after the step.", False),
    LEARNING_RATE: Statistic("Learning rate", "parameter² / loss", "The learning rate of the step."),
    RATE_IN_USE: Statistic(
        "Learning rate in use",
        "no unit",
        "What the trust region left of it, or the quadratic model chose. Under absolute error, and with EF, "
        "it grows with the errors.",
    ),
    MOMENTUM_IN_USE: Statistic("Momentum in use", "no unit", "The share of the past in the step.", False),
    DAMPING: Statistic("Damping λ", "loss / parameter²", "What is added to the eigenvalues of the matrix."),
    KL: Statistic(
        "KL divergence of the step",
        "loss",
        "How much the step changes what the model predicts, ½ ΔᵀFΔ.",
        noisy=True,
    ),
    RADIUS: Statistic("Trust region", "loss", "The largest KL divergence that a step may have."),
    REJECTED_STEPS: Statistic(
        "Rejected steps", "steps", "Steps so far that were taken back: the loss jumped.", False
    ),
    SKIPPED_STEPS: Statistic(
        "Skipped steps",
        "steps",
        "Steps so far that were left out, with no weight changed: not finite, or out of all proportion.",
        False,
    ),
}
LAYER_STATISTICS = (UPDATE_NORM, GRADIENT_NORM, WEIGHT_NORM)  # below `layer/<layer>/`


class Look(NamedTuple):
    """Look of the lines of a kind, in every chart.

    Attributes:
        label: For a legend; `long_label` where there is room.
        colour: Told apart from the others on white and on dark grey.
        dash, symbol: In Plotly's words; they tell the kinds apart without any colour.
        hollow: Whether the symbol is an outline, through which what lies below, often F itself, is seen.
    """

    label: str
    long_label: str
    colour: str
    dash: str
    symbol: str
    hollow: bool = False


KINDS = ("exact", "sampled", "empirical")
LOOKS = {
    "exact": Look("F exact", "F, exact", "#2b8ce0", "solid", "circle"),
    "sampled": Look("F sampled", "F, sampled labels", "#1a9e8f", "dash", "square", True),
    "empirical": Look("EF", "EF, empirical", "#e8612c", "dashdot", "triangle-up"),
    "gradient": Look("gradient", "Gradient", "#8a8f98", "dot", "diamond"),
    "taken": Look("step taken", "Step of the optimizer", "#9a5fc4", "longdash", "star"),
}


def step_tag(name: str) -> str:
    """The tag of a statistic of each step."""
    return STEP + name


def layer_tag(layer: str, name: str) -> str:
    """The tag of a statistic of a layer at each step."""
    return f"{LAYER}{layer}/{name}"


def layer_and_name(tag: str) -> tuple[str, str] | None:
    """The layer, which may have slashes in its name, and the statistic; `None` for any other tag."""
    match = re.fullmatch(f"{LAYER}(.+)/([^/]+)", tag)
    return (match[1], match[2]) if match else None


def fisher_tag(name: str, of: str = "") -> str:
    """The tag of a number of a measurement, of a kind if each has one."""
    return f"{FISHER}{name}/{of}" if of else FISHER + name
