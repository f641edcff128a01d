"""Experiment B: the empirical Fisher at the minimum, where the model is right and where it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from reproduction import published
from reproduction.models import (
    KINDS,
    Kinds,
    double_precision,
    gradient,
    linear_model,
    matrices,
    optimizer_of,
    parameters,
    train,
)
from reproduction.published import units_off

_B = np.array([[1, -0.6], [-0.6, 1]])
# Mean of the first class (the other has its opposite), and what multiplies the standard normals of each.
_LOGISTIC = {
    "logistic, correct": (1.0, 2 * np.eye(2), 2 * np.eye(2)),
    "logistic A": (1.5, 3 * np.eye(2), np.eye(2)),
    "logistic B": (1.0, 1.5 * _B, 1.5 * np.abs(_B)),
}
_LINEAR: dict[str, Callable] = {
    "linear, correct": lambda x, e: 1 + x + e,
    "linear, noise": lambda x, e: 1 + x + 2 * e,
    "linear, missing x²": lambda x, e: 1 + x + x**2 / 2 + e,
}
NAMES = (*_LOGISTIC, *_LINEAR)
# From zero the natural gradient with rate 1 is Newton's method here; eight steps reach rounding.
_STEPS = 15


@dataclass
class AtMinimum:
    """What is found at the minimum of one problem.

    Attributes:
        x, y: The data.
        theta: The minimum.
        gradient: The norm of the gradient there, over that at the start.
        f, ef: Fisher and empirical Fisher of the mean loss.
        accuracy: Share of right labels, NaN for regressions.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    theta: np.ndarray
    gradient: float
    f: np.ndarray
    ef: np.ndarray
    accuracy: float

    @property
    def distance(self) -> float:
        """||EF - F|| / ||F||, Frobenius norms."""
        return float(np.linalg.norm(self.ef - self.f) / np.linalg.norm(self.f))

    @property
    def eigenvalues(self) -> np.ndarray:
        """Of F^-1 EF, ascending: all 1 if and only if EF = F."""
        return np.sort(np.linalg.eigvals(np.linalg.solve(self.f, self.ef)).real)

    @property
    def trace(self) -> float:
        """tr(F^-1 EF), P where EF = F, and elsewhere too."""
        return float(np.trace(np.linalg.solve(self.f, self.ef)))

    @property
    def angle(self) -> float:
        """Degrees, in [0, 90], between the main axes of F and EF."""
        main = [np.linalg.eigh(matrix)[1][:, -1] for matrix in (self.f, self.ef)]
        return float(np.degrees(np.arccos(min(1.0, abs(main[0] @ main[1])))))

    def row(self) -> dict[str, float]:
        low, high = self.eigenvalues
        return {
            "accuracy": self.accuracy, "distance": self.distance, "low": low, "high": high,
            "trace": self.trace, "angle": self.angle, "gradient": self.gradient,
        }  # fmt: skip


def kind_of(name: str) -> str:
    return name.partition(",")[0].split()[0]


def data(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The 1000 examples of the paper: NumPy's legacy generator, seed 0."""
    if name not in NAMES:
        raise ValueError(f"`name` must be one of {list(NAMES)}. Received: name={name!r}")
    rng = np.random.RandomState(seed)
    if name in _LOGISTIC:
        mean, first, second = _LOGISTIC[name]
        x = np.concatenate([rng.randn(500, 2) @ first + mean, rng.randn(500, 2) @ second - mean])
        return x, np.repeat([0.0, 1.0], 500)
    x, noise = rng.randn(1000, 1), rng.randn(1000, 1)
    return x, _LINEAR[name](x, noise)[:, 0]


def measure(name: str, kinds: Kinds = KINDS) -> AtMinimum:
    """Trains with the natural gradient at rate 1, and looks at both matrices where it ends."""
    x, y = data(name)
    kind = kind_of(name)
    with double_precision():
        optimizer = optimizer_of("NGD", 1.0, 1e-12, kinds)
        model = linear_model(x.shape[1], kind, optimizer, use_bias=kind == "linear")
        start = np.linalg.norm(gradient(model, x, y))
        train(model, x, y, _STEPS)
        f, ef = matrices(model, x, y, kinds)
        outputs = model(x).numpy()[:, 0]
        accuracy = np.mean((outputs > 0) == y) if kind == "logistic" else np.nan
        end = np.linalg.norm(gradient(model, x, y)) / start
    return AtMinimum(name, x, y, parameters(model), float(end), f, ef, float(accuracy))


def run(kinds: Kinds = KINDS) -> dict[str, AtMinimum]:
    """All six data sets."""
    names = tqdm(NAMES, desc=f"{'misspecification':<24}", dynamic_ncols=True)
    return {name: measure(name, kinds) for name in names}


def agreement(found: AtMinimum) -> dict[str, int]:
    """By how many units of the last printed digit each measured number is off the published one.

    An axis has no direction, so an angle and what is missing to 180 degrees are the same.
    """
    row, off = found.row(), {}
    for key, text in published.AT_MINIMUM[found.name].items():
        off[key] = units_off(row[key], text)
        if key == "angle":
            off[key] = min(off[key], units_off(180 - row[key], text))
    return off
