"""Experiment B: the empirical Fisher at the minimum, where the model is right and where it is wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow_probability as tfp
from tqdm import tqdm

from kfisher_scripts.reproduction import published
from kfisher_scripts.reproduction.models import (
    KINDS,
    Kinds,
    double_precision,
    gradient,
    linear_model,
    matrices,
    optimizer_of,
    parameters,
    set_parameters,
    train,
)
from kfisher_scripts.reproduction.published import units_off

tfd = tfp.distributions
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
# The process that made the labels, where the model has it. Two normal classes at m and -m with covariance 4 I
# have log p(1|x) - log p(0|x) = -x . m / 2.
_TRUTH = {"logistic, correct": (-0.5, -0.5), "linear, correct": (1.0, 1.0)}
SIZE = 1000
# Few and many examples beside the paper's.
_SIZES = 30, 100_000
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
        likelihood: By how much the loss differs from -1/N Σ_n log p(y_n | x_n) of TensorFlow Probability's
            distribution, both as differences from their values at zero, relative.
        by_size: ||EF - F|| / ||F|| at the minimum of other samples, for each N.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    theta: np.ndarray
    gradient: float
    f: np.ndarray
    ef: np.ndarray
    accuracy: float
    likelihood: float = np.nan
    by_size: dict[int, float] = field(default_factory=dict)

    @property
    def recovered(self) -> float:
        """N dᵀ F d with d from the true parameters: chi-squared, with P degrees of freedom, if the minimum
        is the process that made the labels. NaN where the model does not have it."""
        if self.name not in _TRUTH:
            return np.nan
        d = self.theta - _TRUTH[self.name]
        return float(len(self.x) * d @ self.f @ d)

    @property
    def distance(self) -> float:
        """||EF - F|| / ||F||, Frobenius norms."""
        return float(np.linalg.norm(self.ef - self.f) / np.linalg.norm(self.f))

    @property
    def eigenvalues(self) -> np.ndarray:
        """Of F⁻¹ EF, ascending: all 1 if and only if EF = F."""
        return np.sort(np.linalg.eigvals(np.linalg.solve(self.f, self.ef)).real)

    @property
    def trace(self) -> float:
        """tr(F⁻¹ EF), P where EF = F, and elsewhere too."""
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


def data(name: str, seed: int = 0, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """The 1000 examples of the paper: NumPy's legacy generator, seed 0."""
    if name not in NAMES:
        raise ValueError(f"`name` must be one of {list(NAMES)}. Received: name={name!r}")
    rng = np.random.RandomState(seed)
    if name in _LOGISTIC:
        mean, first, second = _LOGISTIC[name]
        half = size // 2
        x = np.concatenate([rng.randn(half, 2) @ first + mean, rng.randn(half, 2) @ second - mean])
        return x, np.repeat([0.0, 1.0], half)
    x, noise = rng.randn(size, 1), rng.randn(size, 1)
    return x, _LINEAR[name](x, noise)[:, 0]


def measure(name: str, kinds: Kinds = KINDS) -> AtMinimum:
    """Trains with the natural gradient at rate 1, and looks at both matrices where it ends."""
    kind = kind_of(name)
    with double_precision():
        found = at_minimum(name, SIZE, kinds)
        for size in _SIZES:
            found.by_size[size] = at_minimum(name, size, kinds).distance
        model = linear_model(found.x.shape[1], kind, use_bias=kind == "linear")
        found.likelihood = _likelihood(model, kind, found)
    return found


@functools.cache
def _model(kind: str, features: int, kinds: Kinds) -> keras.Model:
    """One for all data of a kind: its step keeps nothing but the parameters, and takes seconds to trace."""
    return linear_model(features, kind, optimizer_of("NGD", 1.0, 1e-12, kinds), use_bias=kind == "linear")


def at_minimum(name: str, size: int = SIZE, kinds: Kinds = KINDS) -> AtMinimum:
    """Both matrices at the minimum of one sample, in double precision."""
    x, y = data(name, size=size)
    kind = kind_of(name)
    with double_precision():
        model = _model(kind, x.shape[1], kinds)
        set_parameters(model, 0 * parameters(model))
        start = np.linalg.norm(gradient(model, x, y))
        train(model, x, y, _STEPS)
        f, ef = matrices(model, x, y, kinds)
        outputs = model(x).numpy()[:, 0]
        end = np.linalg.norm(gradient(model, x, y)) / start
    accuracy = np.mean((outputs > 0) == y) if kind == "logistic" else np.nan
    return AtMinimum(name, x, y, parameters(model), float(end), f, ef, float(accuracy))


def _likelihood(model: keras.Model, kind: str, one: AtMinimum) -> float:
    labels = one.y[:, np.newaxis]
    values = []
    for theta in (0 * one.theta, one.theta):
        set_parameters(model, theta)
        f = model(one.x)
        p = tfd.Bernoulli(logits=f) if kind == "logistic" else tfd.Normal(f, np.float64(1))
        values.append((float(model.compute_loss(one.x, labels, f)), -np.mean(p.log_prob(labels))))
    loss, likelihood = np.subtract(*values)
    return float(abs(loss / likelihood - 1))


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
