"""Rules of layers whose rows are sums of products: U_rn = Σ_s l_rns ⊗ r_rns for each matrix of the layer."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kfisher._common.rows import broadcast_counts
from kfisher.jacobian.layers.base import Rule, outer
from kfisher.jacobian.layers.dense import gram_of_positions


class SumRule(Rule):
    """Layers of which each trainable matrix has its l and r; what has none of them is formed."""

    def sides(self, variable: keras.Variable) -> tuple[tf.Tensor, tf.Tensor] | None:
        """l and r, `(R, N, S, I)` and `(R, N, S, O)`, R = 1 in one that is the same for all; or `None`."""
        raise NotImplementedError

    def formed_rows(self, variable: keras.Variable) -> tf.Tensor:
        """U of a variable that has none, `(R, N, *variable.shape)`."""
        raise NotImplementedError

    def rows(self) -> list[tf.Tensor]:
        found = []
        for variable in self.variables:
            sides = self.sides(variable)
            if sides is None:
                found.append(self.formed_rows(variable))
            else:
                found.append(tf.matmul(*broadcast_counts(list(sides)), transpose_a=True))
        return found

    def matvec(self, vectors: Any) -> Any:
        parts = []
        for variable, vector in zip(self.variables, vectors):
            sides = self.sides(variable)
            if sides is None:
                rows = self.formed_rows(variable)
                parts.append(tf.tensordot(rows, tf.cast(vector, rows.dtype), len(variable.shape)))
            else:
                left, right = sides
                seen = tf.tensordot(left, tf.cast(vector, left.dtype), 1)
                parts.append(tf.reduce_sum(seen * right, [2, 3]))
        return tf.add_n(parts)

    def rmatvec(self, coefficients: Any) -> Any:
        found = []
        for variable in self.variables:
            sides = self.sides(variable)
            if sides is None:
                rows = self.formed_rows(variable)
                found.append(tf.tensordot(tf.cast(coefficients, rows.dtype), rows, 2))
            else:
                weights = tf.cast(coefficients, sides[0].dtype)[:, :, tf.newaxis, tf.newaxis]
                # On the side that has R, which is then summed away where the other has none.
                place = 1 if sides[0].shape[0] == 1 else 0
                both = [t * weights if i == place else t for i, t in enumerate(sides)]
                if both[1 - place].shape[0] == 1:
                    both[place] = tf.reduce_sum(both[place], 0, keepdims=True)
                flat = [tf.reshape(t, [-1, t.shape[-1]]) for t in both]
                found.append(tf.matmul(*flat, transpose_a=True))
        return found

    def gram(self, scales: Any) -> Any:
        parts = []
        for variable, scale in zip(self.variables, scales):
            sides = self.sides(variable)
            parts.append(scale * (outer(self.formed_rows(variable)) if sides is None else _gram(*sides)))
        return tf.add_n(parts)


def _gram(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    if left.shape[0] == 1:
        return gram_of_positions(left[0][:, :, tf.newaxis], right[:, :, :, tf.newaxis])
    # Every pair (r, n) as an example.
    left, right = (
        tf.reshape(t, tf.concat([[-1], tf.shape(t)[2:]], 0)) for t in broadcast_counts([left, right])
    )
    return gram_of_positions(left[:, :, tf.newaxis], right[tf.newaxis, :, :, tf.newaxis])
