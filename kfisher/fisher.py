"""Three Fishers that differ only in where the labels come from.

For a position with outputs f, each kind gives vectors V (C, R) so that F_f = V Vᵀ is, in turn,

    Exact      E_p(y|f)[ s(y) s(y)ᵀ ]            labels averaged over the model
    Sampled    1/k Σ_r s(y_r) s(y_r)ᵀ          labels y_r ~ p(y | f) drawn from the model
    Empirical  s(y_n) s(y_n)ᵀ                    the label of the data

with the score s(y) = d/df log p(y | f). Kunstner, Balles, Hennig 2019, equations (3)-(5).
Nothing downstream knows which kind it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kfisher._common import places, replicas
from kfisher._common.checks import deserialized, positive_integer, wrong
from kfisher._common.rows import flatten_positions
from kfisher.likelihoods import Likelihood
from kfisher.likelihoods.weighted import Head, Weights

register = keras.saving.register_keras_serializable("kfisher")

# Labels drawn for each example where a step is measured by a family without a known Fisher.
_DRAWS = 4


class Columns(NamedTuple):
    """V of a batch.

    Attributes:
        groups: Groups of `(eta, V)` for each output, V of shape `(R, *eta.shape)`: those of one group are
            pulled back together, groups are stacked.
        coordinates: c with V c = the gradient of the likelihood part of L, `(sum R, N)`, or `None`.
    """

    groups: list[list[tuple[tf.Tensor, tf.Tensor]]]
    coordinates: tf.Tensor | None


class Fisher:
    """Where the labels come from.

    Attributes:
        needs_labels: Whether they come from the data.
        exact: Whether it is the expectation over labels of the model, and no estimate or imitation of it.
    """

    needs_labels = False
    exact = False

    @property
    def expectation(self) -> Fisher:
        """The kind without the noise of drawn labels."""
        return Expected()

    def divergence(self, size: tf.Tensor, weights: Weights) -> tf.Tensor:
        """δᵀ F δ of a step that changes the loss by its `size`.

        Under absolute error F does not know how large the errors are: C outputs of weight w that move by
        their error have w C (|f - y| / b)², and all together `size²` / B or more, with B = Σ w C. Beside
        other errors no more than `size`, of which F knows.

        Args:
            size: Of the loss, a scalar.
            weights: What its values weigh together.
        """
        unknown = tf.math.divide_no_nan(size**2, tf.cast(weights.bounded, size.dtype))
        unknown = tf.where(weights.others > 0, tf.minimum(size, unknown), unknown)
        return tf.where(weights.bounded > 0, unknown, size)

    def check_labels(self, y: Any) -> None:
        """Raises if the labels of the data are needed and missing."""
        if self.needs_labels and y is None:
            raise ValueError(f"{type(self).__name__}() takes the labels of the data. Received: y=None")

    def labels(
        self, likelihood: Likelihood, eta: tf.Tensor, labels: tf.Tensor | None, seed: tf.Tensor
    ) -> tf.Tensor:
        """The labels of this kind, `(R, *eta.shape)`; arguments as for `vectors`."""
        raise NotImplementedError

    def vectors(
        self, likelihood: Likelihood, eta: tf.Tensor, labels: tf.Tensor | None, seed: tf.Tensor
    ) -> tf.Tensor:
        """V = score(eta, labels) / √(R) for one output.

        Args:
            likelihood: p(y | f).
            eta: Its coordinates, shape `(N, ..., C)`.
            labels: The labels of the data in the shape of `eta`, or `None` if there are none.
            seed: Integer tensor of shape `(2,)`, for labels that are drawn.

        Returns:
            The vectors, shape `(R, N, ..., C)`.
        """
        y = self.labels(likelihood, eta, labels, seed)
        if y.shape[0] == 1:
            return likelihood.score(eta, y[0])[tf.newaxis]
        scores = tf.vectorized_map(lambda label: likelihood.score(eta, label), y)
        return scores / tf.sqrt(tf.cast(y.shape[0], eta.dtype))

    def columns(self, heads: list[Head], seed: tf.Tensor) -> Columns:
        """V of a batch, weights included.

        All outputs and positions of an example have their labels together, so that their vectors are pulled
        back together.
        """
        vectors, coordinates = self._weighted(heads, seed)
        single = len(heads) == 1 and heads[0].eta.shape[1:-1].num_elements() == 1
        c = coordinates[0] if single else None
        return Columns([vectors], None if c is None else tf.reshape(c, [1, -1]))

    def _weighted(self, heads: list[Head], seed: tf.Tensor) -> tuple[list, list]:
        """`(eta, sqrt(w) V)` of each head, and the coordinates of its gradient in them."""
        vectors, coordinates = [], []
        for i, head in enumerate(heads):
            v = self.vectors(head.likelihood, head.eta, head.labels, head_seed(seed, i))
            c = None
            if head.labels is not None:
                c = self.gradient_coordinates(head.likelihood, head.eta, head.labels)
            vectors.append((head.eta, v * head.root_weights))
            coordinates.append(None if c is None else c * head.root_weights)
        return vectors, coordinates

    def gradient_coordinates(
        self, likelihood: Likelihood, eta: tf.Tensor, labels: tf.Tensor
    ) -> tf.Tensor | None:
        """c of shape `(N, ..., R)` with V c = the gradient of -log p(y | f) in eta, if there is one."""
        return None

    def output_products(self, heads: list[Head], seed: tf.Tensor) -> Callable:
        """F_f u on a batch, weights included; takes and returns a tensor in the shape of eta for each head.

        With the vectors of a draw of labels, Σ_r v_rn (v_rn . u_n) over all heads and positions of an
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

    exact = True

    @property
    def expectation(self) -> Any:
        return self

    def output_products(self, heads: list[Head], seed: Any) -> Any:
        weights = [tf.square(head.root_weights) for head in heads]

        def product(parts: Any) -> Any:
            return [
                w * head.likelihood.fisher_product(head.eta, u) for head, w, u in zip(heads, weights, parts)
            ]

        return product

    def gradient_coordinates(self, likelihood: Likelihood, eta: Any, labels: Any) -> Any:
        white = likelihood.whiten(eta, likelihood.score(eta, labels))
        return None if white is None else -white

    def vectors(self, likelihood: Likelihood, eta: Any, labels: Any, seed: Any) -> Any:
        """The columns of a root of F_f, R = C."""
        root = likelihood.fisher_root(eta)
        rank = root.shape.rank
        return tf.transpose(root, [rank - 1, *range(rank - 1)])

    def columns(self, heads: list[Head], seed: Any) -> Any:
        """V of a batch: each position has columns of its own, as the labels of one say nothing of another."""
        vectors, coordinates = self._weighted(heads, seed)
        groups = [[(eta, _one_position_at_a_time(v))] for eta, v in vectors]
        if any(c is None for c in coordinates):
            return Columns(groups, None)
        return Columns(groups, tf.concat([_to_rows(c) for c in coordinates], 0))


