"""What is said beneath the table: which optimizer has the least loss, and whether EF can be trusted there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import ttest_rel

from kfisher.diagnosis.course import deciding
from kfisher_scripts.comparison.run import Run

_CHANCE = 0.05  # of being told apart without a difference
_NO_VERDICT = "The loss is not finite there: no verdict."


def best(runs: list[Run], fixed: Sequence[str]) -> str:
    """Which optimizer has the least validation loss, by the mean over its seeds, and how surely.

    Args:
        runs: Of a table.
        fixed: The optimizers whose settings were not searched for.
    """
    own = {name: [run for run in runs if run.optimizer == name] for name in (run.optimizer for run in runs)}
    losses = {name: float(np.mean([run.end["validation_loss"] for run in own[name]])) for name in own}
    finite = {name: loss for name, loss in losses.items() if math.isfinite(loss)}
    if not finite:
        return "No run has a finite validation loss."
    rows = {name: np.mean([run.row_losses for run in own[name]], 0) for name in finite}
    first = min(finite, key=finite.__getitem__)
    said = [
        f"Least loss on the {len(rows[first])} rows by which settings and steps were chosen: {first} "
        f"({finite[first]:.4g})."
    ]
    alike = [name for name in finite if name != first and not _told_apart(rows[first], rows[name])]
    if alike:
        said.append(f"Not told apart from it by so many rows (paired t-test, 95 %): {', '.join(alike)}.")
    return "\n".join(said + _searched(runs, fixed))


def _told_apart(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the mean difference of the losses of rows is beyond what chance makes of so many rows."""
    return bool(np.any(a != b) and ttest_rel(a, b).pvalue < _CHANCE)


def _searched(runs: list[Run], fixed: Sequence[str]) -> list[str]:
    """For which optimizers no settings were searched, and for which seed those of the others were."""
    said = [f"No settings were searched for {', '.join(fixed)}."] if fixed else []
    seeds = [run.seed for run in runs]
    if len(set(seeds)) > 1 and not {run.optimizer for run in runs} <= set(fixed):
        said.append(
            f"Settings were searched with seed {seeds[0]} and are used for the other seeds as they are."
        )
    return said


def verdicts(runs: list[Run], noise: float | None, damping: float | None) -> str:
    """Where each optimizer ended, by its first seed; in full for the natural gradient, or else the first.

    Args:
        runs: Of a table.
        noise: That of a regression, in units of the target.
        damping: λ of the verdicts; `None` for the least that the precision allows.
    """
    own = {run.optimizer: run for run in reversed(runs)}  # the first seed of each
    first = own.pop("natural_gradient", None) or own.pop(runs[0].optimizer)
    lines = [f"Where {first.optimizer} ended: {first.verdict or _NO_VERDICT}"]
    if first.verdict and noise is not None:
        lines.append(_residuals(first, noise))
    if first.judged:
        lines.append(
            f"  (From the first {first.judged} of the rows trained on, damped by {_named(damping)}.)\n"
        )
    for run in (run for run in runs if own.get(run.optimizer) is run):
        lines += _short(run)
    return "\n".join(lines)


def _named(damping: float | None) -> str:
    return "λ = √precision · largest eigenvalue of F" if damping is None else f"λ = {damping:g}"


def _short(run: Run) -> list[str]:
    """The verdict, the finding that decides it, and whatever else is bad."""
    if run.verdict is None:
        return [f"Where {run.optimizer} ended: {_NO_VERDICT}"]
    decides = deciding(run.verdict)
    bad = [f for f in run.verdict.findings if f.level == "bad" and f is not decides]
    found = [f"  {finding.name}: {finding.text}" for finding in (decides, *bad)]
    return [f"Where {run.optimizer} ended: {run.verdict.sentence}", *found]


def _residuals(run: Run, noise: float) -> str:
    """What the verdict has to be read by."""
    left = noise * math.sqrt(2 * run.end["loss"])
    text = f"  residuals: Their standard deviation is {left:.3g}, that of the noise in the loss {noise:.3g}"
    if 0.8 < left / noise < 1.25:
        return f"{text}."
    return f"{text}: EF goes with the former, F with the latter. If you know the noise, pass --noise."
