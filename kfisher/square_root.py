"""The square root A of the Fisher: F = A^T A + diag(ridge), with rows sqrt(w_n) U_n.

Built from one recorded pass over a batch; A itself is never formed here, only its products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher import layers
from kfisher.fisher import Fisher, head_seed
from kfisher.heads import Head, example_weights, mean_weights
from kfisher.layers.dense import flatten_positions
from kfisher.likelihoods import Likelihood
from kfisher.recorded import record
from kfisher.vectors import Tensors, dot


class SquareRoot:
    """F = A^T A + diag(ridge) on one batch, through products with A.

    With R vectors for each of N examples A has R N rows; vectors u are `(R, N)` tensors. It has one
    column for each parameter; vectors v are lists of tensors in the shapes of `variables`.

    Attributes:
        variables: The trainable variables, in the order of the model.
        rules: What each layer says about its part of A.
        ridge: For each variable, the diagonal that its L2 regulariser adds to F, a float.
        coordinates: c with A^T c = the gradient of the likelihood part of L, `(R, N)`; `None` where the
            gradient is not in the row space of A (sampled labels, or no labels).
        other_losses: Whether L has parts that are neither likelihood nor L2 regulariser.
        example_weights: w_n over their sum, `(N,)`, or `None` if A was not made from a batch.
        total_weight: The sum of w_n.
        improved: t with A^T t the gradient in which example n counts || d l_n / d f_n ||^2 times, `(R, N)`;
            `None` unless the rows are those of examples.
        xla: Whether all this is to be compiled by XLA.
        loss: That of the model on the batch, a scalar, or `None` if A was not made from a batch.
    """

    def __init__(
        self,
        variables: list[keras.Variable],
        rules: list[layers.Rule],
        coordinates: tf.Tensor | None = None,
        other_losses: bool = False,
        xla: bool = False,
        example_weights: tf.Tensor | None = None,
        total_weight: tf.Tensor | None = None,
        improved: tf.Tensor | None = None,
        loss: tf.Tensor | None = None,
    ):
        self.loss = loss
        self.total_weight = total_weight
        self.improved = improved
        self.example_weights = example_weights
        self.other_losses = other_losses
        self.variables = variables
        self.xla = xla
        self.ridge = [ridge_of(v) for v in variables]
        self.coordinates = coordinates
        self.rules = rules
        self._index = {id(v): i for i, v in enumerate(variables)}

    def ridge_gradient(self) -> Tensors:
        """The gradient of the L2 regularisers, diag(ridge) theta."""
        return [d * tf.convert_to_tensor(v.value) for d, v in zip(self.ridge, self.variables)]

    @property
    def num_rows(self) -> int | tf.Tensor:
        """N R."""
        grads = self.rules[0].sites[0].grads[0]
        static = grads.shape[:2].num_elements()
        return tf.reduce_prod(tf.shape(grads)[:2]) if static is None else static

    def _positions(self, rule: layers.Rule) -> list[int]:
        return [self._index[id(v)] for v in rule.variables]

    def matvec(self, vectors: Tensors) -> tf.Tensor:
        """A v, shape `(R, N)`."""
        return tf.add_n([r.matvec([vectors[i] for i in self._positions(r)]) for r in self.rules])

    def rmatvec(self, coefficients: tf.Tensor) -> Tensors:
        """A^T u, in the shapes of the variables."""
        found = [tf.zeros(v.shape, v.dtype) for v in self.variables]
        for rule in self.rules:
            for i, part in zip(self._positions(rule), rule.rmatvec(coefficients)):
                found[i] = tf.cast(part, found[i].dtype)
        return found

    def squared_length(self, vectors: Tensors) -> tf.Tensor:
        """v^T F v in float64."""
        seen = tf.cast(self.matvec(vectors), tf.float64)
        ridged = [d * dot([v], [v]) for d, v in zip(self.ridge, vectors) if d]
        return tf.add_n([tf.reduce_sum(tf.square(seen)), *ridged])

    def gram(self, scales: Tensors) -> tf.Tensor:
        """sum_i scales[i] A_i A_i^T over the variables i, shape `(R N, R N)`."""
        return tf.add_n([r.gram([scales[i] for i in self._positions(r)]) for r in self.rules])

    def rows(self) -> tf.Tensor:
        """A, shape `(R N, P)`: for small P."""
        pieces: list[Any] = [None] * len(self.variables)
        for rule in self.rules:
            for i, part in zip(self._positions(rule), rule.rows()):
                pieces[i] = tf.reshape(part, [tf.shape(part)[0] * tf.shape(part)[1], -1])
        count = tf.shape(next(p for p in pieces if p is not None))[0]
        for i, variable in enumerate(self.variables):
            if pieces[i] is None:  # a variable that this batch never used
                pieces[i] = tf.zeros([count, variable.shape.num_elements()], variable.dtype)
        return tf.concat(pieces, 1)


def square_root(
    model: keras.Model,
    x: Any,
    y: Any,
    sample_weight: Any,
    *,
    fisher: Fisher,
    seed: tf.Tensor,
    training: bool,
    likelihood: Likelihood | None = None,
    compute_loss: Callable | None = None,
) -> SquareRoot:
    """One recorded pass of `model` over a batch.

    Args:
        model: A built and compiled model.
        x, y, sample_weight: The batch, as `train_step` gets it; `y` may be `None` unless `fisher` needs
            the labels of the data.
        fisher: Where the labels come from.
        seed: Integer tensor of shape `(2,)` for labels drawn from the model.
        training: Whether layers run in training mode.
        likelihood: Used instead of the one of the compiled loss (of every output).
        compute_loss: Used instead of that of the model.
    """
    fisher.check_labels(y)
    recorded = record(model, x, y, sample_weight, training, likelihood, compute_loss)
    heads = recorded.heads
    groups, coordinates = weighted_vectors(heads, fisher, seed)
    recorded.pull_back(groups)
    shares, total_weight = example_weights(heads)
    return SquareRoot(
        recorded.variables,
        layers.rules(recorded.sites),
        coordinates=coordinates,
        other_losses=recorded.other_losses,
        xla=bool(model.jit_compile),
        example_weights=shares,
        total_weight=total_weight,
        improved=_improved(heads, groups) if fisher.joint else None,
        loss=recorded.loss,
    )


def weighted_vectors(heads: list[Head], fisher: Fisher, seed: tf.Tensor):
    """Weighted V for `taps.pull_back`, and the coordinates of the gradient in its rows."""
    columns, coordinates = [], []
    for i, head in enumerate(heads):
        v = fisher.vectors(head.likelihood, head.eta, head.labels, head_seed(seed, i)) * head.root_weights
        c = None
        if head.labels is not None:
            c = fisher.gradient_coordinates(head.likelihood, head.eta, head.labels)
        coordinates.append(None if c is None else c * head.root_weights)
        columns.append((head.eta, v))
    if fisher.joint:
        single = len(heads) == 1 and heads[0].eta.shape[1:-1].num_elements() == 1
        c = coordinates[0] if single else None
        return [columns], None if c is None else tf.reshape(c, [1, -1])
    groups = [[(eta, _one_position_at_a_time(v))] for eta, v in columns]
    if any(c is None for c in coordinates):
        return groups, None
    return groups, tf.concat([_to_rows(c) for c in coordinates], 0)


def _improved(heads: list[Head], groups: list) -> tf.Tensor:
    """-sum phi |v_rn|^2 / sqrt(w_n) over all outputs and positions, `(R, N)`."""
    squares = [
        head.likelihood.dispersion(head.eta) * tf.reduce_sum(tf.square(v), list(range(2, v.shape.rank)))
        for head, (_, v) in zip(heads, groups[0])
    ]
    return -tf.math.divide_no_nan(tf.add_n(squares), tf.sqrt(mean_weights(heads)))


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


def ridge_of(variable: keras.Variable) -> float:
    """The Hessian of l2 * sum(theta^2) is 2 l2 on the diagonal."""
    regularizer = variable.regularizer
    known = isinstance(regularizer, (keras.regularizers.L2, keras.regularizers.L1L2))
    return 2 * float(regularizer.l2) if known else 0.0
