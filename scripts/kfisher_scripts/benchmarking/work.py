"""What is trained in a benchmark, and by which optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

import kfisher
from kfisher.optimizers import NaturalGradient
from kfisher_scripts.comparison.problems import PROBLEMS


class Work(NamedTuple):
    """What is trained: a model, its loss, and the arrays of one epoch."""

    model: Callable[[], keras.Model]
    loss: Callable[[], keras.losses.Loss]
    data: Callable[[int], tuple[np.ndarray, np.ndarray]]


def random_digits(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 784)).astype("float32"), rng.integers(0, 10, size)


def _repeated(problem: str) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    def data(size: int) -> tuple[np.ndarray, np.ndarray]:
        x, y, *_ = PROBLEMS[problem].data()
        return np.resize(x, (size, *x.shape[1:])), np.resize(y, (size, *y.shape[1:]))

    return data


def mlp() -> keras.Model:
    """784-256-256-10, relu: 269 322 parameters."""
    hidden = [keras.layers.Dense(256, activation="relu") for _ in range(2)]
    model = kfisher.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10)])
    return model


MLP = Work(mlp, PROBLEMS["digits_mlp"].loss, random_digits)
AUTOENCODER = Work(PROBLEMS["autoencoder"].model, PROBLEMS["autoencoder"].loss, _repeated("autoencoder"))
CONVNET = Work(PROBLEMS["digits_convnet"].model, PROBLEMS["digits_convnet"].loss, _repeated("digits_convnet"))


def compiled(optimizer: keras.optimizers.Optimizer, work: Work = MLP) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = work.model()
    model.compile(optimizer, work.loss())
    return model


def sgd() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.01)


def adam() -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(1e-3)


def natural(fisher: str) -> Callable[[], NaturalGradient]:
    """The textbook step in function space."""
    options = {"curvature": "gram", "damping": 1.0, "trust_region": None, "seed": 0}
    return lambda: NaturalGradient(0.01, fisher, **options)


def kfac(**options) -> Callable[[], NaturalGradient]:
    """`NaturalGradient()` with its defaults, trust region included, but for options of the curvature."""
    return lambda: NaturalGradient(curvature=kfisher.curvature.KFAC(**options), seed=0)
