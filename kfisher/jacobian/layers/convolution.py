"""Convolutions: a matrix product of patches with the kernel at every output position."""

from __future__ import annotations

import itertools
import math
from typing import Any

import keras
import tensorflow as tf

from kfisher._common.rows import at_positions, reshape_behind
from kfisher.jacobian.layer_calls import LayerCall
from kfisher.jacobian.layers.blocks import Piece
from kfisher.jacobian.layers.dense import MatrixRule


class ConvolutionRule(MatrixRule):
    """Conv1D, Conv2D and Conv3D with any stride, dilation, groups, padding and data format.

    The inputs a are patches of k = prod(kernel_size) pixels; the group of an output channel sees the
    channels of its group only.
    """

    name = "convolution"
    layers: tuple[type[keras.layers.Layer], ...] = (
        keras.layers.Conv1D,
        keras.layers.Conv2D,
        keras.layers.Conv3D,
    )

    @classmethod
    def applies(cls, tap: Any) -> bool:
        if not isinstance(tap.layer, cls.layers) or not super().applies(tap):
            return False
        # `convolution_op` is Keras' hook for another product, say with a standardised kernel.
        hooks = {getattr(kind, "convolution_op", None) for kind in cls.layers}
        return getattr(type(tap.layer), "convolution_op", None) in hooks

    @classmethod
    def kernel_piece(cls, layer: Any) -> Any:
        groups, outputs = layer.groups, layer.filters // layer.groups
        inputs = math.prod(layer.kernel.shape[:-1])
        shape = (groups, inputs, outputs)
        if groups == 1:
            return Piece(layer.kernel, (inputs, outputs), (0, 1), shape)
        return Piece(layer.kernel, (inputs, groups, outputs), (1, 0, 2), shape)

    def reads(self, layer_call: LayerCall) -> Any:
        layer = layer_call.layer
        options = layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding, layer.data_format
        return tuple(map(str, options))

    def inputs(self, layer_call: LayerCall) -> tf.Tensor:
        layer, x = layer_call.layer, layer_call.args[0]
        *window, channels, _ = layer.kernel.shape  # of one group
        groups, k = layer.groups, math.prod(window)
        if groups == 1:
            return patches_of(layer, x, [1, k * channels])
        split = patches_of(layer, x, [k, groups, channels])
        return reshape_behind(tf.transpose(split, [0, 1, 3, 2, 4]), 2, [groups, k * channels])

    def gradients(self, layer_call: LayerCall) -> tf.Tensor:
        groups = layer_call.layer.groups
        return self._split_gradients(layer_call, groups, layer_call.layer.filters // groups)

    def _split_gradients(self, layer_call: LayerCall, groups: int, outputs: int) -> tf.Tensor:
        g = layer_call.grads[0]
        if layer_call.layer.data_format == "channels_first":
            g = tf.transpose(g, [0, 1, *range(3, g.shape.rank), 2])
        return at_positions(g, 2, [groups, outputs])


class DepthwiseConvolutionRule(ConvolutionRule):
    """DepthwiseConv1D and DepthwiseConv2D: every input channel is a group of its own."""

    name = "depthwise convolution"
    layers = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)

    @classmethod
    def kernel_piece(cls, layer: Any) -> Any:
        *window, channels, outputs = layer.kernel.shape
        inputs = math.prod(window)
        return Piece(layer.kernel, (inputs, channels, outputs), (1, 0, 2), (channels, inputs, outputs))

    def inputs(self, layer_call: LayerCall) -> tf.Tensor:
        *window, channels, _ = layer_call.layer.kernel.shape
        patches = patches_of(layer_call.layer, layer_call.args[0], [math.prod(window), channels])
        return tf.transpose(patches, [0, 1, 3, 2])

    def gradients(self, layer_call: LayerCall) -> tf.Tensor:
        return self._split_gradients(layer_call, *layer_call.layer.kernel.shape[-2:])


def patches_of(layer: keras.layers.Layer, x: tf.Tensor, shape: list[int]) -> tf.Tensor:
    """Patches that the kernel sees, `(N, S, *shape)`; one dimension is a row of a picture."""
    if layer.data_format == "channels_first":
        x = tf.transpose(x, [0, *range(2, x.shape.rank), 1])
    padding = layer.padding
    if padding == "causal":
        reach = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        x, padding = tf.pad(x, [[0, 0], [reach, 0], [0, 0]]), "valid"
    sizes, strides, rates = layer.kernel_size, layer.strides, layer.dilation_rate
    if max(sizes) == 1:  # no copy, of these there are many
        steps = [slice(None, None, stride) for stride in strides]
        return at_positions(x if max(strides) == 1 else x[(slice(None), *steps)], 1, shape)
    if layer.rank == 1:
        x = x[:, tf.newaxis]
        sizes, strides, rates = (1, *sizes), (1, *strides), (1, *rates)
    if layer.rank == 3:
        patches = _windows(x, sizes, strides, rates, padding)
    else:
        patches = tf.image.extract_patches(
            x, [1, *sizes, 1], [1, *strides, 1], [1, *rates, 1], padding.upper()
        )
    return at_positions(patches, 1, shape)


def _windows(x: tf.Tensor, sizes: Any, strides: Any, rates: Any, padding: str) -> tf.Tensor:
    """Patches as of `tf.image.extract_patches`, for any number of axes between the first and the last."""
    axes, counts = range(len(sizes)), []
    for i in axes:
        reach, size = rates[i] * (sizes[i] - 1) + 1, x.shape[i + 1]
        size = tf.shape(x)[i + 1] if size is None else size
        if padding == "same":
            missing = (-(-size // strides[i]) - 1) * strides[i] + reach - size
            missing = tf.maximum(0, missing) if tf.is_tensor(missing) else max(0, missing)
            widths = [[0, 0] for _ in x.shape]
            widths[i + 1] = [missing // 2, missing - missing // 2]
            x, size = tf.pad(x, widths), size + missing
        counts.append((size - reach) // strides[i] + 1)
    views = []
    for offset in itertools.product(*map(range, sizes)):
        first = [o * rate for o, rate in zip(offset, rates)]
        spans = [slice(f, f + (n - 1) * s + 1, s) for f, n, s in zip(first, counts, strides)]
        views.append(x[(slice(None), *spans)])
    return tf.concat(views, -1)
