"""All charts and the verdict on one page."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from kfisher.diagnosis.measurement import Verdict
from kfisher.plots.of_one_step import layers, overlap, ratio_eigenvalues, spectra
from kfisher.plots.over_steps import cosine, gamma, step_lengths, steps
from kfisher.plots.sources import Source, checked_step, log_of, nearest
from kfisher.plots.style import LOOKS, Picture

_WIDTH, _ROW, _LINE = 10.0, 3.2, 0.19  # inches
# Of verdicts; all others speak against EF.
_COLOURS = {"fine": LOOKS["sampled"]["color"], "unknown": "0.45"}


def overview(source: Source, step: int | None = None) -> Figure:
    """The verdict, and below it all charts of what was logged, two in a row.

    Args:
        source: A log directory, `Log` or `Measurement`.
        step: Of the optimizer, for what is drawn at one step: the nearest measurement and verdict. Defaults
            to the last ones.

    Returns:
        A `matplotlib.figure.Figure`, 10 inches wide.

    Raises:
        FileNotFoundError: If nothing was logged in the directory.
        ValueError: If `source` is none of these, or neither spectra nor steps were logged.

    Example:

    >>> kfisher.plots.overview("runs/yacht").savefig("yacht.png")
    """
    log, step = log_of(source), checked_step(step)
    charts: list[Callable[..., Any]] = []
    if log.measurements:
        charts += [partial(one, log, step) for one in (spectra, ratio_eigenvalues)]
        charts += [partial(one, log) for one in (cosine, step_lengths, gamma)]
        charts += [partial(overlap, log, step), partial(layers, log, step, most=12)]
    if len(log.steps) > 1 or not charts:
        charts.append(partial(steps, log))
    text = _lines(nearest(log.verdicts, step)) if log.verdicts else []
    rows = (len(charts) + 1) // 2
    heights = [_LINE * (len(text) + 1)] * bool(text) + [_ROW] * rows
    figure = Picture(figsize=(_WIDTH, sum(heights) + 0.3), layout="constrained")
    figure.suptitle(log.log_dir, fontsize=11, x=0.01, ha="left", parse_math=False)
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if text:
        ax = parts.pop(0).add_subplot()
        ax.set_axis_off()
        colour = _COLOURS.get(nearest(log.verdicts, step).verdict, LOOKS["empirical"]["color"])
        ax.axvline(0, color=colour, linewidth=8)
        ax.set_xlim(0, 1)
        ax.text(0.012, 0.97, "\n".join(text), va="top", fontsize=9, linespacing=1.35)
    cells = [cell for part in parts for cell in part.subfigures(1, 2)]
    for chart, cell in zip(charts, cells):
        chart(ax=cell.add_subplot())
    return figure


def _lines(verdict: Verdict) -> list[str]:
    paragraphs = [f"Step {verdict.step}: {verdict.verdict}. {verdict.sentence}"]
    paragraphs += [f"{finding.name} ({finding.level}): {finding.text}" for finding in verdict.findings]
    paragraphs += verdict.notes
    return [line for text in paragraphs for line in textwrap.wrap(text, 125, subsequent_indent="    ")]
