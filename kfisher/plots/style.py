"""Looks of the charts: each kind in one colour, dash and marker throughout."""

from __future__ import annotations

import io
import math
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kfisher._common.checks import instance
from kfisher.logs import schema

# The words of the table in those of matplotlib.
_DASHES = {"solid": "-", "dash": "--", "dashdot": "-.", "dot": (0, (1, 1)), "longdash": (0, (8, 3))}
_MARKERS = {"circle": "o", "square": "s", "triangle-up": "^", "diamond": "D", "star": "*"}
LOOKS: dict[str, dict[str, Any]] = {
    kind: {
        "color": one.colour,
        "linestyle": _DASHES[one.dash],
        "marker": _MARKERS[one.symbol],
        "label": one.label,
    }
    for kind, one in schema.LOOKS.items()
}
LOOKS["sampled"]["markerfacecolor"] = "none"  # what lies below, often F itself, stays visible
REFERENCE: dict[str, Any] = {"color": "0.6", "linewidth": 1, "linestyle": "--", "zorder": 1}


class Picture(Figure):
    """A figure that no backend and no `pyplot` knows of; as the last line of a cell a notebook shows it."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


class Chart(Axes):
    """The axes of a figure of their own, which a notebook shows."""

    def _repr_png_(self) -> bytes | None:
        return self.figure._repr_png_() if isinstance(self.figure, Picture) else None


def look(kind: str, count: int) -> dict[str, Any]:
    """Arguments of `Axes.plot` for a line of `count` points: some twelve of them have a marker."""
    return {**LOOKS[kind], "linewidth": 1.6, "markersize": 4.5, "markevery": max(1, count // 12)}


def new_axes(ax: Axes | None, height: float = 4.2) -> Axes:
    """`ax`, or those of a new `Picture`; `height` in inches."""
    if ax is not None:
        return instance("ax", ax, Axes, "matplotlib's Axes, or None")
    return Picture(figsize=(6.4, height), dpi=140, layout="constrained").add_subplot(axes_class=Chart)


def finish(ax: Axes, title: str, xlabel: str, ylabel: str) -> Axes:
    """Title and labels, and the legend in a row between title and chart, where it covers no data."""
    ax.set_xlabel(xlabel, fontsize=9)
    ax.set_ylabel(ylabel, fontsize=9)
    ax.tick_params(which="both", labelsize=8)
    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(FuncFormatter(partial(_minor_label, axis)))
    ax.grid(color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    handles, labels = ax.get_legend_handles_labels()
    unique = dict(zip(labels, handles))
    legend_rows = math.ceil(len(unique) / 4)
    ax.set_title(title, fontsize=10, loc="left", pad=6 + 14 * legend_rows)
    if unique:
        ax.legend(
            unique.values(),
            unique.keys(),
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=min(4, len(unique)),
            frameon=False,
            fontsize=8,
            borderaxespad=0.2,
            handlelength=2.4,
            columnspacing=1.0,
        )
    return ax


def count_on_x(ax: Axes) -> None:
    """Ticks of the x axis at integers."""
    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def _minor_label(axis: Axis, value: float, _: int) -> str:
    """Labels between the powers of ten where few of these are in sight."""
    low, high = sorted(axis.get_view_interval())
    digits = "" if high > 50 * low else "25" if high > 5 * low else "123456789"
    return f"{value:g}" if f"{value:e}"[0] in digits else ""
