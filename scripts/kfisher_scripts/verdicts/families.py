"""Generalised linear models: in Keras, for the verdict, and in NumPy, for the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np
import scipy.optimize

from kfisher_scripts.common.half_squared_error import HalfSquaredError


@dataclass
class Family:
    """p(y | f) with f = [x, 1] W, at each position of an example where there are several.

    Attributes:
        outputs: C.
        loss: -log p, `(N,)`, up to a constant, from f `(N, C)` and y `(N,)`.
        score: d log p / d f, `(N, C)`.
        fisher: Its covariance for labels of the model, `(N, C, C)`, from f.
        model: The same in Keras, for so many features, compiled.
    """

    outputs: int
    loss: Callable
    score: Callable
    fisher: Callable
    model: Callable


POSITIONS = 4  # of an example of the family with several


def _model(outputs: int, loss: object, activation: str | None = None, positions: tuple = ()) -> Callable:
    def make(features: int) -> keras.Model:
        inputs = keras.Input((*positions, features))
        model = keras.Sequential([inputs, keras.layers.Dense(outputs, activation)])
        model.compile("sgd", loss)
        return model

    return make


def _softmax(f: np.ndarray) -> np.ndarray:
    e = np.exp(f - f.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _of_classes(f: np.ndarray) -> np.ndarray:
    p = _softmax(f)
    return np.einsum("nc,cd->ncd", p, np.eye(p.shape[1])) - p[:, :, np.newaxis] * p[:, np.newaxis]


def _chosen(f: np.ndarray, y: np.ndarray) -> np.ndarray:
    return f[np.arange(len(y)), y.astype(int)]


FAMILIES = {
    "normal": Family(
        1,
        lambda f, y: (f[:, 0] - y) ** 2 / 2,
        lambda f, y: y[:, np.newaxis] - f,
        lambda f: np.ones((len(f), 1, 1)),
        _model(1, HalfSquaredError()),
    ),
    "classes": Family(
        3,
        lambda f, y: np.log(np.exp(f - f.max(1, keepdims=True)).sum(1)) + f.max(1) - _chosen(f, y),
        lambda f, y: np.eye(3)[y.astype(int)] - _softmax(f),
        _of_classes,
        _model(3, keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
    ),
    "counts": Family(
        1,
        lambda f, y: np.exp(f[:, 0]) - y * f[:, 0],
        lambda f, y: y[:, np.newaxis] - np.exp(f),
        lambda f: np.exp(f)[:, :, np.newaxis],
        _model(1, keras.losses.Poisson(), "exponential"),
    ),
}
FAMILIES["positions"] = replace(
    FAMILIES["normal"], model=_model(1, HalfSquaredError(), positions=(POSITIONS,))
)


def with_one(x: np.ndarray) -> np.ndarray:
    """The inputs, and a constant 1 for the bias."""
    return np.concatenate([x, np.ones_like(x[..., :1])], -1)


def minimum(family: Family, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The weights W with the least mean loss, `(features + 1, C)`."""
    z, y = _flat(with_one(x), y)

    def value_and_slope(w: np.ndarray) -> tuple[float, np.ndarray]:
        f = z @ w.reshape(-1, family.outputs)
        return float(family.loss(f, y).mean()), -(z.T @ family.score(f, y)).ravel() / len(y)

    start = np.zeros(z.shape[1] * family.outputs)
    found = scipy.optimize.minimize(value_and_slope, start, jac=True, method="BFGS", options={"gtol": 1e-7})
    return found.x.reshape(-1, family.outputs)


@dataclass
class Matrices:
    """F, EF and the gradient of the mean loss."""

    exact: np.ndarray
    empirical: np.ndarray
    gradient: np.ndarray


def matrices(family: Family, w: np.ndarray, x: np.ndarray, y: np.ndarray) -> Matrices:
    """At the weights W, on these examples; a row of EF is the sum over the positions of one."""
    examples = len(y)
    z, y = _flat(with_one(x), y)
    f = z @ w
    scores = np.einsum("nd,nc->ndc", z, family.score(f, y)).reshape(len(y), -1)
    exact = np.einsum("ni,nj,ncd->icjd", z, z, family.fisher(f), optimize=True)
    size = scores.shape[1]
    rows = scores.reshape(examples, -1, size).sum(1)
    return Matrices(exact.reshape(size, size) / len(y), rows.T @ rows / len(y), -scores.mean(0))


def _flat(z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All positions of all examples."""
    return z.reshape(-1, z.shape[-1]), y.ravel()
