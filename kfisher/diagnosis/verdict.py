"""Verdict: can the empirical Fisher be trusted as a stand-in for the Fisher matrix?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from kfisher._common.checks import instance, positive, positive_integer
from kfisher._common.checks import seed as check_seed
from kfisher._common.models import built, compiled, first_batch
from kfisher._keras.optimizers import inner
from kfisher.diagnosis import findings as findings_on
from kfisher.diagnosis.basis import Frame
from kfisher.diagnosis.measurement import Finding, Measurement, Verdict
from kfisher.diagnosis.meter import Meter, examples
from kfisher.diagnosis.notes import notes
from kfisher.diagnosis.specification import specification
from kfisher.diagnosis.summary import SENTENCES
from kfisher.diagnosis.thresholds import Thresholds
from kfisher.likelihoods import Likelihood


def diagnose(
    model: keras.Model,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    damping: float | None = None,
    draws: int = 8,
    seed: int = 0,
    thresholds: Thresholds | None = None,
    likelihood: Likelihood | None = None,
) -> Verdict:
    """Says whether EF can be trusted for this model at its present weights.

    Args:
        model: A built and compiled `keras.Model`; nothing in it changes.
        x, y, sample_weight: Examples as for `model.fit`, one batch of arrays or tensors; some hundreds. Or x
            alone, a `tf.data.Dataset` or `keras.utils.PyDataset` of such batches: the first is taken.
        damping: Positive float, λ in the units of F. Defaults to that of the model's optimizer if it is
            one of kfisher's, else to the square root of the precision of the model's dtype times the largest
            eigenvalue of F.
        draws: Positive integer, how many times labels are drawn from the model: what label noise alone does.
        seed: Integer, of those labels and of the bootstrap.
        thresholds: `kfisher.Thresholds`.
        likelihood: A `kfisher.likelihoods.Likelihood`, instead of that of the compiled loss. Defaults to the
            `likelihood` of the model's optimizer, if it has one.

    Returns:
        A `Verdict`; `print(verdict)` is a sentence and the findings behind it. `verdict.trusted` is a bool.

    Raises:
        ValueError: If the model has no loss, the loss has no likelihood, or an argument is wrong.
        FloatingPointError: If the model has outputs that are not finite.

    Reference:
        Kunstner, Balles, Hennig 2019, section 4; White 1982 on EF = F as a test of specification.

    Example:

    >>> print(kfisher.diagnose(model, x, y))
    """
    compiled("model", built("model", model))
    draws, seed = positive_integer("draws", draws), check_seed("seed", seed)
    x, y, sample_weight = first_batch(x, y, sample_weight)
    if x is None:
        raise ValueError("F is that of a model on examples. Received: x=None")
    if y is None:
        raise ValueError("The empirical Fisher takes the labels of the data. Received: y=None")
    if damping is None:
        damping = damping_of(model)
    else:
        damping = positive("damping", damping, "a positive float or None", "float64")
    thresholds = thresholds_of(thresholds)
    meter = Meter(model, draws, seed, likelihood)
    data = examples((x, y, sample_weight), None)
    step = int(model.optimizer.iterations) if model.optimizer is not None else 0
    measurement, frame = meter(*data, damping=damping, step=step)
    return judge([measurement], frame, thresholds, seed)


def thresholds_of(thresholds: Any) -> Thresholds:
    """Thresholds as given, or the defaults."""
    if thresholds is None:
        return Thresholds()
    return instance("thresholds", thresholds, Thresholds, "a kfisher.Thresholds, or None")


def damping_of(model: keras.Model) -> float | None:
    """λ of the next step, if the optimizer has one."""
    optimizer = getattr(model, "optimizer", None)
    damping = getattr(inner(optimizer), "damping", None)
    return None if damping is None else float(keras.ops.convert_to_numpy(damping))


def judge(history: Sequence[Measurement], frame: Frame, thresholds: Thresholds, seed: int = 0) -> Verdict:
    """The verdict on the last of several measurements of one training, of which `frame` is the source."""
    history = list(history)
    now = history[-1]
    enough = findings_on.sufficiency(now, frame, thresholds)
    steps = findings_on.Steps(history, frame, enough, thresholds)
    findings = [
        findings_on.direction(steps),
        findings_on.length(steps),
        findings_on.inversion(history, steps),
        specification(frame, thresholds, seed),
        enough,
    ]
    verdict = of_findings(now.step, findings)
    verdict.notes = notes(now)
    return verdict


def of_findings(step: int, findings: list[Finding]) -> Verdict:
    """The worst finding decides, and of equals the first; EF is cleared by its steps or at a minimum.

    Its steps clear it if both direction and length are fine.
    """
    level = {f.name: f.level for f in findings}
    steps_fine = level["direction"] == level["length"] == "fine"
    verdict = "fine" if steps_fine or level["specification"] == "fine" else "unknown"
    for worse in ("warning", "bad"):
        for finding in reversed(findings):
            if finding.level == worse:
                verdict = finding.values["verdict"]
    return Verdict(step, verdict, SENTENCES[verdict], findings)
