"""The figures, in the layout of the published ones."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from kfisher.plots.style import Picture
from kfisher_scripts.common.looks import LOOKS
from kfisher_scripts.reproduction.capacity import Capacity
from kfisher_scripts.reproduction.grid import Objective
from kfisher_scripts.reproduction.joint import Convergence
from kfisher_scripts.reproduction.misspecification import AtMinimum, kind_of
from kfisher_scripts.reproduction.models import double_precision, linear_model
from kfisher_scripts.reproduction.optimization import METHODS, Result
from kfisher_scripts.reproduction.vectorfield import LIMITS, STARTS, Field

_OPTIMIZERS = {"GD": "sgd", "NGD": "natural_gradient", "EF": "empirical_fisher"}
COLOURS = {method: LOOKS[name]["color"] for method, name in _OPTIMIZERS.items()}
STYLES = {method: LOOKS[name]["linestyle"] for method, name in _OPTIMIZERS.items()}
_CLASSES = ("#56B4E9", "#CC79A7")
_TITLES = {
    "logistic, correct": "correct",
    "logistic A": "misspecified (A)",
    "logistic B": "misspecified (B)",
    "linear, correct": "correct",
    "linear, noise": "noise misspecified",
    "linear, missing x²": "model misspecified",
}
_WIDTH = 10.0
# Of the small pictures in the README.
_PIXELS = 900


def save(figure: Figure, out: Path, name: str, pictures: Path | None = None) -> Path:
    """PNG and PDF in `out`, and a small PNG in `pictures` if given; returns the PNG."""
    out.mkdir(parents=True, exist_ok=True)
    png = out / f"{name}.png"
    figure.savefig(png, dpi=150)
    figure.savefig(out / f"{name}.pdf")
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        small = pictures / f"{name}.png"
        figure.savefig(small, dpi=_PIXELS / figure.get_figwidth())
        # A third of the size, and no difference that one sees.
        Image.open(small).convert("RGB").quantize(192).save(small, optimize=True)
    return png


def vectorfield(field: Field) -> Figure:
    """The data, and the field of each method over (b, θ) with its four trajectories."""
    figure = Picture(figsize=(_WIDTH, 2.9), layout="constrained")
    data, *fields = figure.subplots(1, 4)
    data.plot(field.x, field.y, ".", markersize=3, alpha=0.35, color=_CLASSES[0], rasterized=True)
    line = np.array([0.0, 9.5])
    data.plot(line, field.minimum[0] + field.minimum[1] * line, "k--", linewidth=1.5, label="least squares")
    data.set(xlim=(-0.5, 10), ylim=(-2, 22), xlabel="x", ylabel="y", title="data: y = b + θx")
    data.legend(frameon=False, loc="lower right")
    axis, losses = field.contour
    levels = np.quantile(losses, (0.03, 0.15, 0.35, 0.6, 0.85))
    for axes, method in zip(fields, METHODS):
        axes.contour(axis, axis, losses, levels, colors="0.75", linewidths=0.8)
        # Lengths are those of each field, on a scale of its own.
        arrows = field.arrows[method]
        scale = 12 * np.quantile(np.linalg.norm(arrows, axis=-1), 0.9)
        axes.quiver(
            *field.points.T, *arrows.T, angles="xy", scale=scale, width=0.006, color="0.45", headwidth=4
        )
        for path in np.moveaxis(field.paths[method], 1, 0):
            axes.plot(*path.T, color=COLOURS[method], linewidth=2.5)
        axes.plot(*STARTS.T, "ko", markersize=5)
        axes.plot(*field.minimum, "k*", markersize=11)
        axes.set(xlim=LIMITS, ylim=LIMITS, xticks=LIMITS, yticks=LIMITS, title=method, aspect="equal")
        axes.set_xlabel("b", labelpad=-8)
        axes.set_ylabel("θ", labelpad=-8)
    return figure


def misspecification(found: list[AtMinimum]) -> Figure:
    """Above the data sets; below the loss, and the quadratic approximations by F and by EF."""
    figure = Picture(figsize=(_WIDTH, 5.6), layout="constrained")
    rows = figure.subplots(2, 3)
    for axes, below, one in zip(*rows, found):
        axes.set_title(_TITLES[one.name])
        _data(axes, one)
        _ellipses(below, one)
    rows[0, 0].set_ylabel("data")
    rows[1, 0].set_ylabel("quadratic\napproximations")
    handles, labels = rows[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _data(axes: Axes, one: AtMinimum) -> None:
    if kind_of(one.name) == "logistic":
        for label, marker in ((0, "^"), (1, "x")):
            points = one.x[one.y == label].T
            axes.plot(*points, marker, markersize=3, alpha=0.5, color=_CLASSES[label], rasterized=True)
        axes.set(xlim=(-9, 9), ylim=(-9, 9), aspect="equal", xticks=[], yticks=[])
        return
    axes.plot(one.x[:, 0], one.y, "x", markersize=3, alpha=0.5, color=_CLASSES[1], rasterized=True)
    line = np.array([-4.0, 4.0])
    axes.plot(line, one.theta[0] * line + one.theta[1], color="k", linewidth=1.5)
    axes.set(xlim=(-4, 4), ylim=(-6, 12), xticks=[], yticks=[])


def _ellipses(axes: Axes, one: AtMinimum) -> None:
    """(θ - θ*)ᵀ M (θ - θ*) = 9 / N for M = F and M = EF."""
    circle = np.stack([np.cos(t := np.linspace(0, 2 * np.pi, 200)), np.sin(t)])
    reach = 0.0
    looks = ((one.f, "NGD", "-", "Fisher"), (one.ef, "EF", "--", "empirical Fisher"))
    for matrix, method, style, label in looks:
        values, vectors = np.linalg.eigh(matrix)
        ellipse = vectors @ (circle / np.sqrt(values)[:, np.newaxis]) * 3 / np.sqrt(len(one.x))
        reach = max(reach, 1.25 * np.abs(ellipse).max())
        axes.plot(
            *(one.theta[:, np.newaxis] + ellipse), style, color=COLOURS[method], linewidth=3, label=label
        )
    axes.plot(*one.theta, "k*", markersize=9, label="minimum")
    kind = kind_of(one.name)
    with double_precision():
        objective = Objective(linear_model(one.x.shape[1], kind, use_bias=kind == "linear"), one.x, one.y)
    side = np.linspace(-reach, reach, 61)
    theta = one.theta + np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    losses = objective.loss(objective.outputs(theta)).numpy().reshape(61, 61)
    a, b = one.theta[0] + side, one.theta[1] + side
    # Where a quadratic with the curvature of the loss would be 1, 4, 9, ... times 1 / 2N above the minimum.
    levels = losses.min() + np.arange(1, 6) ** 2 / (2 * len(one.x))
    axes.contour(a, b, losses, levels, colors="0.65", linewidths=1, zorder=0)
    axes.plot([], [], color="0.65", linewidth=1, label="contours of the loss")
    axes.set(xlim=(a[0], a[-1]), ylim=(b[0], b[-1]), aspect="equal", xticks=[], yticks=[])


def optimization(results: list[Result], note: str = "") -> Figure:
    """Above the loss of each method; below the cosine of EF and NGD directions along EF's path."""
    size = _WIDTH if len(results) > 1 else 6.0, 4.6 if note else 4.0
    figure = Picture(figsize=size, layout="constrained")
    rows = figure.subplots(2, len(results), height_ratios=(2, 1), squeeze=False, sharex="col")
    for above, below, result in zip(*rows, results):
        for method in METHODS:
            look = {"color": COLOURS[method], "linestyle": STYLES[method], "label": method}
            above.plot(result.losses[method], linewidth=2.5, **look)
        above.set(yscale="log", title=result.name)
        start = result.losses["GD"][0]
        above.set_ylim(top=2 * start)
        below.plot(result.cosine, ".", color=COLOURS["EF"])
        below.axhline(0, color="0.8", linewidth=1, zorder=0)
        last = 50 if result.name == "a1a" else 100  # as in the published figure
        below.set(ylim=(-1.1, 1.1), yticks=(-1, 0, 1), xlim=(0, last), xlabel="iteration")
    rows[0, 0].set_ylabel("training loss")
    rows[1, 0].set_ylabel("cosine of\nEF and NGD")
    for axes in rows.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", axis="y")
    handles, labels = rows[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    if note:
        columns = round(17 * figure.get_figwidth())
        figure.supxlabel(textwrap.fill(note, columns), fontsize=7, x=0.02, ha="left", color="0.3")
    return figure


def convergence(found: Convergence) -> Figure:
    figure = Picture(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    curves = (
        (found.conditional, "Fisher of the conditional", "NGD", "o"),
        (found.right, "EF, labels of the model", "EF", "s"),
        (found.wrong, "EF, labels of another process", "EF", "^"),
    )
    for values, label, look, marker in curves:
        drawn = {"color": COLOURS[look], "linestyle": "--" if marker == "s" else "-", "marker": marker}
        axes.plot(found.sizes, values, label=label, **drawn)
    axes.set(
        xscale="log", yscale="log", xlabel="N", ylabel="distance from the Fisher\nof the joint, relative"
    )
    _finish(axes)
    return figure


def capacity(found: Capacity) -> Figure:
    figure = Picture(figsize=(8.0, 3.6), layout="constrained")
    misfit, distance = figure.subplots(1, 2)
    shades = np.linspace(0.15, 0.85, len(found.sizes))
    for j, (size, shade) in enumerate(zip(found.sizes, shades)):
        look = {"color": colormaps["viridis"](shade), "marker": "osD^vP"[j % 6], "label": f"N = {size}"}
        misfit.plot(found.widths, found.misfit[:, j], **look)
        distance.plot(found.widths, found.distance[:, j], **look)
    misfit.set_ylabel("misfit: KL from the truth, nats")
    distance.set_ylabel("||EF − F|| / ||F||")
    for axes in (misfit, distance):
        axes.set(xscale="log", yscale="log", xlabel="hidden units", xticks=found.widths)
        axes.set_xticklabels([str(w) for w in found.widths])
        axes.minorticks_off()
        _finish(axes)
    return figure


def _finish(axes: Axes) -> None:
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
