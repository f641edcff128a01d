"""Charts over the steps of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kfisher._common.checks import wrong
from kfisher.diagnosis.measurement import Measurement
from kfisher.logs import schema
from kfisher.logs.reader import Log
from kfisher.logs.schema import KINDS
from kfisher.plots.sources import Source, log_of, measurements_of
from kfisher.plots.style import LOOKS, REFERENCE, count_on_x, finish, look, new_axes

NORMS = (schema.GRADIENT_NORM, schema.UPDATE_NORM, schema.WEIGHT_NORM, schema.DISTANCE)
# A quantity looks the same in every chart; none has the colour of a Fisher.
_LOOKS = {
    schema.LOSS: ("#CC6677", "*"),
    schema.GRADIENT_NORM: ("0.45", "D"),
    schema.UPDATE_NORM: ("#000000", "o"),
    schema.WEIGHT_NORM: ("#CC79A7", "v"),
    schema.DISTANCE: ("#56B4E9", "s"),
    schema.COSINE: ("#E69F00", "P"),
    schema.LEARNING_RATE: ("#882255", "^"),
    schema.RATE_IN_USE: ("#DDCC77", "1"),
    schema.MOMENTUM_IN_USE: ("#117733", "2"),
    schema.DAMPING: ("#999933", "X"),
    schema.UPDATE_TO_GRADIENT: ("#332288", "<"),
    schema.KL: ("#AA4499", ">"),
    schema.SKIPPED_STEPS: ("#661100", "p"),
    schema.RADIUS: ("#6699CC", "h"),
    schema.REJECTED_STEPS: ("#44AA99", "d"),
}
_OTHERS = list(_LOOKS.values())


def cosine(source: Source, ax: Axes | None = None) -> Axes:
    """Cosine between the step of EF, and of sampled F, and the natural-gradient step; error bars where known.

    Below 0 the step leads away from where natural gradient goes.

    Args:
        source: A log directory, `Log` or `Measurement`.
        ax: To draw into. Defaults to those of a new figure.

    Returns:
        The axes; `set_xscale("log")` suits measurements on a logarithmic schedule.

    Raises:
        FileNotFoundError: If nothing was logged in the directory.
        ValueError: If `source` is none of these, or no spectra were logged.

    Example:

    >>> kfisher.plots.cosine("runs/yacht")
    """
    measurements, ax = measurements_of(source), new_axes(ax)
    _by_kind(ax, measurements, schema.COSINE)
    ax.axhline(0.0, **REFERENCE)
    ax.axhspan(-1.05, 0, color=LOOKS["empirical"]["color"], alpha=0.06, linewidth=0)
    ax.set_ylim(-1.05, 1.05)
    return finish(ax, "Cosine with the natural-gradient step", "optimizer step", "1 = same direction")


def gamma(source: Source, ax: Axes | None = None) -> Axes:
    """γ = √(dᵀFd) / |dᵀ∇L| of each direction d, relative to that of the gradient; the lower the better.

    Args:
        source: A log directory, `Log` or `Measurement`.
        ax: To draw into. Defaults to those of a new figure.

    Returns:
        The axes.

    Raises:
        FileNotFoundError: If nothing was logged in the directory.
        ValueError: If `source` is none of these, or no spectra were logged.

    Example:

    >>> kfisher.plots.gamma("runs/yacht")
    """
    measurements, ax = measurements_of(source), new_axes(ax)
    ax.set_yscale("log")
    _by_kind(ax, measurements, schema.GAMMA)
    ax.axhline(1.0, **REFERENCE, label="gradient")
    return finish(ax, "γ of each direction (lower is better)", "optimizer step", "γ ÷ γ of the gradient")


def step_lengths(source: Source, ax: Axes | None = None) -> Axes:
    """‖(M + λI)⁻¹∇L‖ for F, sampled F and EF as M, and ‖∇L‖: the step lengths before the learning rate.

    EF inverts lengths where its line rises while that of the gradient falls.

    Args:
        source: A log directory, `Log` or `Measurement`.
        ax: To draw into. Defaults to those of a new figure.

    Returns:
        The axes.

    Raises:
        FileNotFoundError: If nothing was logged in the directory.
        ValueError: If `source` is none of these, or no spectra were logged.

    Example:

    >>> kfisher.plots.step_lengths("runs/yacht")
    """
    measurements, ax = measurements_of(source), new_axes(ax)
    ax.set_yscale("log")
    _by_kind(ax, measurements, schema.STEP_NORM)
    norms = [m.gradient_norm for m in measurements]
    ax.plot([m.step for m in measurements], norms, **look("gradient", len(norms)))
    return finish(ax, "Length of each step, and of the gradient", "optimizer step", "Euclidean norm")


def steps(source: Log | Source, names: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Numbers of each optimizer step; on a logarithmic axis where all of them are positive.

    Args:
        source: A log directory or `Log`.
        names: Columns of `Log.steps`. Defaults to those of "gradient_norm", "update_norm", "weight_norm" and
            "distance" that were logged.
        ax: To draw into. Defaults to those of a new figure.

    Returns:
        The axes.

    Raises:
        FileNotFoundError: If nothing was logged in the directory.
        ValueError: If no steps were logged, or none of them has one of the `names`.

    Example:

    >>> kfisher.plots.steps("runs/yacht", ["cosine"])
    """
    if names is not None and (isinstance(names, str) or not _strings(names)):
        raise wrong("names", "a list of names of columns, or None", names)
    log = log_of(source)
    table = {name: column for name, column in log.steps.items() if name != "step"}
    if not table:
        raise ValueError(
            "There are no step statistics in this log. Pass `kfisher.callbacks.StepStatistics` or "
            f"`kfisher.callbacks.TensorBoard` to `fit`. Received: source={log!r}"
        )
    chosen = list(table if names is None else names)
    if names is None and set(NORMS) & set(table):
        chosen = [name for name in NORMS if name in table]
    if unknown := set(chosen) - set(table):
        raise ValueError(
            f"{', '.join(sorted(unknown))} was not logged. Choose from {', '.join(table)}. "
            f"Received: names={names!r}"
        )
    ax = new_axes(ax)
    count, norms = len(log.steps["step"]), set(chosen) <= set(NORMS)
    for i, name in enumerate(chosen):
        colour, marker = _LOOKS.get(name, _OTHERS[i % len(_OTHERS)])
        ax.plot(
            log.steps["step"],
            table[name],
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=1 if count < 500 else 0.6,
            label=(name.removesuffix("_norm") if norms else name).replace("_", " "),
            markevery=(i * count // 40, max(1, count // 10)),
        )
    if all(np.nanmin(table[name], initial=np.inf) > 0 for name in chosen):
        ax.set_yscale("log")
    count_on_x(ax)
    title, unit = ("Norms at each step", "Euclidean norm") if norms else ("At each step", "")
    return finish(ax, title, "optimizer step", unit)


def _strings(names: Any) -> bool:
    return isinstance(names, Sequence) and len(names) > 0 and all(isinstance(name, str) for name in names)


def _by_kind(ax: Axes, measurements: list[Measurement], name: str) -> None:
    """One line for each kind in `getattr(measurement, name)`, with an error bar at each sampled one."""
    at = [m.step for m in measurements]
    for kind in (kind for kind in (*KINDS, "taken") if any(kind in getattr(m, name) for m in measurements)):
        values = [getattr(m, name).get(kind, np.nan) for m in measurements]
        how = look(kind, len(values))
        ax.plot(at, values, **how)
        errors = [m.error.get(name, np.nan) for m in measurements]
        if kind == "sampled" and not np.all(np.isnan(errors)):
            ax.errorbar(at, values, errors, fmt="none", ecolor=how["color"], elinewidth=1)
    count_on_x(ax)
