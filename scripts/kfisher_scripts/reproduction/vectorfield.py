"""Experiment A: vector fields and trajectories of GD, NGD and EF on a regression with two parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from kfisher_scripts.reproduction.grid import Descent, Objective
from kfisher_scripts.reproduction.models import KINDS, Kinds, double_precision, linear_model

# gamma of the flow θ' = -gamma (F + damping I)⁻¹ ∇L of each method, and Euler's step.
GAMMAS = {"GD": 1 / 3, "NGD": 1.0, "EF": 3.0}
DAMPING = 1e-8
TIME = 50.0
# (b, θ)
STARTS = np.array([(2, 4.5), (1, 0), (4.5, 3), (-0.5, 3)])
LIMITS = (-1.0, 5.0)
_ARROWS = 15


@dataclass
class Field:
    """Fields and paths; points and arrows are (b, θ) in the last axis.

    Attributes:
        x, y: The data.
        minimum: The minimum, by least squares.
        points: Where the arrows start, `(A, 2)`.
        arrows: For each method, `(A, 2)`.
        paths: For each method, from the four starts, `(steps + 1, 4, 2)`.
        step: Euler's step.
        contour: L on a square of values of b and θ.
    """

    x: np.ndarray
    y: np.ndarray
    minimum: np.ndarray
    points: np.ndarray
    arrows: dict[str, np.ndarray]
    paths: dict[str, np.ndarray]
    step: float
    contour: tuple[np.ndarray, np.ndarray]

    def misses(self, method: str) -> np.ndarray:
        """Distance from the minimum at the end of each path."""
        return np.linalg.norm(self.paths[method][-1] - self.minimum, axis=-1)

    def half_life(self, method: str) -> np.ndarray:
        """The time after which each path has come half the way to the minimum; infinite if it never has."""
        away = np.linalg.norm(self.paths[method] - self.minimum, axis=-1)
        there = away <= away[0] / 2
        return np.where(there.any(0), np.argmax(there, axis=0) * self.step, np.inf)

    def turn(self, method: str) -> np.ndarray:
        """The largest angle in degrees, along each path, between its direction and that to the minimum."""
        path, moved = self.paths[method][:-1], np.diff(self.paths[method], axis=0)
        to_go = self.minimum - path
        far = np.linalg.norm(to_go, axis=-1) > 0.05
        lengths = np.linalg.norm(moved, axis=-1) * np.linalg.norm(to_go, axis=-1)
        cosine = np.clip((moved * to_go).sum(-1) / np.maximum(lengths, 1e-300), -1, 1)
        return np.degrees(np.arccos(np.where(far, cosine, 1))).max(0)


def data() -> tuple[np.ndarray, np.ndarray]:
    """x ~ LogNormal(0, 0.75), y = 2 + 2 x + Normal(0, 1), N = 1000; NumPy's legacy generator, seed 0."""
    rng = np.random.RandomState(0)
    x = rng.lognormal(0, 0.75, (1000, 1))
    return x, (2 + 2 * x + rng.randn(1000, 1))[:, 0]


def run(quick: bool, kinds: Kinds = KINDS) -> Field:
    """All three fields. Euler's step is 0.001, and ten times that if `quick`."""
    x, y = data()
    step = 0.01 if quick else 0.001
    axis = np.linspace(*LIMITS, _ARROWS)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    arrows, paths = {}, {}
    with double_precision():
        objective = Objective(linear_model(1, "linear"), x, y)
        methods = tqdm(GAMMAS.items(), desc=f"{'vector field':<24}", unit="method", dynamic_ncols=True)
        for method, gamma in methods:
            fisher = {"GD": None, "NGD": kinds.ngd, "EF": kinds.ef}[method]
            arrows[method] = _paths(objective, fisher, points, gamma, 1)[1] - points
            paths[method] = _paths(objective, fisher, STARTS, gamma * step, round(TIME / step))
        axis = np.linspace(*LIMITS, 61)
        theta = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        losses = objective.loss(objective.outputs(theta[:, ::-1])).numpy().reshape(61, 61)
    minimum = np.linalg.lstsq(np.column_stack([np.ones(len(x)), x]), y, rcond=None)[0]
    return Field(x[:, 0], y, minimum, points, arrows, paths, step, (axis, losses))


def _paths(objective: Objective, fisher: str | None, starts: np.ndarray, rate: float, steps: int):
    """(b, θ) along the way, `(steps + 1, B, 2)`; the parameters of the model are (θ, b)."""
    count = len(starts)
    descent = Descent(objective, fisher, cells=count, limit=1e12)
    paths = descent.paths(np.full(count, rate), np.full(count, DAMPING), steps, starts[:, ::-1])
    return paths[..., ::-1]
