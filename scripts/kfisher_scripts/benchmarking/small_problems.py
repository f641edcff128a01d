"""Nine small problems of the kinds that people meet first: images, tables, words, raw and scaled targets.

They are meant for optimizers as they are, without tuning. Data and models are small enough that a run takes
seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from sklearn.datasets import make_moons

import kfisher
from kfisher import datasets
from kfisher_scripts.common.digits import convnet, digits


class Split(NamedTuple):
    """Arrays to train on, and those held out."""

    x: np.ndarray
    y: np.ndarray
    x_held: np.ndarray
    y_held: np.ndarray


class SmallProblem(NamedTuple):
    """One learning problem; `layers()`, the input among them, are new at each call."""

    name: str
    data: Callable[[], Split]
    layers: Callable[[], list]
    loss: Callable[[], keras.losses.Loss]
    epochs: int
    batch_size: int

    def model(self) -> keras.Model:
        return kfisher.Sequential(self.layers())


# --- data ---------------------------------------------------------------------------------------------


def _digits() -> Split:
    return Split(*digits())


def _pixels() -> Split:
    """The images are their own labels."""
    x, _, x_held, _ = _digits()
    return Split(x, x, x_held, x_held)


def _standardised(x: np.ndarray, y: np.ndarray, share: float = 0.8) -> Split:
    """A share of the examples to train on, at random, with features in units of their spread there."""
    order = np.random.default_rng(0).permutation(len(x))
    train, held = np.split(order, [int(share * len(x))])
    x = x.astype("float32")
    x = (x - x[train].mean(0)) / (x[train].std(0) + 1e-8)
    return Split(x[train], y[train], x[held], y[held])


def _column(y: np.ndarray) -> np.ndarray:
    return y.astype("float32")[:, np.newaxis]


def _diabetes() -> Split:
    """Targets from 25 to 346, as they are in the table."""
    x, y = datasets.diabetes()
    return _standardised(x, _column(y))


def _scaled_diabetes() -> Split:
    x, y = datasets.diabetes()
    return _standardised(x, _column((y - y.mean()) / y.std()))


def _wine() -> Split:
    x, y = datasets.wine()
    return _standardised(x, y.astype(int))


def _yacht() -> Split:
    x, y = datasets.yacht()
    return _standardised(x, _column(y))


def _moons() -> Split:
    x, y = make_moons(800, noise=0.2, random_state=0)
    return _standardised(x, _column(y), 0.5)


def _text() -> Split:
    """Twenty words out of a thousand; three in ten of them are drawn from one of four topics."""
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.full(1000, 0.05), 4)
    common = np.full(1000, 1 / 1000)
    y = rng.integers(0, 4, 1250)
    x = np.stack([rng.choice(1000, 20, p=0.3 * topics[k] + 0.7 * common) for k in y])
    return Split(x[:1000], y[:1000], x[1000:], y[1000:])


# --- models and losses --------------------------------------------------------------------------------


def _mlp(*widths: int, activation: str = "relu") -> Callable[[], list]:
    """Dense layers of these widths, from inputs to outputs."""
    features, *hidden, outputs = widths

    def layers() -> list:
        dense = [keras.layers.Dense(n, activation=activation) for n in hidden]
        return [keras.Input((features,)), *dense, keras.layers.Dense(outputs)]

    return layers


def _autoencoder() -> list:
    return [
        keras.Input((64,)),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(8),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(64),
    ]


def _bag_of_words() -> list:
    return [
        keras.Input((20,), dtype="int32"),
        keras.layers.Embedding(1000, 16),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(16, activation="relu"),
        keras.layers.Dense(4),
    ]


def _classes() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _yes_or_no() -> keras.losses.Loss:
    return keras.losses.BinaryCrossentropy(from_logits=True)


_squares = keras.losses.MeanSquaredError

SMALL_PROBLEMS = {
    problem.name: problem
    for problem in (
        SmallProblem("digits MLP", _digits, _mlp(64, 32, 32, 10), _classes, 10, 32),
        SmallProblem("digits convnet", _digits, convnet, _classes, 10, 32),
        SmallProblem("diabetes raw y", _diabetes, _mlp(10, 32, 1), _squares, 50, 32),
        SmallProblem("diabetes scaled y", _scaled_diabetes, _mlp(10, 32, 1), _squares, 50, 32),
        SmallProblem("wine classes", _wine, _mlp(13, 16, 3), _classes, 30, 32),
        SmallProblem("two moons", _moons, _mlp(2, 32, 32, 1), _yes_or_no, 30, 32),
        SmallProblem("digits autoencoder", _pixels, _autoencoder, _yes_or_no, 10, 32),
        SmallProblem("text", _text, _bag_of_words, _classes, 10, 32),
        SmallProblem("yacht", _yacht, _mlp(6, 16, 1, activation="tanh"), _squares, 30, 64),
    )
}
