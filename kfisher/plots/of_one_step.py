"""Charts of one measurement: the matrices beside each other at one step."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from kfisher import fisher as fishers
from kfisher._common.checks import positive_integer
from kfisher.logs.schema import KINDS
from kfisher.operator import FisherOperator
from kfisher.plots.sources import Source, checked_step, measurements_of, nearest
from kfisher.plots.style import LOOKS, REFERENCE, finish, look, new_axes
from kfisher.spectra import eigenvalues


def spectra(source: Source | FisherOperator, step: int | None = None, ax: Axes | None = None) -> Axes:
    """Eigenvalues of F, sampled F and EF over their rank, both axes logarithmic.

    The band about the sampled ones is one standard error over draws of labels to either side. The broken
    line is the damping: below it, directions are hardly told apart from flat ones.

    Args:
        source: A log directory, `Log`, `Measurement`, or `FisherOperator`: of the latter, the non-zero
            eigenvalues are computed. Two operators go into one chart by passing the `ax` of the first.
        step: Of the optimizer; the measurement nearest to it is drawn. Defaults to the last one.
        ax: To draw into. Defaults to those of a new figure.

    Returns:
        The axes.

    Raises:
        FileNotFoundError: If nothing was logged in the directory.
        ValueError: If `source` is none of these, or no spectra were logged.

    Example:

    >>> kfisher.plots.spectra("runs/yacht").figure.savefig("spectra.png")
    >>> ax = kfisher.plots.spectra(F)
    >>> kfisher.plots.spectra(EF, ax=ax)
    """
    if isinstance(source, FisherOperator):
        checked_step(step)
        return _operator(source, new_axes(ax))
    measurement = nearest(measurements_of(source), step)
    ax = new_axes(ax)
    positive = [v for s in measurement.spectra.values() for v in s.eigenvalues if v > 0]
    for kind, spectrum in measurement.spectra.items():
        values = np.array(spectrum.eigenvalues)
        error = np.array(spectrum.error.get("eigenvalues", []))
        ranks = np.arange(1, len(values) + 1)
        how = look(kind, len(values))
        how["markevery"] = _spread_on_log_axis(len(values))
        ax.loglog(ranks, values, **how)
        if len(error):
            low = np.maximum(values - error, min(positive, default=0.0))
            ax.fill_between(ranks, low, values + error, color=how["color"], alpha=0.2, linewidth=0)
    ax.axhline(measurement.damping, **REFERENCE, label="damping λ")
    partly = [LOOKS[kind]["label"] for kind, spectrum in measurement.spectra.items() if not spectrum.complete]
    return finish(
        ax,
        f"Eigenvalues at step {measurement.step}, {measurement.examples} examples",
        "rank of the eigenvalue" + (f" ({', '.join(partly)}: the leading ones)" if partly else ""),
        "eigenvalue (units of the loss)",
    )


def _operator(operator: FisherOperator, ax: Axes) -> Axes:
    values = eigenvalues(operator)
    kind = type(fishers.get(operator.parameters["fisher"])).__name__.lower()
    how = look(kind, len(values)) | {"markevery": _spread_on_log_axis(len(values))}
    ax.loglog(np.arange(1, len(values) + 1), values, **how)
    return finish(ax, "Eigenvalues", "rank of the eigenvalue", "eigenvalue (units of the loss)")


def _spread_on_log_axis(count: int) -> list[int]:
    return [int(i) - 1 for i in np.unique(np.rint(np.geomspace(1, count, 12)))] if count else []


def ratio_eigenvalues(source: Source, step: int | None = None, ax: Axes | None = None) -> Axes:
    """Eigenvalues of (F + λI)⁻¹(EF + λI) over the curvature vᵀFv of each eigenvector v; 1 where EF = F.

    Those in the span of the directions in which F rises above λ: in all others λ decides. Beside them the
    same for one draw of labels from the model in place of those of the data: how far they spread if the model
    is right.

    Args:
        source: A log directory, `Log` or `Measurement`.
        step: Of the optimizer; the measurement nearest to it is drawn. Defaults to the last one.
        ax: To draw into. Defaults to those of a new figure.

    Returns:
        The axes.

    Raises:
        FileNotFoundError: If nothing was logged in the directory.
        ValueError: If `source` is none of these, or no spectra were logged.

    Example:

    >>> kfisher.plots.ratio_eigenvalues("runs/yacht", step=100)
    """
    measurement = nearest(measurements_of(source), step)
    ax = new_axes(ax)
    names = {"sampled": "labels of the model", "empirical": "EF: labels of the data"}
    for kind, found in measurement.curved.items():
        how = look(kind, 1) | {"label": names[kind], "linestyle": "none"}
        ax.loglog(found["curvature"], found["ratio"], **how)
    ax.axhline(1.0, **REFERENCE, label="EF = F")
    return finish(
        ax,
        f"Eigenvalues of (F + λI)⁻¹(EF + λI) at step {measurement.step}",
        "curvature vᵀFv (units of the loss)",
        "eigenvalue",
    )


def overlap(source: Source, step: int | None = None, ax: Axes | None = None) -> Axes:
    """Overlap of the k leading eigenvectors of F with those of EF and of sampled F, over k.

    1 for the same space; the broken line, k / P, is what unrelated spaces have.

    Args:
        source: A log directory, `Log` or `Measurement`.
        step: Of the optimizer; the measurement nearest to it is drawn. Defaults to the last one.
        ax: To draw into. Defaults to those of a new figure.

    Returns:
        The axes.

    Raises:
        FileNotFoundError: If nothing was logged in the directory.
        ValueError: If `source` is none of these, or no spectra were logged.

    Example:

    >>> kfisher.plots.overlap("runs/yacht")
    """
    measurement = nearest(measurements_of(source), step)
    ax = new_axes(ax)
    sizes = np.array(measurement.overlap_sizes)
    for kind, values in measurement.overlap.items():
        ax.plot(sizes, values, **look(kind, len(values)))
    ax.plot(sizes, sizes / measurement.parameters, **REFERENCE, label="unrelated")
    ax.set_xscale("log")
    ax.set_xticks(sizes)
    ax.set_xticks([], minor=True)
    ax.set_ylim(-0.03, 1.03)
    return finish(
        ax,
        f"Overlap with the leading eigenvectors of F at step {measurement.step}",
        "eigenvectors k",
        "overlap (1 = same space)",
    )


def layers(source: Source, step: int | None = None, most: int | None = 20, ax: Axes | None = None) -> Axes:
    """Trace of F, sampled F and EF in each layer, in the order of the model, with its number of parameters.

    Args:
        source: A log directory, `Log` or `Measurement`.
        step: Of the optimizer; the measurement nearest to it is drawn. Defaults to the last one.
        most: Positive integer; of more layers, those with the largest traces of F are drawn. `None` for all.
            Defaults to `20`.
        ax: To draw into. Defaults to those of a new figure.

    Returns:
        The axes.

    Raises:
        FileNotFoundError: If nothing was logged in the directory.
        ValueError: If `source` is none of these, or no spectra were logged.

    Example:

    >>> kfisher.plots.layers("runs/yacht", most=None)
    """
    if most is not None:
        most = positive_integer("most", most, "a positive integer, or None")
    measurement = nearest(measurements_of(source), step)
    found, where = measurement.layers, "each layer"
    if most is not None and len(found) > most:
        where = f"{most} of {len(found)} layers"
        least = sorted((layer["exact"] for layer in found), reverse=True)[most - 1]
        found = [layer for layer in found if layer["exact"] >= least][:most]
    ax = new_axes(ax, height=max(4.2, 1.2 + 0.22 * len(found)))
    rows = np.arange(len(found))
    for kind in KINDS:
        how = look(kind, 1) | {"linestyle": "none", "markersize": 6, "alpha": 0.85}
        ax.semilogx([layer[kind] for layer in found], rows, **how)
    ax.set_yticks(rows, [f"{_short(layer['name'])} ({layer['parameters']})" for layer in found])
    ax.set_ylim(len(found) - 0.5, -0.5)
    return finish(
        ax,
        f"Trace in {where} at step {measurement.step}",
        "trace (units of the loss)",
        "layer (parameters)",
    )


def _short(name: str) -> str:
    return name if len(name) <= 24 else "…" + name[-23:]
