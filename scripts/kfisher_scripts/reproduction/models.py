"""Models that are linear in their parameters, in float64, trained by full-batch steps through `fit`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import kfisher
from kfisher.optimizers import NaturalGradient
from kfisher_scripts.common.half_squared_error import HalfSquaredError


class Kinds(NamedTuple):
    """The `fisher` of the method that is called NGD, and of the one called EF.

    A check that still holds with the two swapped would say nothing about their difference; the tests swap.
    """

    ngd: str = "exact"
    ef: str = "empirical"


KINDS = Kinds()


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """float64 for layers, losses and hyper-parameters (a learning rate is a variable of Keras' floatx)."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def linear_model(features: int, kind: str, optimizer="sgd", use_bias: bool = True) -> keras.Model:
    """f = w . x + b at zero, compiled with the paper's loss.

    Args:
        features: D.
        kind: `"linear"` for 1/2 (f - y)², `"logistic"` for cross-entropy from logits.
        optimizer: As in `compile`.
        use_bias: Whether there is b; it comes after w among the parameters.
    """
    unit = keras.layers.Dense(1, kernel_initializer="zeros", use_bias=use_bias)
    model = kfisher.Sequential([keras.Input((features,)), unit])
    if kind == "logistic":
        model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True))
    elif kind == "linear":
        model.compile(optimizer, HalfSquaredError())
    else:
        raise ValueError(f"`kind` must be 'linear' or 'logistic'. Received: kind={kind!r}")
    return model


def optimizer_of(method: str, rate: float, damping: float | None, kinds: Kinds) -> keras.optimizers.Optimizer:
    """GD, NGD or EF with the dense matrix; each the textbook update, as published."""
    if method == "GD":
        return keras.optimizers.SGD(rate)
    fisher = {"NGD": kinds.ngd, "EF": kinds.ef}[method]
    return NaturalGradient(rate, fisher, "dense", damping=damping, trust_region=None)


def train(model: keras.Model, x: np.ndarray, y: np.ndarray, steps: int, callbacks=()) -> np.ndarray:
    """Full-batch steps through `fit`; the loss before each and after the last."""
    batch = tf.data.Dataset.from_tensors((tf.constant(x), tf.constant(y[:, np.newaxis]))).repeat()
    fitted = model.fit(
        batch, steps_per_epoch=1, epochs=steps, callbacks=list(callbacks), shuffle=False, verbose=0
    )
    last = model.compute_loss(x, tf.constant(y[:, np.newaxis]), model(x))
    return np.array([*fitted.history["loss"], float(last)])


def parameters(model: keras.Model) -> np.ndarray:
    return np.concatenate([np.ravel(w) for w in model.get_weights()])


def set_parameters(model: keras.Model, theta: np.ndarray) -> None:
    """The inverse of `parameters`."""
    sizes = np.cumsum([w.size for w in model.get_weights()])[:-1]
    parts = np.split(np.asarray(theta, float), sizes)
    model.set_weights([part.reshape(w.shape) for part, w in zip(parts, model.get_weights())])


def matrices(model: keras.Model, x, y, kinds: Kinds = KINDS) -> tuple[np.ndarray, np.ndarray]:
    """F and EF at the weights of the model, in the units of its loss."""
    f, ef = (
        kfisher.FisherOperator(model, x, y[:, np.newaxis], fisher=fisher).to_dense().numpy()
        for fisher in (kinds.ngd, kinds.ef)
    )
    return f, ef


def gradient(model: keras.Model, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The gradient of the loss at the weights of the model, `(P,)`."""
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, tf.constant(y[:, np.newaxis]), model(x))
    found = tape.gradient(loss, [v.value for v in model.trainable_variables])
    return np.concatenate([np.ravel(g) for g in found])
