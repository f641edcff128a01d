"""Squared error."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kfisher._common.checks import positive
from kfisher._keras.requirements import distributions as tfd
from kfisher.likelihoods._base import Independent, register


@register
class Normal(Independent):
    """y ~ Normal(f, scale²): the likelihood of squared error.

    score = (y - f) / scale²,  Fisher = 1 / scale².

    Args:
        scale: Float, the standard deviation, in the units of y. The default `None` means
            √(C / 2) with C the size of the last axis: then -log p is Keras' mean squared error
            (1/C) Σ_c (y_c - f_c)² up to a constant.

    Example:

    >>> kfisher.likelihoods.Normal(scale=2.0).score(tf.zeros((1, 1)), tf.ones((1, 1)))
    <tf.Tensor: shape=(1, 1), dtype=float32, numpy=array([[0.25]], dtype=float32)>
    """

    def __init__(self, scale: float | None = None):
        self.scale = None if scale is None else positive("scale", scale, "a positive float, or None")

    def _scale(self, eta: tf.Tensor) -> float:
        return (eta.shape[-1] / 2) ** 0.5 if self.scale is None else self.scale

    def distribution(self, eta: tf.Tensor) -> Any:
        return tfd().Normal(eta, tf.constant(self._scale(eta), eta.dtype))

    def score(self, eta: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return (y - eta) / self._scale(eta) ** 2

    def deviation(self, eta: tf.Tensor) -> tf.Tensor:
        return tf.fill(tf.shape(eta), tf.constant(1 / self._scale(eta), eta.dtype))

    def dispersion(self, eta: tf.Tensor) -> float:
        return self._scale(eta) ** 2

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.scale}
