"""The picture of a comparison: losses in training and on what is held out, and the cosine."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from kfisher_scripts.common.looks import LOOKS
from kfisher_scripts.comparison.run import Run

# The least loss drawn, over that at the start: below it, curves would press the others together.
_LEAST = 1e-8
_NAMES = {
    "loss": "training loss",
    "validation_loss": "loss on rows to choose by",
    "test_loss": "held-out loss",
    "error": "relative error of the solution",
    "cosine": "cosine of EF step and NG step",
}


def draw(runs: list[Run], title: str, target: float, judged: str, path: Path) -> None:
    """Loss against step, in training and held out, and against seconds; the cosine where measured.

    One line for each seed; a dot marks the weights that were kept.
    """
    measured = [n for n in _NAMES if any(np.isfinite(run.column(n)).any() for run in runs)]
    held_out = next((n for n in ("validation_loss", "test_loss") if n in measured), None)
    panels = [
        ("step", "loss"),
        ("step", held_out),
        ("step", "error"),
        ("seconds", judged),
        ("step", "cosine"),
    ]
    panels = [(x, y) for x, y in panels if y in measured]
    columns = 2 if len(panels) == 4 else len(panels)
    size = (4.4 * len(panels), 4.6) if columns > 2 or len(panels) < 3 else (10.0, 8.0)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(panels) // columns, columns, squeeze=False).flat
    for axes, (x, y) in zip(grid, panels):
        for run in runs:
            _line(axes, run, x, y, one_seed=len({r.seed for r in runs}) == 1)
        label = "seconds of training steps" if x == "seconds" else x
        axes.set(xlabel=label, ylabel=_NAMES[y])
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        if y == "cosine":
            axes.set(ylim=(-1.05, 1.05))
            continue
        axes.set_yscale("log")
        if y == judged:
            axes.axhline(target, color="0.5", linewidth=1, zorder=0, label=f"target {target:g}")
        least = _LEAST * max(run.rows[0][y] for run in runs)
        if axes.get_ylim()[0] < least:
            axes.set(ylim=(least, None), ylabel=f"{_NAMES[y]} (cut at {_LEAST:g} of the start)")
        if x == "seconds":
            axes.set_xscale("log")  # a step of one optimizer may cost ten of another
            first, last = axes.get_xlim()
            if last >= 10 * first:
                axes.xaxis.set_minor_formatter(NullFormatter())
    # Two "$" in a name of the data are no formula.
    figure.suptitle(textwrap.fill(title, round(11 * size[0])), parse_math=False)
    named = {}
    for axes in figure.axes:
        named |= dict(zip(*reversed(axes.get_legend_handles_labels())))
    rows = "outside lower center"
    figure.legend(named.values(), named.keys(), loc=rows, ncols=min(len(named), 6), frameon=False)
    figure.savefig(path, dpi=120)


def _line(axes, run: Run, x: str, y: str, one_seed: bool) -> None:
    values = run.column(y)
    there = np.isfinite(values)
    if x == "seconds":  # whose axis has no 0
        there &= run.column(x) > 0
    look = {**LOOKS[run.optimizer], "linewidth": 1.8 if one_seed else 1.0}
    axes.plot(run.column(x)[there], values[there], label=run.optimizer.replace("_", " "), **look)
    if run.kept >= 0 and there[run.kept]:
        axes.plot(run.end[x], run.end[y], "o", color=look["color"], markersize=5)
