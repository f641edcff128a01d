"""The model linearised on one batch: J v and Jᵀ u, and with them F v for any model and any layer.

Jᵀ u is reverse mode. J v is the derivative of Jᵀ u in u along v (reverse mode twice, which is forward mode
of a linear map): nothing of the forward pass runs again, and there is no layer that it does not know.
Pearlmutter 1994; Schraudolph 2002; Martens 2010.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from kfisher._common import places, replicas
from kfisher._common.vectors import Tensors, dot
from kfisher.jacobian.batch_normalisation import statistics_held
from kfisher.jacobian.forward import forward, loss_of
from kfisher.jacobian.regularisers import ridge_of
from kfisher.likelihoods.weighted import Head

if TYPE_CHECKING:
    from kfisher.jacobian.batch import Batch


class Linearization:
    """F = Jᵀ F_f J + diag(ridge) on one batch, through products.

    Attributes:
        variables: The trainable variables, in the order of the model; vectors v are lists of tensors in
            their shapes.
        heads: The terms of the loss, at whose coordinates J begins.
        ridge: For each variable, the diagonal that its L2 regulariser adds to F, a float.
    """

    def __init__(
        self,
        variables: Any,
        values: Tensors,
        tape: tf.GradientTape,
        heads: list[Head],
        fisher: Any,
        seed: Any,
    ):
        self.variables = variables
        self.heads = heads
        self.ridge = [ridge_of(v) for v in variables]
        self._values = values
        self._tape = tape
        self._etas = [head.eta for head in heads]
        self._in_outputs = fisher.output_products(heads, seed)

    def pull(self, outputs: list[tf.Tensor]) -> Tensors:
        """Jᵀ u, for u a tensor for each output, in the shape of its coordinates eta."""
        found = self._tape.gradient(self._etas, self._values, outputs, unconnected_gradients="zero")
        return [tf.convert_to_tensor(g) for g in found]

    def push(self, vectors: Tensors) -> list[tf.Tensor]:
        """J v, a tensor for each output."""
        u = [tf.zeros_like(eta) for eta in self._etas]
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(u)
            pulled = self.pull(u)
        vectors = [tf.cast(v, p.dtype) for v, p in zip(vectors, pulled)]
        return outer.gradient(pulled, u, vectors, unconnected_gradients="zero")

    def matvec(self, vectors: Tensors) -> Tensors:
        """F v."""
        products = replicas.total(self.pull(self._in_outputs(self.push(vectors))))
        return [p + d * tf.cast(v, p.dtype) if d else p for p, d, v in zip(products, self.ridge, vectors)]

    def quadratic(self, vectors: list[Tensors]) -> tf.Tensor:
        """v_iᵀ F v_j for all pairs, `(k, k)` in float64: a forward-mode product for each, no reverse one."""
        pushed = [self.push(v) for v in vectors]
        weighed = [self._in_outputs(p) for p in pushed]
        products = tf.convert_to_tensor([[dot(a, b) for b in weighed] for a in pushed])
        ridged = [
            [sum(d * dot([a], [b]) for d, a, b in zip(self.ridge, v, w) if d) for w in vectors]
            for v in vectors
        ]
        (products,) = replicas.total([products])
        return products + tf.convert_to_tensor(ridged, tf.float64) if any(self.ridge) else products


def linearization(batch: Batch) -> Linearization:
    """One pass of the model over a batch, differentiated in its parameters."""
    variables = list(batch.model.trainable_variables)
    values = [tf.convert_to_tensor(v.value) for v in variables]
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(values)
        with forward(batch, values, lambda scope: statistics_held()) as outputs:
            heads = loss_of(batch, outputs, tape).heads
    with places.knowing(batch.sizes):
        return Linearization(variables, values, tape, heads, batch.fisher, batch.seed)
