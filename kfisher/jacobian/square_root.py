"""The square root A of the Fisher: F = Aᵀ A + diag(ridge), with rows √(w_n) U_n.

Built from one recorded pass over a batch; A itself is never formed here, only its products.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from kfisher._common import memory, places, replicas
from kfisher._common.vectors import Tensors, alike, dot
from kfisher.fisher import Columns
from kfisher.jacobian import layers
from kfisher.jacobian.forward import Loss, forward, loss_of
from kfisher.jacobian.layer_calls import LayerCall, tapped
from kfisher.jacobian.pull_back import pull_back
from kfisher.jacobian.regularisers import ridge_of
from kfisher.jacobian.self_check import SelfCheck

if TYPE_CHECKING:
    from kfisher.jacobian.batch import Batch


class SquareRoot:
    """F = Aᵀ A + diag(ridge) on one batch, through products with A.

    With R vectors for each of N examples A has R N rows; vectors u are `(R, N)` tensors. It has one
    column for each parameter; vectors v are lists of tensors in the shapes of `variables`.

    Attributes:
        variables: The trainable variables, in the order of the model.
        rules: What each layer says about its part of A.
        ridge: For each variable, the diagonal that its L2 regulariser adds to F, a float.
        loss: That of the batch.
        columns: V, weighted, with the coordinates of the gradient.
        coordinates: c with Aᵀ c = the gradient of the likelihood part of L, `(R, N)`; `None` where the
            gradient is not in the row space of A (sampled labels, or no labels).
        xla: Whether all this is to be compiled by XLA.
    """

    def __init__(
        self,
        variables: list[keras.Variable],
        rules: list[layers.Rule],
        loss: Loss,
        columns: Columns,
        xla: bool,
    ):
        self.variables = variables
        self.rules = rules
        self.ridge = [ridge_of(v) for v in variables]
        self.loss = loss
        self.columns = columns
        self.coordinates = columns.coordinates
        self.xla = xla
        self._index = {id(v): i for i, v in enumerate(variables)}
        self._size = sum(math.prod(v.shape) for v in variables)
        self._num_rows: int | tf.Tensor | None = None

    def of_all(self) -> SquareRoot:
        """A of the whole batch, on every replica, from those of its parts."""
        if replicas.count() == 1:
            return self
        whole = copy.copy(self)
        shape = tf.shape(self.rules[0].layer_calls[0].grads[0])
        whole._num_rows = shape[0] * places.placed(shape[1])[1]
        kept: dict = {}
        whole.rules = [rule.of_all(kept) for rule in self.rules]
        if self.coordinates is not None:
            whole.coordinates = replicas.gathered(self.coordinates, 1)
        return whole

    def ridge_gradient(self) -> Tensors:
        """The gradient of the L2 regularisers, diag(ridge) θ."""
        return [d * tf.convert_to_tensor(v.value) for d, v in zip(self.ridge, self.variables)]

    @property
    def num_rows(self) -> int | tf.Tensor:
        """N R."""
        if self._num_rows is not None:
            return self._num_rows
        grads = self.rules[0].layer_calls[0].grads[0]
        static = grads.shape[:2].num_elements()
        return tf.reduce_prod(tf.shape(grads)[:2]) if static is None else static

    def _positions(self, rule: layers.Rule) -> list[int]:
        return [self._index[id(v)] for v in rule.variables]

    def matvec(self, vectors: Tensors) -> tf.Tensor:
        """A v, shape `(R, N)`."""
        return tf.add_n(alike([r.matvec([vectors[i] for i in self._positions(r)]) for r in self.rules]))

    def rmatvec(self, coefficients: tf.Tensor) -> Tensors:
        """Aᵀ u, in the shapes of the variables."""
        found = [tf.zeros(v.shape, v.dtype) for v in self.variables]
        for rule in self.rules:
            for i, part in zip(self._positions(rule), rule.rmatvec(coefficients)):
                found[i] = tf.cast(part, found[i].dtype)
        return found

    def squared_length(self, vectors: Tensors) -> tf.Tensor:
        """vᵀ F v in float64."""
        seen = tf.cast(self.matvec(vectors), tf.float64)
        ridged = [d * dot([v], [v]) for d, v in zip(self.ridge, vectors) if d]
        return tf.add_n([tf.reduce_sum(tf.square(seen)), *ridged])

    def gram(self, scales: Tensors) -> tf.Tensor:
        """Σ_i scales[i] A_i A_iᵀ over the variables i, shape `(R N, R N)`; an error where too large."""
        # A sum, and a term of it that is a product of two.
        entry = 3.0 * max(tf.as_dtype(v.dtype).size for v in self.variables)
        with tf.control_dependencies(self._fits("The Gram matrix", lambda rows: entry * rows**2)):
            return tf.add_n(alike([r.gram([scales[i] for i in self._positions(r)]) for r in self.rules]))

    def _fits(self, what: str, needed: Callable) -> list[tf.Operation]:
        """Raises if something, of which the number of rows says the bytes, does not fit into memory."""
        rows = self.num_rows
        return memory.require(
            needed(tf.cast(rows, tf.float64) if tf.is_tensor(rows) else float(rows)),
            f"{what} of all rows (examples times vectors of each)",
            "Take fewer examples, curvature='kfac', or products alone (curvature='matrix_free', `matvec`).",
            rows=rows,
            parameters=self._size,
        )

    def rows(self) -> tf.Tensor:
        """A, shape `(R N, P)`: for small P; an error where too large."""
        # Its pieces, and all of them side by side.
        row = 2.0 * self._size * max(tf.as_dtype(v.dtype).size for v in self.variables)
        with tf.control_dependencies(self._fits("The square root", lambda rows: row * rows)):
            return self._rows()

    def _rows(self) -> tf.Tensor:
        pieces: list[Any] = [None] * len(self.variables)
        for rule in self.rules:
            for i, part in zip(self._positions(rule), rule.rows()):
                pieces[i] = tf.reshape(part, [tf.shape(part)[0] * tf.shape(part)[1], -1])
        count = tf.shape(next(p for p in pieces if p is not None))[0]
        for i, variable in enumerate(self.variables):
            if pieces[i] is None:  # a variable that this batch never used
                pieces[i] = tf.zeros([count, variable.shape.num_elements()], variable.dtype)
        return tf.concat(alike(pieces), 1)


class Recorded:
    """A pass with the calls of its layers recorded, through which vectors can be pulled back.

    Attributes:
        loss: The loss at its end.
        layer_calls: Those of layers with trainable variables.
    """

    def __init__(self, batch: Batch):
        self._plan = batch.plan
        layers.tapped(self._plan)  # refuses what no rule can take
        calls: list[LayerCall] = []
        with SelfCheck(self._plan, batch) as check:
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:

                def around(scope: Any) -> Any:
                    return tapped(self._plan, scope, tape, calls, batch.size)

                with forward(batch, check.values, around) as outputs:
                    self.loss = loss_of(batch, outputs, tape)
        if not calls:
            unused = [v.path for v in batch.model.trainable_variables]
            raise ValueError(
                f"The outputs of the model {batch.model.name!r} depend on none of its trainable variables, "
                f"so there is no Fisher matrix of these. Received: trainable variables {unused}"
            )
        self._tape, self._check, self.layer_calls = tape, check, calls

    def rules(self, groups: list[list[tuple[tf.Tensor, tf.Tensor]]]) -> list[layers.Rule]:
        """The rows that these vectors at the outputs make, layer by layer.

        Raises:
            ValueError: The first time, if a layer says something else than automatic differentiation; an
                `tf.errors.InvalidArgumentError` in a graph.
        """
        pull_back(self._plan, self._tape, self.layer_calls, groups)
        found = layers.rules(self.layer_calls)
        self._check(found, groups)
        return found


def square_root(batch: Batch) -> SquareRoot:
    """A of the kind of Fisher that the batch asks for."""
    # 1. One pass of the model, with the calls of its layers.
    recorded = Recorded(batch)
    # 2. V, so that V Vᵀ = w_n F_f; only here the three kinds differ.
    with places.knowing(batch.sizes):
        columns = batch.fisher.columns(recorded.loss.heads, batch.seed)
    # 3. U_n = V_nᵀ J_n, in what its layers say of it.
    rules = recorded.rules(columns.groups)
    return SquareRoot(list(batch.model.trainable_variables), rules, recorded.loss, columns, batch.xla)
