"""Absolute error."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kfisher._common.checks import positive
from kfisher._keras.requirements import distributions as tfd
from kfisher.likelihoods._base import Independent, register


@register
class Laplace(Independent):
    """y ~ Laplace(f, scale): the likelihood of absolute error.

    score = sign(y - f) / scale,  Fisher = 1 / scale².

    The Gauss-Newton matrix of the absolute error is zero almost everywhere; the Fisher is not.

    Args:
        scale: Float, in the units of y. The default `None` means C, the size of the last axis: then
            -log p is Keras' mean absolute error up to a constant.

    Raises:
        ValueError: If `scale` is no positive float.

    Example:

    >>> kfisher.likelihoods.Laplace(scale=2.0).score(tf.zeros((1, 1)), tf.ones((1, 1)))
    <tf.Tensor: shape=(1, 1), dtype=float32, numpy=array([[0.5]], dtype=float32)>
    """

    bounded = True

    def __init__(self, scale: float | None = None):
        self.scale = None if scale is None else positive("scale", scale, "a positive float, or None")

    def _scale(self, eta: tf.Tensor) -> float:
        return float(eta.shape[-1]) if self.scale is None else self.scale

    def distribution(self, eta: tf.Tensor) -> Any:
        return tfd().Laplace(eta, tf.constant(self._scale(eta), eta.dtype))

    def score(self, eta: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return tf.sign(y - eta) / self._scale(eta)

    def deviation(self, eta: tf.Tensor) -> tf.Tensor:
        return tf.fill(tf.shape(eta), tf.constant(1 / self._scale(eta), eta.dtype))

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.scale}
