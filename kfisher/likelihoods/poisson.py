"""The Poisson loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kfisher._common.checks import checked
from kfisher._keras.requirements import distributions as tfd
from kfisher.likelihoods._base import Independent, register


@register
class Poisson(Independent):
    """y ~ Poisson(f), eta = log f: the likelihood of Keras' Poisson loss f - y log f.

    score = y - f,  Fisher = f  (with respect to log f).

    The Gauss-Newton matrix of that loss with respect to f itself is y / f², which equals the Fisher
    1 / f only in expectation; with f = exp(eta) both are f in eta.

    Raises:
        tf.errors.InvalidArgumentError: For labels that are negative.

    Example:

    >>> kfisher.likelihoods.Poisson().score(tf.zeros((1, 1)), tf.fill((1, 1), 3.0))
    <tf.Tensor: shape=(1, 1), dtype=float32, numpy=array([[2.]], dtype=float32)>
    """

    can_be_negative = True  # without log y!

    def coordinates(self, outputs: tf.Tensor) -> tf.Tensor:
        return tf.math.log(outputs + keras.config.epsilon())

    def distribution(self, eta: tf.Tensor) -> Any:
        return tfd().Poisson(log_rate=eta)

    def labels(self, y: tf.Tensor, eta: tf.Tensor) -> tf.Tensor:
        y = super().labels(y, eta)
        valid = tf.math.is_nan(y) | (y >= 0)
        return checked(y, valid, "Labels of the Poisson loss must not be negative.")

    def score(self, eta: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return y - tf.exp(eta)

    def deviation(self, eta: tf.Tensor) -> tf.Tensor:
        return tf.exp(eta / 2)

    def least(self, y: tf.Tensor) -> tf.Tensor:
        return y - tf.math.xlogy(y, y)  # at f = y

    def copies(self, eta: tf.Tensor) -> int:
        return eta.shape[-1]
