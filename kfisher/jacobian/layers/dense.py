"""Layers that are a matrix product at every position: the common part, and Dense.

At position s of example n the layer computes z = a_ns W + b, group by group where its features come in
groups. With g the gradient at z, a row of U is Σ_s a_ns ⊗ g_rns, and for one position

    U Uᵀ = (A Aᵀ) o (G Gᵀ),

so no row is ever formed. Goodfellow 2015 (arXiv:1510.01799); Ren & Goldfarb 2019, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher._common.rows import at_positions, reshape_behind
from kfisher.jacobian.layer_calls import LayerCall
from kfisher.jacobian.layers.base import AffineRule, formed, outer
from kfisher.jacobian.layers.blocks import Block, Piece, matrix
from kfisher.jacobian.layers.outer_products import Formed, Positions

# Columns of U that are formed at a time where forming some is cheaper than pairing positions.
_SLICE = 2**14


class MatrixRule(AffineRule):
    """Rows Σ_s a_ns ⊗ g_rns; subclasses say how inputs and gradients split into positions."""

    parameters = ("kernel", "bias")

    of_all = AffineRule.of_gathered_calls

    def inputs(self, layer_call: LayerCall) -> tf.Tensor:
        """a, shape `(N, S, G, I)` for S positions, G groups, I inputs of a group."""
        raise NotImplementedError

    def gradients(self, layer_call: LayerCall) -> tf.Tensor:
        """g, shape `(R, N, S, G, O)` for O outputs of a group."""
        raise NotImplementedError

    def to_kernel(self, rows: tf.Tensor) -> tf.Tensor:
        """`(R, N, I, G, O)` in the layout of the kernel, `(R, N, *kernel.shape)`."""
        return reshape_behind(rows, 2, self.layer_calls[0].layer.kernel.shape)

    def bias_rows(self, layer_call: LayerCall) -> tf.Tensor:
        """Rows of the bias, `(R, N, *bias.shape)`."""
        return reshape_behind(tf.reduce_sum(self.gradients(layer_call), 2), 2, layer_call.layer.bias.shape)

    @classmethod
    def kernel_piece(cls, layer: keras.layers.Layer) -> Piece:
        """The kernel as `(G, I, O)`."""
        raise NotImplementedError

    @classmethod
    def bias_piece(cls, layer: keras.layers.Layer) -> Piece | None:
        """The bias as `(G, 1, O)`; `None` if it is not one number for each output."""
        groups, _, outputs = cls.kernel_piece(layer).shape
        return Piece(layer.bias, (groups * outputs,), (0,), (groups, 1, outputs))

    @classmethod
    def structure(cls, variables: Any, layers: Any) -> list[Block]:
        """Kernel and bias are one block, the bias as weight of an input that is 1."""
        layer, trained = layers[0], {id(v) for v in variables}
        pieces, alone = [], []
        if id(layer.kernel) in trained:
            pieces.append(cls.kernel_piece(layer))
        if id(getattr(layer, "bias", None)) in trained:
            piece = cls.bias_piece(layer)
            if piece is None:
                alone.append(formed([layer.bias]))
            else:
                pieces.append(piece)
        return ([Block(tuple(pieces))] if pieces else []) + alone

    def outer_products(self) -> list[tuple[Block, Any]]:
        layer = self.layer_calls[0].layer
        found: list[tuple[Block, Any]] = []
        for block in self.structure(self.variables, [layer]):
            if block.form == "formed":
                rows = tf.add_n([self.bias_rows(layer_call) for layer_call in self.layer_calls])
                found.append((block, Formed(block.to_matrix([rows], 2))))
            else:
                found.append((block, self._affine(block, layer)))
        return found

    def _affine(self, block: Block, layer: keras.layers.Layer) -> Positions:
        a, g = self.positions()
        a = tf.cast(a, g.dtype)
        if block.variables[0] is not layer.kernel:
            return Positions(tf.ones_like(a[..., :1]), g)
        has_bias = len(block.pieces) == 2
        if has_bias:
            a = tf.pad(a, [[0, 0]] * (a.shape.rank - 1) + [[0, 1]], constant_values=1)
        # Layers of one kind that read the same tensor in the same way have the same A.
        key = (
            type(self),
            tuple(id(layer_call.args[0]) for layer_call in self.layer_calls),
            *block.pieces[0].shape[:2],
        )
        return Positions(a, g, (*key, has_bias, *(self.reads(layer_call) for layer_call in self.layer_calls)))

    def reads(self, layer_call: LayerCall) -> tuple:
        """A key for all that, beside the input, determines a."""
        return ()

    def positions(self) -> tuple[tf.Tensor, tf.Tensor]:
        """a and g over all calls of the layer: a shared layer only has more positions."""
        inputs = [self.inputs(layer_call) for layer_call in self.layer_calls]
        gradients = [self.gradients(layer_call) for layer_call in self.layer_calls]
        if len(self.layer_calls) == 1:
            return inputs[0], gradients[0]
        return tf.concat(inputs, 1), tf.concat(gradients, 2)

    def _rows_of_call(self, layer_call: LayerCall) -> list[tf.Tensor]:
        rows = []
        for variable in self.variables:
            if variable is getattr(layer_call.layer, "bias", None):
                rows.append(self.bias_rows(layer_call))
            else:
                a, g = self.inputs(layer_call), self.gradients(layer_call)
                rows.append(self.to_kernel(tf.einsum("nsgi,rnsgo->rnigo", tf.cast(a, g.dtype), g)))
        return rows

    def gram(self, scales: list[tf.Tensor]) -> tf.Tensor:
        layer = self.layer_calls[0].layer
        scale = {id(v): c for v, c in zip(self.variables, scales)}
        kernel_scale = scale.get(id(layer.kernel), 0.0)
        bias_scale = scale.get(id(getattr(layer, "bias", None)), 0.0)
        a, g = self.positions()
        a = tf.cast(a, g.dtype)
        if a.shape[1] == a.shape[2] == 1:
            # The bias is one more input, and that is 1.
            return _scale_blocks(outer(g), kernel_scale * outer(a[tf.newaxis]) + bias_scale)
        total = kernel_scale * gram_of_positions(a, g)
        if id(getattr(layer, "bias", None)) in scale:
            total += bias_scale * outer(
                tf.add_n([self.bias_rows(layer_call) for layer_call in self.layer_calls])
            )
        return total


class DenseRule(MatrixRule):
    """Dense on any rank: every axis between the first and the last is a position."""

    name = "dense"
    layers = (keras.layers.Dense,)

    @classmethod
    def kernel_piece(cls, layer: Any) -> Any:
        return matrix(layer.kernel)

    def inputs(self, layer_call: LayerCall) -> tf.Tensor:
        return at_positions(layer_call.args[0], 1, [1, layer_call.args[0].shape[-1]])

    def gradients(self, layer_call: LayerCall) -> tf.Tensor:
        return at_positions(layer_call.grads[0], 2, [1, layer_call.grads[0].shape[-1]])


def _scale_blocks(gram: tf.Tensor, pairs: tf.Tensor) -> tf.Tensor:
    """Every (N, N) block of the (R N, R N) matrix `gram` times `pairs`, entry by entry."""
    size = tf.shape(pairs)[0]
    blocks = tf.reshape(gram, [-1, size, tf.shape(gram)[1] // size, size])
    return tf.reshape(blocks * pairs[:, tf.newaxis, :], tf.shape(gram))


def gram_of_positions(a: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
    """U Uᵀ for rows Σ_s a_ns ⊗ g_rns, shape `(R N, R N)`.

    Either every pair of positions is weighed, which is implicit, or slices of U are formed and
    multiplied; whichever costs less for the static sizes. Neither forms U.
    """
    _, positions, groups, width = a.shape
    vectors, outputs = g.shape[0], g.shape[-1]
    if positions is not None and groups == 1 and vectors is not None:
        if positions**2 * (width + vectors**2 * outputs) < vectors**2 * width * outputs:
            return _pair_positions(a[:, :, 0], g[:, :, :, 0])
    columns = max(1, _SLICE // (groups * width))

    def product(start: Any) -> Any:
        return outer(tf.einsum("nsgi,rnsgo->rnigo", a, g[..., start : start + columns]))

    return _one_by_one(product, range(0, outputs, columns))


def _pair_positions(a: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
    """Σ_st (a_ns . a_mt) (g_rns . g_qmt), one s at a time."""
    size, positions = tf.shape(a)[0], a.shape[1]

    def product(s: Any) -> Any:
        inputs = tf.einsum("ni,mti->nmt", a[:, s], a)
        gradients = tf.einsum("rno,qmto->rnqmt", g[:, :, s], g)
        return tf.reduce_sum(gradients * inputs[:, tf.newaxis], -1)

    rows = tf.shape(g)[0] * size
    return tf.reshape(_one_by_one(product, range(positions)), [rows, rows])


def _one_by_one(product: Callable, starts: range) -> tf.Tensor:
    """The sum of `product(start)`, no two of them in memory at once: a graph would compute all first."""
    total = product(starts[0])
    for start in starts[1:]:
        with tf.control_dependencies([total]):
            total += product(start)
    return total
