"""Experiment C: GD, NGD and EF on real data, each at the best of a grid of hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import kfisher
from kfisher import datasets
from kfisher_scripts.common.directions import directions
from kfisher_scripts.reproduction import published
from kfisher_scripts.reproduction.grid import Objective
from kfisher_scripts.reproduction.models import (
    KINDS,
    Kinds,
    double_precision,
    linear_model,
    optimizer_of,
    train,
)
from kfisher_scripts.reproduction.search import STEPS, Found, coarse_grid, published_grid, search

METHODS = ("GD", "NGD", "EF")


@dataclass(frozen=True)
class Problem:
    """Attributes: name: As in the paper. kind: `"linear"` or `"logistic"`. load: Makes (x, y)."""

    name: str
    kind: str
    load: Callable[[], tuple[np.ndarray, np.ndarray]]


BOSTON = "Boston"
PROBLEMS = {
    p.name: p
    for p in (
        Problem("BreastCancer", "logistic", datasets.breast_cancer),
        Problem("Wine", "linear", datasets.wine),
        Problem("a1a", "logistic", datasets.a1a),
        Problem(BOSTON, "linear", datasets.boston_with_caveat),
        Problem("Energy", "linear", datasets.energy),
        Problem("Powerplant", "linear", datasets.powerplant),
        Problem("Yacht", "linear", datasets.yacht),
    )
}
MAIN = ("BreastCancer", "Wine", "a1a", BOSTON)
APPENDIX = ("Energy", "Powerplant", "Yacht")


@dataclass
class Result:
    """What is found on one problem.

    Attributes:
        found: The grid of each method.
        chosen: log10 of the (step size, damping) of its curve: the published best cell where that is a
            best one here, up to rounding, else the first best one.
        losses: Of kfisher's optimizer with these, before each step and after the last.
        cosine, ratio: Along EF's own path, of the damped directions of EF and NGD: their cosine, and the
            length of EF's over that of NGD's. Both are damped by EF's best damping.
        gradient: The norm of the gradient on that path.
    """

    name: str
    found: dict[str, Found] = field(default_factory=dict)
    chosen: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    losses: dict[str, np.ndarray] = field(default_factory=dict)
    cosine: np.ndarray = field(default_factory=lambda: np.array([]))
    ratio: np.ndarray = field(default_factory=lambda: np.array([]))
    gradient: np.ndarray = field(default_factory=lambda: np.array([]))


def run(name: str, quick: bool, checkpoints: Path, kinds: Kinds = KINDS) -> Result:
    """The grid search, then the curves by kfisher's optimizers through `compile` and `fit`."""
    if name not in PROBLEMS:
        raise ValueError(f"`name` must be one of {list(PROBLEMS)}. Received: name={name!r}")
    problem, best = PROBLEMS[name], published.BEST_CELLS[name]
    x, y = problem.load()
    other = published.OTHER_SIGN.get(name, {})
    grid = coarse_grid((*best.values(), *other.values())) if quick else published_grid()
    result = Result(name)
    with double_precision():
        objective = Objective(linear_model(x.shape[1], problem.kind), x, y)
        for method in METHODS:
            file = checkpoints / f"{name}-{method}{'-quick' if quick else ''}.npz"
            found = search(objective, method, grid, file, f"{name}, {method}", kinds)
            rate, damping = found.best
            chosen = (rate, None if method == "GD" else damping)
            result.found[method] = found
            result.chosen[method] = best[method] if found.ties(*best[method]) else chosen
        for method in METHODS:
            result.losses[method], probe = curve(problem, x, y, method, result.chosen[method], kinds)
            if method == "EF":
                result.cosine, result.ratio, result.gradient = probe
    return result


def curve(problem: Problem, x, y, method: str, cell: tuple[float, float | None], kinds: Kinds = KINDS):
    """The losses of one run of a kfisher optimizer, and for EF what `Directions` finds along its path."""
    rate, damping = 10.0 ** cell[0], None if cell[1] is None else 10.0 ** cell[1]
    model = linear_model(x.shape[1], problem.kind, optimizer_of(method, rate, damping, kinds))
    probes = [Directions(x, y, damping, kinds)] if method == "EF" else []
    losses = train(model, x, y, STEPS, probes)
    return losses, (probes[0].result() if probes else None)


class Directions(keras.callbacks.Callback):
    """Before every step, and after the last, what `directions` finds."""

    def __init__(self, x: np.ndarray, y: np.ndarray, damping: float, kinds: Kinds):
        super().__init__()
        self._x, self._y = tf.constant(x), tf.constant(y[:, np.newaxis])
        self._damping, self._kinds = tf.constant(damping, tf.float64), kinds
        self._curvature = kfisher.curvature.Dense()
        self._rows: list[np.ndarray] = []

    def on_train_batch_begin(self, batch, logs=None):
        self._rows.append(self._measure().numpy())

    def on_train_end(self, logs=None):
        self._rows.append(self._measure().numpy())

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cosines, lengths of EF's over those of NGD's, and norms of the gradient."""
        cosine, ratio, norm = np.array(self._rows).T
        return cosine, ratio, norm

    @tf.function(autograph=False)
    def _measure(self):
        return tf.stack(directions(self.model, self._x, self._y, self._curvature, self._damping, self._kinds))
