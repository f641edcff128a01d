"""Separable convolutions: a depthwise and a pointwise one in a single layer."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from kfisher._common.rows import flatten_positions, reshape_behind
from kfisher.jacobian.layers.base import AffineRule, Rule
from kfisher.jacobian.layers.blocks import Block, Piece
from kfisher.jacobian.layers.convolution import patches_of
from kfisher.jacobian.layers.outer_products import Positions


class SeparableRule(AffineRule):
    """SeparableConv1D and SeparableConv2D: blocks of their own for the two kernels, rows per example."""

    name = "separable convolution"
    layers = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
    parameters = ("depthwise_kernel", "pointwise_kernel", "bias")

    # The product of two kernels is not affine in them.
    matvec = Rule.matvec
    rmatvec = Rule.rmatvec
    _rows_of_call = Rule._rows_of_call

    @classmethod
    def structure(cls, variables: Any, layers: Any) -> list[Block]:
        layer, trained = layers[0], {id(v) for v in variables}
        *window, channels, multiplier = layer.depthwise_kernel.shape
        inputs, hidden, outputs = math.prod(window), channels * multiplier, layer.filters
        depthwise = Piece(
            layer.depthwise_kernel, (inputs, channels, multiplier), (1, 0, 2), (channels, inputs, multiplier)
        )
        pointwise = [Piece(layer.pointwise_kernel, (hidden, outputs), (0, 1), (1, hidden, outputs))]
        if layer.bias is not None:
            pointwise.append(Piece(layer.bias, (outputs,), (0,), (1, 1, outputs)))
        kept = [[p for p in pieces if id(p.variable) in trained] for pieces in ([depthwise], pointwise)]
        return [Block(tuple(pieces)) for pieces in kept if pieces]

    def outer_products(self) -> Any:
        layer = self.layer_calls[0].layer
        *window, channels, multiplier = layer.depthwise_kernel.shape
        patches, grads = [], []
        for layer_call in self.layer_calls:
            read = patches_of(layer, layer_call.args[0], [math.prod(window), channels])
            patches.append(tf.transpose(read, [0, 1, 3, 2]))
            g = layer_call.grads[0]
            if layer.data_format == "channels_first":
                g = tf.transpose(g, [0, 1, *range(3, g.shape.rank), 2])
            grads.append(flatten_positions(g, 2, 1))
        a, g = tf.concat(patches, 1), tf.concat(grads, 2)  # (N, S, C, k), (R, N, S, F)
        a = tf.cast(a, g.dtype)
        hidden, outputs = channels * multiplier, layer.filters
        first = tf.reshape(tf.cast(layer.depthwise_kernel.value, g.dtype), [-1, channels, multiplier])
        second = tf.reshape(tf.cast(layer.pointwise_kernel.value, g.dtype), [hidden, outputs])
        found = []
        for block in self.structure(self.variables, [layer]):
            if block.variables[0] is layer.depthwise_kernel:
                back = tf.tensordot(g, second, [[-1], [-1]])
                split = reshape_behind(back, back.shape.rank - 1, [channels, multiplier])
                found.append((block, Positions(a, split)))
                continue
            z = tf.einsum("nsck,kcm->nscm", a, first)
            z = reshape_behind(z, 2, [1, hidden])
            one = tf.ones_like(z[..., :1])
            inputs = {id(layer.pointwise_kernel): z, id(layer.bias): one}
            stacked = tf.concat([inputs[id(v)] for v in block.variables], -1)
            found.append((block, Positions(stacked, g[..., tf.newaxis, :])))
        return found