@register
class Sampled(Fisher):
    """The Fisher matrix by Monte Carlo: labels are drawn from the model; R = `num_samples`.

    An unbiased estimate of `Exact` at the cost of `num_samples` backward passes.

    Args:
        num_samples: Positive integer k, labels drawn for each example. The error falls as 1/√(k).

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(fisher=kfisher.Sampled(num_samples=4))
    """

    def __init__(self, num_samples: int = 1):
        self.num_samples = positive_integer("num_samples", num_samples)

    def labels(self, likelihood: Likelihood, eta: Any, labels: Any, seed: Any) -> Any:
        return tf.stop_gradient(_drawn_in_place(likelihood, eta, self.num_samples, seed))

    def get_config(self) -> dict[str, Any]:
        return {"num_samples": self.num_samples}


class Expected(Fisher):
    """`Exact` where the family of an output is known, else the mean over labels drawn anew.

    By this, steps are measured that come from an estimate.
    """

    def output_products(self, heads: list[Head], seed: Any) -> Any:
        products = []
        for i, head in enumerate(heads):
            kind = Exact() if head.likelihood.is_known(head.eta) else Sampled(_DRAWS)
            anew = tf.random.experimental.stateless_fold_in(seed, i + 1)
            products.append(kind.output_products([head], anew))
        return lambda parts: [product([u])[0] for product, u in zip(products, parts)]


