"""Products with a matrix in layers that share it, or that are not Keras' own.

Every use of W is Σ_s l_rns ⊗ r_rns: for z = x W the input and the gradient at z, for z = x Wᵀ the other way
round, for a lookup a one-hot vector and the gradient. So tied weights have no tensor with an entry for each
example and parameter.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kfisher._common.rows import flatten_positions
from kfisher.jacobian.layer_calls import LayerCall
from kfisher.jacobian.layers.base import formed
from kfisher.jacobian.layers.blocks import Block, matrix
from kfisher.jacobian.layers.outer_products import Formed, Tied
from kfisher.jacobian.layers.sums import SumRule
from kfisher.jacobian.products import product_of


class Use(NamedTuple):
    """One use of a matrix in one call.

    Attributes:
        left, right: l and r, `(R, N, S, I)` and `(R, N, S, O)`, that of an input with R = 1.
        left_is_input: Whether l is the input, and r the gradient.
    """

    left: tf.Tensor
    right: tf.Tensor
    left_is_input: bool


class ProductRule(SumRule):
    """Layers that multiply by a matrix, by its transpose, or look up its rows: any number that share it."""

    name = "product"

    @classmethod
    def applies(cls, tap: Any) -> bool:
        return _looks_up(tap.layer) or product_of(tap.layer, tap.variables) is not None

    @classmethod
    def structure(cls, variables: Any, layers: Any) -> list[Block]:
        return [_matrix(v) if len(v.shape) == 2 else formed([v]) for v in variables]

    def outer_products(self) -> Any:
        found: list[tuple[Block, Any]] = []
        for variable in self.variables:
            if len(variable.shape) == 2:
                found.append((_matrix(variable), Tied(self._uses(variable))))
            else:
                block = formed([variable])
                found.append((block, Formed(block.to_matrix([self.formed_rows(variable)], 2))))
        return found

    of_all = SumRule.of_gathered_calls

    def _uses(self, variable: keras.Variable) -> list[Use]:
        return [use for call in self.layer_calls for use in [_use(call, variable)] if use is not None]

    def sides(self, variable: Any) -> Any:
        return Tied(self._uses(variable)).sides() if len(variable.shape) == 2 else None

    def formed_rows(self, variable: Any) -> Any:
        """Of a bias."""
        calls = [call for call in self.layer_calls if any(v is variable for v in call.tap.variables)]
        return tf.add_n([tf.reduce_sum(flatten_positions(call.grads[0], 2, 1), 2) for call in calls])


def _matrix(variable: keras.Variable) -> Block:
    return Block((matrix(variable),), "tied")


def _looks_up(layer: Any) -> bool:
    """True for Keras' embeddings whose uses are all known."""
    if not isinstance(layer, keras.layers.Embedding) or getattr(layer, "lora_enabled", False):
        return False
    reversible = getattr(keras.layers, "ReversibleEmbedding", None)
    if reversible is not None and type(layer).call is reversible.call:
        return layer.logit_soft_cap is None
    return type(layer).call is keras.layers.Embedding.call


def _use(call: LayerCall, variable: keras.Variable) -> Use | None:
    """What a call does with a matrix; `None` if nothing."""
    x, g, layer = call.args[0], flatten_positions(call.grads[0], 2, 1), call.layer
    if not _looks_up(layer):
        product = product_of(layer, call.tap.variables)
        if product is None or product.matrix is not variable:
            return None
        return _of_input(x, g, product.transposed)
    arguments = inspect.signature(type(layer).call).bind(layer, *call.args, **call.kwargs).arguments
    if not arguments.get("reverse", False):
        if variable is not layer.embeddings:
            return None
        ids = flatten_positions(tf.cast(x, tf.int32), 1, 0)
        return Use(tf.one_hot(ids, variable.shape[0], dtype=g.dtype)[tf.newaxis], g, True)
    if variable is not (layer.embeddings if layer.tie_weights else layer.reverse_embeddings):
        return None
    return _of_input(x, g, layer.tie_weights)


def _of_input(x: tf.Tensor, g: tf.Tensor, transposed: bool) -> Use:
    x = tf.cast(flatten_positions(x, 1, 1), g.dtype)[tf.newaxis]
    return Use(g, x, False) if transposed else Use(x, g, True)
