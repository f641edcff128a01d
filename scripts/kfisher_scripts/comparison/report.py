"""What a comparison leaves behind: a CSV, a picture, and a table."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from kfisher_scripts.comparison.optimizers import OPTIMIZERS
from kfisher_scripts.comparison.run import Run

COLUMNS = ("optimizer", "seed", "step", "seconds", "loss", "accuracy", "test_loss", "test_accuracy", "cosine")

# Okabe & Ito, then Tol: told apart with any colour vision, and line styles without any. An optimizer looks
# the same in every picture.
_OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_COLOURS = (*_OKABE_ITO, "#882255", "#999933", "#44AA99")
_STYLES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
# The least loss drawn, over that at the start: below it, curves would press the others together.
_LEAST = 1e-8
_NO_VERDICT = "The loss is not finite there: no verdict."


def write_csv(runs: list[Run], path: Path) -> None:
    """One line for each measurement; empty where a quantity was not measured or does not apply."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for run in runs:
            for row in run.rows:
                numbers = {k: "" if math.isnan(v) else f"{v:.8g}" for k, v in row.items()}
                writer.writerow({"optimizer": run.optimizer, "seed": run.seed, **numbers})


def draw(runs: list[Run], title: str, target: float, path: Path) -> None:
    """Loss against step and against seconds, and the cosine where measured; one line for each seed."""
    has_cosine = any(np.isfinite(run.column("cosine")).any() for run in runs)
    figure = Figure(figsize=(13 if has_cosine else 9, 4.6), layout="constrained")
    by_step, by_seconds, *rest = figure.subplots(1, 3 if has_cosine else 2)
    for run in runs:
        i = list(OPTIMIZERS).index(run.optimizer)
        first = run is next(r for r in runs if r.optimizer == run.optimizer)
        look = {
            "color": _COLOURS[i % len(_COLOURS)],
            "linestyle": _STYLES[i % len(_STYLES)],
            "linewidth": 1.8 if len({r.seed for r in runs}) == 1 else 1.0,
            "label": run.optimizer.replace("_", " ") if first else None,
        }
        by_step.plot(run.column("step"), run.column("loss"), **look)
        by_seconds.plot(run.column("seconds"), run.column("loss"), **look)
        measured = np.isfinite(run.column("cosine"))
        for axes in rest:
            axes.plot(run.column("step")[measured], run.column("cosine")[measured], **look)
    for axes, label in ((by_step, "step"), (by_seconds, "seconds of training steps")):
        axes.set(xlabel=label, ylabel="training loss", yscale="log")
        axes.axhline(target, color="0.5", linewidth=1, zorder=0, label=f"target {target:g}")
    least = _LEAST * max(run.rows[0]["loss"] for run in runs)
    if by_step.get_ylim()[0] < least:
        by_step.set(ylim=(least, None), ylabel=f"training loss (cut at {_LEAST:g} of the start)")
    by_seconds.set_xscale("log")  # a step of one optimizer may cost ten of another
    by_seconds.sharey(by_step)
    for axes in rest:
        axes.set(xlabel="step", ylabel="cosine of EF step and NG step", ylim=(-1.05, 1.05))
    for axes in (by_step, by_seconds, *rest):
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    handles, labels = by_step.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False)
    figure.savefig(path, dpi=120)


def target_of(runs: list[Run]) -> float:
    """The loss at which the slowest ends, rounded up to four digits; NaN if none ends at a finite one."""
    ends = [run.rows[-1]["loss"] for run in runs if math.isfinite(run.rows[-1]["loss"])]
    if not ends or max(ends) <= 0:
        return math.nan
    unit = 10.0 ** (math.floor(math.log10(max(ends))) - 3)
    return float(f"{math.ceil(max(ends) / unit) * unit:.4g}")


def table(runs: list[Run], target: float) -> str:
    """One line for each optimizer: means over its seeds, "-" where it does not apply or not all got there."""
    header = (
        "optimizer",
        "lr",
        "damping",
        "loss",
        "accuracy",
        "test loss",
        "test acc.",
        f"steps to {target:g}",
        "seconds",
        "ms/step",
        "cos mean",
        "cos min",
    )
    lines = [header]
    for name in dict.fromkeys(run.optimizer for run in runs):
        own = [run for run in runs if run.optimizer == name]
        reached = [_first_below(run, target) for run in own]
        cosines = np.concatenate([run.column("cosine") for run in own])
        cosines = cosines[np.isfinite(cosines)]
        setting = own[0].setting
        lines.append(
            (
                name,
                f"{setting.learning_rate:.3g}",
                "-" if setting.damping is None else f"{setting.damping:.0e}",
                _number([run.rows[-1]["loss"] for run in own], ".4g"),
                _number([run.rows[-1]["accuracy"] for run in own], ".3f"),
                _number([run.rows[-1]["test_loss"] for run in own], ".4g"),
                _number([run.rows[-1]["test_accuracy"] for run in own], ".3f"),
                _number([step for step, _ in reached], ".4g"),
                _number([seconds for _, seconds in reached], ".3g"),
                _number([1000 * run.rows[-1]["seconds"] / run.rows[-1]["step"] for run in own], ".1f"),
                _number(list(cosines), ".2f"),
                _number([cosines.min()] if len(cosines) else [], ".2f"),
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths)))
        for line in lines
    )


def verdicts(runs: list[Run], noise: float | None) -> str:
    """Where each optimizer ended, by its first seed; in full for the natural gradient, or else the first.

    Args:
        runs: Of a table.
        noise: That of a regression, in units of the target.
    """
    own = {run.optimizer: run for run in reversed(runs)}  # the first seed of each
    first = own.pop("natural_gradient", None) or own.pop(runs[0].optimizer)
    lines = [f"Where {first.optimizer} ended: {first.verdict or _NO_VERDICT}"]
    if first.verdict and noise is not None:
        lines.append(_residuals(first, noise))
    if first.judged:
        lines.append(f"  (From {first.judged} of the rows trained on.)\n")
    for run in (run for run in runs if own.get(run.optimizer) is run):
        lines.append(f"Where {run.optimizer} ended: {run.verdict.sentence if run.verdict else _NO_VERDICT}")
    return "\n".join(lines)


def _residuals(run: Run, noise: float) -> str:
    """What the verdict has to be read by."""
    left = noise * math.sqrt(2 * run.rows[-1]["loss"])
    text = f"  residuals: Their standard deviation is {left:.3g}, that of the noise in the loss {noise:.3g}"
    if 0.8 < left / noise < 1.25:
        return f"{text}."
    return f"{text}: EF goes with the former, F with the latter. If you know the noise, pass --noise."


def _first_below(run: Run, target: float) -> tuple[float, float]:
    """Step and seconds at which the loss was first measured at or below the target; NaN if never."""
    return next(((r["step"], r["seconds"]) for r in run.rows if r["loss"] <= target), (math.nan, math.nan))


def _number(values: list[float], form: str) -> str:
    mean = float(np.mean(values)) if values else math.nan
    return "-" if math.isnan(mean) else format(mean, form)
