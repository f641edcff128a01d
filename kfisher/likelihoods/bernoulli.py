"""Binary cross-entropy."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kfisher._common.checks import boolean, checked, share
from kfisher._keras.requirements import distributions as tfd
from kfisher.likelihoods._base import Independent, clip, logits_behind, register, warn_of_logits


@register
class Bernoulli(Independent):
    """y ~ Bernoulli(p), eta = logit p: the likelihood of binary cross-entropy.

    score = y - p,  Fisher = p (1 - p).

    Args:
        from_logits: Boolean; whether f is eta (`True`) or p (`False`, Keras' default).
        label_smoothing: Float in [0, 1]; labels of the data become y (1 - s) + s / 2, as in Keras.
            Labels drawn from the model are never smoothed.

    Raises:
        ValueError: For wrong arguments.
        tf.errors.InvalidArgumentError: For labels outside of [0, 1].

    Example:

    >>> kfisher.likelihoods.Bernoulli(from_logits=True).score(tf.zeros((1, 1)), tf.ones((1, 1)))
    <tf.Tensor: shape=(1, 1), dtype=float32, numpy=array([[0.5]], dtype=float32)>
    """

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0):
        self.from_logits = boolean("from_logits", from_logits)
        self.label_smoothing = share("label_smoothing", label_smoothing)

    def coordinates(self, outputs: tf.Tensor) -> tf.Tensor:
        logits = logits_behind(outputs, "Sigmoid")
        if self.from_logits or logits is not None:
            return outputs if logits is None else logits
        warn_of_logits(outputs, "binary cross-entropy", "sigmoid")
        p = clip(outputs)
        return tf.math.log(p) - tf.math.log1p(-p)

    def distribution(self, eta: tf.Tensor) -> Any:
        return tfd().Bernoulli(logits=eta)

    def labels(self, y: tf.Tensor, eta: tf.Tensor) -> tf.Tensor:
        y = super().labels(y, eta)
        valid = tf.math.is_nan(y) | ((y >= 0) & (y <= 1))
        y = checked(y, valid, "Labels of binary cross-entropy must be in [0, 1].")
        return y * (1 - self.label_smoothing) + self.label_smoothing / 2

    def score(self, eta: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return y - tf.sigmoid(eta)

    def deviation(self, eta: tf.Tensor) -> tf.Tensor:
        # sqrt(p (1 - p)) without the cancellation of 1 - p; the floor keeps `whiten` finite.
        log_variance = -tf.math.softplus(eta) - tf.math.softplus(-eta)
        return tf.exp(tf.maximum(log_variance / 2, -40.0))

    def copies(self, eta: tf.Tensor) -> int:
        return eta.shape[-1]

    def get_config(self) -> dict[str, Any]:
        return {"from_logits": self.from_logits, "label_smoothing": self.label_smoothing}
