"""Statements 4 and 5: the Fisher of the conditional, and what EF is instead, each found in two ways."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from kfisher import datasets
from kfisher_scripts.reproduction.models import (
    KINDS,
    Kinds,
    double_precision,
    gradient,
    linear_model,
    matrices,
    optimizer_of,
    train,
)


@dataclass
class Definitions:
    """Distances between two ways to the same matrix, relative, at several points of a descent.

    Attributes:
        steps: How many natural-gradient steps were taken.
        expectation: F from Σ_n E_p(y | x_n)[g gᵀ], the expectation written out over both labels.
        hessian: F from the Hessian of the loss, by automatic differentiation.
        labels: F with the labels of the data from F with all labels turned around.
        data: EF from the same sum as `expectation`, with all the weight on the labels of the data.
        noise: EF from Cov[g_n] + ∇L ∇Lᵀ, with each g_n by automatic differentiation.
        share: tr(∇L ∇Lᵀ) / tr(EF).
    """

    steps: list[int]
    expectation: list[float]
    hessian: list[float]
    labels: list[float]
    data: list[float]
    noise: list[float]
    share: list[float]


def run(kinds: Kinds = KINDS) -> Definitions:
    """On BreastCancer, standardised so that no matrix is close to singular, at 0, 1 and 3 steps."""
    x, y = datasets.breast_cancer()
    x = (x - x.mean(0)) / x.std(0)
    found = Definitions([], [], [], [], [], [], [])
    with double_precision():
        model = linear_model(x.shape[1], "logistic", optimizer_of("NGD", 1.0, 1e-3, KINDS))
        for steps in (0, 1, 3):
            if steps:
                train(model, x, y, steps - found.steps[-1])
            f, ef = matrices(model, x, y, kinds)
            examples = _example_gradients(model, x, y)
            g = gradient(model, x, y)
            noise = np.cov(examples.T, bias=True) + np.outer(g, g)
            found.steps.append(steps)
            p = 1 / (1 + np.exp(-model(x).numpy()[:, 0]))
            found.expectation.append(_off(f, _expectation(model, x, p)))
            found.data.append(_off(ef, _expectation(model, x, y)))
            found.hessian.append(_off(f, _hessian(model, x, y)))
            found.labels.append(_off(f, matrices(model, x, 1 - y, kinds)[0]))
            found.noise.append(_off(ef, noise))
            found.share.append(float(g @ g / np.trace(ef)))
    return found


def _off(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _expectation(model, x, p: np.ndarray) -> np.ndarray:
    """1/N Σ_n [(1 - p_n) g(0) g(0)ᵀ + p_n g(1) g(1)ᵀ], from the gradients of both labels."""
    total = np.zeros([])
    for label, weight in ((0.0, 1 - p), (1.0, p)):
        g = _example_gradients(model, x, np.full(len(x), label))
        total = total + (g * weight[:, np.newaxis]).T @ g / len(x)
    return total


def _example_gradients(model, x, y) -> np.ndarray:
    """The gradient of the loss of each example, `(N, P)`."""
    labels, variables = tf.constant(y[:, np.newaxis]), [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        losses = model.loss.call(labels, model(x))
    parts = tape.jacobian(losses, variables)
    return np.concatenate([p.numpy().reshape(len(x), -1) for p in parts], 1)


def _hessian(model, x, y) -> np.ndarray:
    variables = [v.value for v in model.trainable_variables]
    labels = tf.constant(y[:, np.newaxis])
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            loss = model.compute_loss(x, labels, model(x))
        g = tf.concat([tf.reshape(t, [-1]) for t in inner.gradient(loss, variables)], 0)
    parts = outer.jacobian(g, variables)
    return np.concatenate([p.numpy().reshape(len(g), -1) for p in parts], 1)
