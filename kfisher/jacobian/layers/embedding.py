"""Embedding: a matrix product with one-hot inputs that are never formed."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kfisher._common.rows import flatten_positions
from kfisher.jacobian.layer_calls import LayerCall
from kfisher.jacobian.layers.base import AffineRule
from kfisher.jacobian.layers.blocks import Block, matrix
from kfisher.jacobian.layers.outer_products import Lookup


class EmbeddingRule(AffineRule):
    """Embedding: a_ns . a_mt is 1 where two positions look up the same row, and 0 elsewhere."""

    name = "embedding"
    layers = (keras.layers.Embedding,)
    parameters = ("embeddings",)

    of_all = AffineRule.of_gathered_calls

    def _positions(self) -> tuple[tf.Tensor, tf.Tensor]:
        indices = [_flat_indices(layer_call) for layer_call in self.layer_calls]
        grads = [flatten_positions(layer_call.grads[0], 2, 1) for layer_call in self.layer_calls]
        return tf.concat(indices, 1), tf.concat(grads, 2)

    @classmethod
    def applies(cls, tap: Any) -> bool:
        """Also of a `ReversibleEmbedding` that no call reverses."""
        reversible = getattr(keras.layers, "ReversibleEmbedding", keras.layers.Embedding)
        if type(tap.layer).call is not reversible.call:
            return super().applies(tap)
        forth = not any(call.flagged for call in tap.calls)
        return forth and len(tap.variables) == len(tap.layer.trainable_variables) == 1

    @classmethod
    def structure(cls, variables: Any, layers: Any) -> list[Block]:
        return [Block((matrix(variables[0]),), "lookup")]

    def outer_products(self) -> Any:
        indices, grads = self._positions()
        block = self.structure(self.variables, [])[0]
        return [(block, Lookup(indices, block.inputs, grads))]

    def _rows_of_call(self, layer_call: LayerCall) -> list[tf.Tensor]:
        one_hot = tf.one_hot(
            _flat_indices(layer_call), self.variables[0].shape[0], dtype=layer_call.grads[0].dtype
        )
        grads = flatten_positions(layer_call.grads[0], 2, 1)
        return [tf.einsum("nsv,rnsd->rnvd", one_hot, grads)]

    def gram(self, scales: list[tf.Tensor]) -> tf.Tensor:
        indices, g = self._positions()

        def row(n: Any) -> Any:
            same = tf.cast(indices[n][:, tf.newaxis, tf.newaxis] == indices, g.dtype)  # (S, M, T)
            gathered = tf.einsum("smt,rsd->rmtd", same, g[:, n])
            return tf.einsum("rmtd,qmtd->rqm", gathered, g)

        size = tf.shape(g)[1]
        blocks = tf.map_fn(row, tf.range(size), fn_output_signature=g.dtype)  # (N, R, R, M)
        rows = tf.shape(g)[0] * size
        return scales[0] * tf.reshape(tf.transpose(blocks, [1, 0, 2, 3]), [rows, rows])


def _flat_indices(layer_call: LayerCall) -> tf.Tensor:
    return flatten_positions(tf.cast(layer_call.args[0], tf.int32), 1, 0)
