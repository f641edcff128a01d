"""Any `tfp.distributions.Distribution` as the likelihood p(y | f)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher._common.checks import function
from kfisher._keras.requirements import distributions as tfd
from kfisher.likelihoods._base import Likelihood, register
from kfisher.likelihoods.bernoulli import Bernoulli
from kfisher.likelihoods.categorical import Categorical
from kfisher.likelihoods.poisson import Poisson


@register
class DistributionLikelihood(Likelihood):
    """p(y | f) = make_distribution(f): what `kfisher.losses.NegativeLogLikelihood` stands for.

    Scores are autodiff of `log_prob`, so sampled and empirical labels work for every distribution. The
    exact Fisher is known in the parameters c of the families below and carried to f by

        V = (dc/df)ᵀ S_c,   S_c S_cᵀ the Fisher in c.

    Args:
        make_distribution: Function from model outputs `(..., C)` to a distribution with that batch shape.
    """

    def __init__(self, make_distribution: Callable[[tf.Tensor], Any]):
        kind = "a function from model outputs to a distribution"
        self.make_distribution = function("make_distribution", make_distribution, kind)

    def distribution(self, eta: tf.Tensor) -> Any:
        return self.make_distribution(eta)

    def labels(self, y: tf.Tensor, eta: tf.Tensor) -> tf.Tensor:
        """y in the shape of a sample, one axis of size 1 more or less forgiven."""
        distribution = self.make_distribution(eta)
        shape = distribution.batch_shape + distribution.event_shape
        y = tf.cast(y, distribution.dtype)
        if y.shape.rank == shape.rank + 1 and y.shape[-1] == 1:
            y = y[..., 0]
        elif y.shape.rank == shape.rank - 1 and shape[-1] == 1:
            y = y[..., tf.newaxis]
        if not y.shape.is_compatible_with(shape):
            raise ValueError(
                "Labels must have the shape of a sample of `make_distribution(outputs)`. Received: labels of "
                f"shape {tuple(y.shape)}, outputs of shape {tuple(eta.shape)}, samples of shape "
                f"{tuple(shape)}"
            )
        return y

    def sample(self, eta: tf.Tensor, num_samples: int, seed: tf.Tensor) -> tf.Tensor:
        return self.make_distribution(eta).sample(num_samples, seed=seed)

    def log_prob(self, eta: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """log p(y | f) of each position, shape `(...)`: summed over what a position observes."""
        # A tensor that no distribution has met: bijectors remember what they made of one, even in another
        # graph, and their answer would have no gradient here.
        log_prob = self.make_distribution(eta).log_prob(tf.identity(y))
        return tf.reduce_sum(log_prob, list(range(eta.shape.rank - 1, log_prob.shape.rank)))

    def score(self, eta: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(eta)
            log_prob = self.log_prob(eta, y)
        return tape.gradient(log_prob, eta)

    def is_known(self, eta: tf.Tensor) -> bool:
        return type(_of_single(self.make_distribution(eta))) in _families()

    def fisher_root(self, eta: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(eta)
            parameters = _parameters(self.make_distribution(eta), eta.shape.rank - 1)
        columns = []
        for c, root in parameters:
            columns += [tape.gradient(c, eta, column, "zero") for column in tf.unstack(root, axis=-1)]
        return tf.stack(columns, -1)

    def whiten(self, eta: tf.Tensor, score: tf.Tensor) -> None:
        return None

    def get_config(self) -> dict[str, Any]:
        return {"make_distribution": keras.saving.serialize_keras_object(self.make_distribution)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DistributionLikelihood:
        return cls(keras.saving.deserialize_keras_object(config["make_distribution"]))


def _parameters(distribution: Any, positions: int) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """The parameters c of a known family and the root of the Fisher in them.

    c is `(..., K)` with the K parameters of a position last, the root `(..., K, R)`.
    """
    distribution = _of_single(distribution)
    family, families = type(distribution), _families()
    if family not in families:
        known = ", ".join(f.__name__ for f in families)
        raise ValueError(
            f"The exact Fisher of {family.__name__} is not known to kfisher. Use "
            "`fisher=kfisher.Sampled(num_samples)`, whose labels are drawn from the distribution. Exact are "
            f"{known}, and `Independent` of these. Received: "
            f"make_distribution returns {distribution}"
        )
    deviations = families[family]
    if deviations is None:
        logits = distribution.logits_parameter()
        return [(logits, Categorical(from_logits=True).fisher_root(logits))]
    shape = tf.concat([distribution.batch_shape_tensor(), distribution.event_shape_tensor()], 0)
    static = distribution.batch_shape + distribution.event_shape
    size = static[positions:].num_elements()
    found = []
    for c, deviation in deviations(distribution):
        flat = tf.concat([shape[:positions], [size]], 0)
        # A parameter that several observations share counts once for each of them.
        c, deviation = (tf.reshape(tf.broadcast_to(t, shape), flat) for t in (c, deviation))
        found.append((c, tf.linalg.diag(deviation)))
    return found


def _of_single(distribution: Any) -> Any:
    """Without the `Independent` around it."""
    while isinstance(distribution, tfd().Independent):
        distribution = distribution.distribution
    return distribution


def _location_scale(d: Any, location: float, scale: float) -> list[tuple[tf.Tensor, tf.Tensor]]:
    sigma = tf.convert_to_tensor(d.scale)
    return [(tf.convert_to_tensor(d.loc), location / sigma), (sigma, scale / sigma)]


def _multivariate_normal(d: Any) -> list[tuple[tf.Tensor, tf.Tensor]]:
    sigma = d.stddev()
    return [(d.mean(), 1 / sigma), (sigma, 2**0.5 / sigma)]


def _bernoulli(d: Any) -> list[tuple[tf.Tensor, tf.Tensor]]:
    logits = d.logits_parameter()
    return [(logits, Bernoulli(from_logits=True).deviation(logits))]


def _poisson(d: Any) -> list[tuple[tf.Tensor, tf.Tensor]]:
    log_rate = d.log_rate_parameter()
    return [(log_rate, Poisson().deviation(log_rate))]


def _exponential(d: Any) -> list[tuple[tf.Tensor, tf.Tensor]]:
    rate = tf.convert_to_tensor(d.rate)
    return [(rate, 1 / rate)]


@functools.cache
def _families() -> dict[type, Callable[[Any], list[tuple[tf.Tensor, tf.Tensor]]] | None]:
    """For each family its parameters with the standard deviations of their scores.

    Scores of different parameters are uncorrelated in all of them (Lehmann & Casella 1998, section 2.5), but
    in the categorical ones, `None`, whose root is another.
    """
    d = tfd()
    return {
        d.Normal: lambda p: _location_scale(p, 1.0, 2**0.5),
        d.LogNormal: lambda p: _location_scale(p, 1.0, 2**0.5),
        d.Laplace: lambda p: _location_scale(p, 1.0, 1.0),
        d.MultivariateNormalDiag: _multivariate_normal,
        d.Bernoulli: _bernoulli,
        d.Poisson: _poisson,
        d.Exponential: _exponential,
        d.Categorical: None,
        d.OneHotCategorical: None,
    }
