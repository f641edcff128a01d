"""A loss and its likelihood in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher._common.checks import function
from kfisher.likelihoods import DistributionLikelihood


@keras.saving.register_keras_serializable("kfisher")
class NegativeLogLikelihood(keras.losses.Loss):
    """-log p(y | f) for any TensorFlow Probability distribution.

        loss = -log make_distribution(y_pred).log_prob(y_true)

    summed over what one position of the outputs observes (all axes behind the positions).

    Args:
        make_distribution: A function from model outputs `(..., C)` to a `tfp.distributions.Distribution`
            with batch shape `(...)` or `(..., K)`. To save and load the model, register it with
            `keras.saving.register_keras_serializable`.
        reduction, name, dtype: As in `keras.losses.Loss`.

    Sampled and empirical Fishers work for every distribution. The exact one is known for Normal, LogNormal,
    Laplace, MultivariateNormalDiag, Bernoulli, Poisson, Exponential, Categorical, OneHotCategorical, and
    Independent of these; for others `fisher="exact"` raises an error that offers `kfisher.Sampled`.

    Example:

    >>> def normal(f):
    ...     return tfd.Normal(f[..., :1], tf.nn.softplus(f[..., 1:]) + 1e-3)
    >>> model = kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> model.compile(kfisher.optimizers.NaturalGradient(), kfisher.losses.NegativeLogLikelihood(normal))
    """

    def __init__(
        self,
        make_distribution: Callable[[tf.Tensor], Any],
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "negative_log_likelihood",
        dtype: Any = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        kind = "a function from model outputs to a distribution"
        self.make_distribution = function("make_distribution", make_distribution, kind)

    def likelihood(self) -> DistributionLikelihood:
        """p(y | f)."""
        return DistributionLikelihood(self.make_distribution)

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        likelihood = self.likelihood()
        return -likelihood.log_prob(y_pred, likelihood.labels(y_true, y_pred))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config["make_distribution"] = keras.saving.serialize_keras_object(self.make_distribution)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NegativeLogLikelihood:
        config = dict(config)
        config["make_distribution"] = keras.saving.deserialize_keras_object(config["make_distribution"])
        return cls(**config)
