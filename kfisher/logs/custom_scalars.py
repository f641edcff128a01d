"""Charts that TensorBoard's own "Custom Scalars" tab opens ready-made."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2, summary

# Titles, and the names of the tags that share the chart. The tab draws a line for each tag of each run that
# a regular expression matches from its beginning on.
_STEPS = {
    "Update norm and gradient norm": "update_norm|gradient_norm",
    "Update norm ÷ gradient norm": "update_to_gradient",
    "Cosine of the update and minus the gradient": "cosine",
    "Weight norm, and distance from the start": "weight_norm|distance",
    "Learning rate and damping": "learning_rate|damping",
    "KL divergence of the step": "kl",
    "Trust region": "radius",
    "Skipped steps": "skipped_steps",
    "Rejected steps": "rejected_steps",
}
_FISHER = {
    "Trace of F, sampled F and EF": "trace/.*",
    "Effective dimension": "effective_dimension/.*",
    "Largest eigenvalue": "largest_eigenvalue/.*",
    "Condition": "condition/.*",
    "Eigenvalues of (F + λI)⁻¹(EF + λI): all 1 if EF = F": "ratio_eigenvalue/.*",
    "tr((F + λI)⁻¹EF)": "trace_ratio",
    "Cosine with the natural-gradient step": "cosine/.*",
    "Step lengths, and the gradient norm": "step_norm/.*|gradient_norm",
    "EF step length ÷ natural-gradient step length": "length_ratio",
    "γ relative to the gradient's (lower is better)": "gamma/.*",
    "Overlap of the k leading eigenvectors with those of F": "overlap_.*",
}


def custom_scalars_layout(
    step_names: Iterable[str] | None = None, fisher: bool = True
) -> tf.compat.v1.Summary:
    """The layout of the "Custom Scalars" tab: the categories "Steps" and "Fisher against EF".

    It belongs into one event of any run of the log directory, at any step; TensorBoard merges equal charts
    of several runs.

    Args:
        step_names: What is logged of each step, such as "update_norm": charts that would stay empty are left
            out. Defaults to all.
        fisher: Bool, whether to add "Fisher against EF". Defaults to `True`.

    Returns:
        A `Summary` proto with the tag "custom_scalars__config__".

    Example:

    >>> event = tf.compat.v1.Event(step=0, summary=custom_scalars_layout())
    >>> tf.io.TFRecordWriter(path).write(event.SerializeToString())
    """
    steps = _STEPS
    if step_names is not None:
        logged = set(step_names)
        steps = {title: names for title, names in _STEPS.items() if logged & set(names.split("|"))}
    categories = [_category("Steps", "step", steps)]
    if fisher:
        categories.append(_category("Fisher against EF", "fisher", _FISHER))
    return summary.pb(layout_pb2.Layout(category=[c for c in categories if c.chart]))


def _category(title: str, prefix: str, charts: dict[str, str]) -> layout_pb2.Category:
    return layout_pb2.Category(
        title=title,
        chart=[
            layout_pb2.Chart(
                title=chart, multiline=layout_pb2.MultilineChartContent(tag=[f"{prefix}/({names})$"])
            )
            for chart, names in charts.items()
        ],
    )
