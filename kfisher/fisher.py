"""Three Fishers that differ only in where the labels come from.

For a position with outputs f, each kind gives vectors V (C, R) so that F_f = V V^T is, in turn,

    Exact      E_p(y|f)[ s(y) s(y)^T ]            labels averaged over the model
    Sampled    1/k sum_r s(y_r) s(y_r)^T          labels y_r ~ p(y | f) drawn from the model
    Empirical  s(y_n) s(y_n)^T                    the label of the data

with the score s(y) = d/df log p(y | f). Kunstner, Balles, Hennig 2019, equations (3)-(5).
Nothing downstream knows which kind it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher.checks import positive_integer
from kfisher.heads import Head
from kfisher.likelihoods import Likelihood

register = keras.saving.register_keras_serializable("kfisher")


class Fisher:
    """Where the labels come from.

    Attributes:
        needs_labels: Whether they come from the data.
        joint: Whether the vectors of all outputs and positions of an example belong to one draw of
            labels, and so are pulled back together; otherwise each position has columns of its own.
        draws: Whether labels are drawn.
    """

    needs_labels = False
    joint = True
    draws = False

    def divergence(self, size: tf.Tensor) -> tf.Tensor:
        """The size of delta^T F delta for a step that changes the loss by as much as its `size`."""
        return size

    def check_labels(self, y: Any) -> None:
        """Raises if the labels of the data are needed and missing."""
        if self.needs_labels and y is None:
            raise ValueError(f"{type(self).__name__}() takes the labels of the data. Received: y=None")

    def vectors(
        self, likelihood: Likelihood, eta: tf.Tensor, labels: tf.Tensor | None, seed: tf.Tensor
    ) -> tf.Tensor:
        """V for one output.

        Args:
            likelihood: p(y | f).
            eta: Its coordinates, shape `(N, ..., C)`.
            labels: The labels of the data in the shape of `eta`, or `None` if there are none.
            seed: Integer tensor of shape `(2,)`, for labels that are drawn.

        Returns:
            `Sampled`, `Empirical`: the vectors, shape `(R, N, ..., C)`. `Exact`: the columns of the
            root, `(R, N, ..., C)` with R = C, to be pulled back for each position on its own.
        """
        raise NotImplementedError

    def gradient_coordinates(
        self, likelihood: Likelihood, eta: tf.Tensor, labels: tf.Tensor
    ) -> tf.Tensor | None:
        """c of shape `(N, ..., R)` with V c = the gradient of -log p(y | f) in eta, if there is one."""
        return None

    def output_products(self, heads: list[Head], seed: tf.Tensor) -> Callable:
        """F_f u on a batch, weights included; takes and returns a tensor in the shape of eta for each head.

        With the vectors of a draw of labels, sum_r v_rn (v_rn . u_n) over all heads and positions of an
        example together, as they are pulled back.
        """
        vectors = [
            self.vectors(head.likelihood, head.eta, head.labels, head_seed(seed, i)) * head.root_weights
            for i, head in enumerate(heads)
        ]

        def product(parts: list[tf.Tensor]) -> list[tf.Tensor]:
            c = tf.add_n([tf.reduce_sum(v * u, list(range(2, v.shape.rank))) for v, u in zip(vectors, parts)])
            along = [tf.reshape(c, tf.concat([tf.shape(c), [1] * (v.shape.rank - 2)], 0)) for v in vectors]
            return [tf.reduce_sum(a * v, 0) for a, v in zip(along, vectors)]

        return product

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Fisher:
        return cls(**config)


@register
class Exact(Fisher):
    """The Fisher matrix, the expectation over labels taken exactly; R = C.

    For squared error, cross-entropies and Poisson with log link it equals the generalised
    Gauss-Newton matrix of the loss (Martens 2020; Kunstner et al. 2019, section 3.1).

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(fisher=kfisher.Exact())
    """

    joint = False

    def output_products(self, heads, seed):
        weights = [tf.square(head.root_weights) for head in heads]

        def product(parts):
            return [
                w * head.likelihood.fisher_product(head.eta, u)
                for head, w, u in zip(heads, weights, parts)
            ]

        return product

    def gradient_coordinates(self, likelihood, eta, labels):
        white = likelihood.whiten(eta, likelihood.score(eta, labels))
        return None if white is None else -white

    def vectors(self, likelihood, eta, labels, seed):
        root = likelihood.fisher_root(eta)
        rank = root.shape.rank
        return tf.transpose(root, [rank - 1, *range(rank - 1)])


@register
class Sampled(Fisher):
    """The Fisher matrix by Monte Carlo: labels are drawn from the model; R = `num_samples`.

    An unbiased estimate of `Exact` at the cost of `num_samples` backward passes.

    Args:
        num_samples: Positive integer k, labels drawn for each example. The error falls as 1/sqrt(k).

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(fisher=kfisher.Sampled(num_samples=4))
    """

    draws = True

    def __init__(self, num_samples: int = 1):
        self.num_samples = positive_integer("num_samples", num_samples)

    def vectors(self, likelihood, eta, labels, seed):
        y = tf.stop_gradient(likelihood.sample(eta, self.num_samples, seed))
        scores = tf.vectorized_map(lambda label: likelihood.score(eta, label), y)
        return scores / tf.sqrt(tf.cast(self.num_samples, eta.dtype))

    def get_config(self) -> dict[str, Any]:
        return {"num_samples": self.num_samples}


@register
class Empirical(Fisher):
    """The empirical Fisher: the labels of the data; R = 1.

    The same expression as `Sampled(1)`, the same cost, and not a Fisher matrix: it is the uncentred
    covariance of the gradients (Kunstner, Balles, Hennig 2019, section 4).

    Example:

    >>> optimizer = kfisher.optimizers.EmpiricalNaturalGradient()
    """

    needs_labels = True

    def divergence(self, size):
        """delta^T EF delta = sum_n w_n (g_n . delta)^2, the mean square change of the losses of examples."""
        return size**2

    def gradient_coordinates(self, likelihood, eta, labels):
        return -tf.ones_like(eta[..., :1])

    def vectors(self, likelihood, eta, labels, seed):
        return likelihood.score(eta, labels)[tf.newaxis]


def head_seed(seed: tf.Tensor, position: int) -> tf.Tensor:
    """The seed for the labels of one of several outputs."""
    return tf.random.experimental.stateless_fold_in(seed, position)


_BY_NAME = {"exact": Exact, "sampled": Sampled, "empirical": Empirical}


def get(identifier: str | Fisher | dict) -> Fisher:
    """A Fisher from its name ("exact", "sampled", "empirical"), its config, or itself."""
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, str) and identifier in _BY_NAME:
        return _BY_NAME[identifier]()
    if isinstance(identifier, Fisher):
        return identifier
    raise ValueError(
        "`fisher` must be 'exact', 'sampled', 'empirical', or an instance of kfisher.Exact, "
        f"kfisher.Sampled or kfisher.Empirical. Received: fisher={identifier!r}"
    )
