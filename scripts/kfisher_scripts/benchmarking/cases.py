"""Each case of the benchmark beside its reference and its bar."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

import kfisher
from kfisher.diagnosis.meter import Meter
from kfisher.jacobian.batch import Batch
from kfisher_scripts.benchmarking.timing import timed, trainer
from kfisher_scripts.benchmarking.work import (
    AUTOENCODER,
    CONVNET,
    MLP,
    adam,
    compiled,
    kfac,
    natural,
    random_digits,
    sgd,
)


class Case(NamedTuple):
    """One row: `make()` and `reference()` each give a function that trains an epoch and returns ms / step."""

    name: str
    make: Callable[[], Callable[[], float]]
    reference: Callable[[], Callable[[], float]]
    bar: float


gram = functools.partial(trainer, batch=256, steps=60)
exact = functools.partial(trainer, batch=128, steps=30)
autoencoder = functools.partial(trainer, batch=500, steps=53, work=AUTOENCODER)
convnet = functools.partial(trainer, batch=256, steps=103, work=CONVNET)


def dashboard() -> Callable[[], float]:
    """Adam with everything that is logged by default."""
    return gram(adam, steps=300, watching=kfisher.callbacks.TensorBoard)


def spectrum(whole: bool) -> Callable[[], float]:
    """All three spectra of 256 examples of the MLP, or all that is measured by default."""
    model = compiled(adam())
    meter, data = Meter(model, draws=2 if whole else 1, seed=0), [tf.constant(part) for part in MLP.data(256)]
    model.fit(*random_digits(2560), batch_size=256, verbose=0)

    def measure() -> float:
        started = time.perf_counter()
        meter(*data) if whole else meter.spectra(*data)
        return 1e3 * (time.perf_counter() - started)

    measure()
    return measure


def watched(name: str, optimizer: Callable[[], keras.optimizers.Optimizer]) -> Case:
    with_it = functools.partial(gram, optimizer, watching=kfisher.callbacks.StepStatistics)
    return Case(f"StepStatistics / without, {name}", with_it, functools.partial(gram, optimizer), 1.05)


def _one_batch(size: int = 500) -> tuple[keras.Model, tf.Tensor]:
    return compiled(sgd(), AUTOENCODER), tf.constant(AUTOENCODER.data(size)[0])


def product() -> Callable[[], float]:
    """F v with the exact Fisher, its own forward pass included."""
    model, x = _one_batch()
    vectors = [tf.random.normal(v.shape) for v in model.trainable_variables]

    def multiply() -> list[tf.Tensor]:
        batch = Batch(model, x, x, None, kfisher.Exact(), tf.constant([0, 0]))
        return batch.linearization.matvec(vectors)

    return timed(multiply)


def gradient() -> Callable[[], float]:
    model, x = _one_batch()

    def differentiate() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, x, model(x, training=True))
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    return timed(differentiate)


CASES = [
    Case("sampled Gram / SGD, batch 256", lambda: gram(natural("sampled")), lambda: gram(sgd), 2.5),
    Case("empirical Gram / SGD, batch 256", lambda: gram(natural("empirical")), lambda: gram(sgd), 2.5),
    Case("exact Gram / SGD, batch 128", lambda: exact(natural("exact")), lambda: exact(sgd), 12),
    Case("default step / Adam, autoencoder", lambda: autoencoder(kfac()), lambda: autoencoder(adam), 1.25),
    Case(
        "K-FAC, factors every step, inverses every 5 / Adam, autoencoder",
        lambda: autoencoder(kfac(update_every=1, invert_every=5)),
        lambda: autoencoder(adam),
        2.5,
    ),
    Case("default step / Adam, convnet, batch 256", lambda: convnet(kfac()), lambda: convnet(adam), 1.3),
    Case("product F v / gradient, autoencoder", product, gradient, 3),
    watched("SGD", sgd),
    watched("Adam", adam),
    watched("sampled Gram", natural("sampled")),
    Case("TensorBoard, all defaults / without, Adam", dashboard, lambda: gram(adam, steps=300), 1.10),
    Case("spectra of 256 examples / Adam step", lambda: spectrum(False), lambda: gram(adam), 25),
    Case(
        "whole measurement of 256 examples / Adam step",
        lambda: spectrum(True),
        lambda: gram(adam),
        math.nan,
    ),
]