@register
class Empirical(Fisher):
    """The empirical Fisher: the labels of the data; R = 1.

    The same expression as `Sampled(1)`, the same cost, and not a Fisher matrix: it is the uncentred
    covariance of the gradients (Kunstner, Balles, Hennig 2019, section 4).

    Example:

    >>> optimizer = kfisher.optimizers.EmpiricalNaturalGradient()
    """

    needs_labels = True

    def divergence(self, size: Any, weights: Any) -> Any:
        """δᵀ EF δ = Σ_n w_n (g_n . δ)², where all losses change alike (Σ_n w_n g_n . δ)² / Σ_n w_n."""
        return tf.math.divide_no_nan(size**2, tf.cast(weights.values, size.dtype))

    def gradient_coordinates(self, likelihood: Likelihood, eta: Any, labels: Any) -> Any:
        return -tf.ones_like(eta[..., :1])

    @property
    def expectation(self) -> Any:
        return self

    def labels(self, likelihood: Likelihood, eta: Any, labels: Any, seed: Any) -> Any:
        return labels[tf.newaxis]


def _one_position_at_a_time(v: tf.Tensor) -> tf.Tensor:
    """`(R, N, S.., C)` to `(S R, N, S.., C)`: the vectors of every position with zeros at the others."""
    flat = flatten_positions(v, 2, 1)
    if flat.shape[2] == 1:
        return v
    eye = tf.eye(tf.shape(flat)[2], dtype=v.dtype)
    spread = tf.einsum("rnsc,st->srntc", flat, eye)
    known = None not in (flat.shape[0], flat.shape[2])
    shape = tf.shape(v)
    spread = tf.reshape(spread, tf.concat([[-1], shape[1:]], 0))
    return tf.ensure_shape(spread, [flat.shape[0] * flat.shape[2] if known else None, *v.shape[1:]])


def _to_rows(c: tf.Tensor) -> tf.Tensor:
    """`(N, S.., R)` coordinates in the row order of `_one_position_at_a_time`, `(S R, N)`."""
    flat = flatten_positions(c, 1, 1)
    return tf.reshape(tf.transpose(flat, [1, 2, 0]), [-1, tf.shape(c)[0]])


def _drawn_in_place(likelihood: Likelihood, eta: tf.Tensor, count: int, seed: tf.Tensor) -> tf.Tensor:
    """`likelihood.draw`: of the labels of all replicas, drawn at once, those of the examples here.

    A draw depends on its place among all that are drawn with the same seed, and on no other outputs.
    """
    if replicas.count() == 1:
        return likelihood.draw(eta, count, seed)
    here = tf.shape(eta)[0]
    before, all_of_them = places.placed(here)
    before = tf.minimum(before, all_of_them - here)  # of an example that does not count, and has no place
    # The outputs of others may be any that are valid: copies of some of these.
    position = tf.range(all_of_them) - before
    own = (position >= 0) & (position < here)
    drawn = likelihood.draw(tf.gather(eta, tf.where(own, position, 0)), count, seed)
    return tf.ensure_shape(drawn[:, before : before + here], [count, *eta.shape])


def head_seed(seed: tf.Tensor, position: int) -> tf.Tensor:
    """The seed for the labels of one of several outputs."""
    return tf.random.experimental.stateless_fold_in(seed, position)


_BY_NAME = {"exact": Exact, "sampled": Sampled, "empirical": Empirical}


def get(identifier: str | Fisher | dict) -> Fisher:
    """A Fisher from its name ("exact", "sampled", "empirical"), its config, or itself."""
    identifier = deserialized("fisher", identifier)
    if isinstance(identifier, str) and identifier in _BY_NAME:
        return _BY_NAME[identifier]()
    if isinstance(identifier, Fisher):
        return identifier
    kind = (
        "'exact', 'sampled', 'empirical', or an instance of kfisher.Exact, kfisher.Sampled or "
        "kfisher.Empirical"
    )
    raise wrong("fisher", kind, identifier, Fisher)
