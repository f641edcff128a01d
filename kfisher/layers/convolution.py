"""Convolutions: a matrix product of patches with the kernel at every output position."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from kfisher.layers.dense import MatrixRule
from kfisher.taps import Site


class ConvolutionRule(MatrixRule):
    """Conv1D and Conv2D with any stride, dilation, groups, padding and data format.

    The inputs a are patches of k = prod(kernel_size) pixels; the group of an output channel sees the
    channels of its group only.
    """

    name = "convolution"
    layers = (keras.layers.Conv1D, keras.layers.Conv2D)

    @classmethod
    def applies(cls, layer: keras.layers.Layer) -> bool:
        return isinstance(layer, cls.layers) and super().applies(layer)

    def inputs(self, site: Site) -> tf.Tensor:
        patches = _patches(site.layer, site.args[0])
        groups = site.layer.groups
        size, positions, k, channels = patches.shape
        split = tf.reshape(patches, [-1, positions, k, groups, channels // groups])
        return tf.reshape(tf.transpose(split, [0, 1, 3, 2, 4]), [-1, positions, groups, k * channels // groups])

    def gradients(self, site: Site) -> tf.Tensor:
        return self._split_gradients(site, site.layer.groups)

    def _split_gradients(self, site: Site, groups: int) -> tf.Tensor:
        g = site.grads[0]
        if site.layer.data_format == "channels_first":
            g = tf.transpose(g, [0, 1, *range(3, g.shape.rank), 2])
        positions, channels = math.prod(g.shape[2:-1]), g.shape[-1]
        shape = [tf.shape(g)[0], tf.shape(g)[1], positions, groups, channels // groups]
        return tf.ensure_shape(tf.reshape(g, shape), [g.shape[0], None, *shape[2:]])


class DepthwiseConvolutionRule(ConvolutionRule):
    """DepthwiseConv1D and DepthwiseConv2D: every input channel is a group of its own."""

    name = "depthwise convolution"
    layers = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)

    def inputs(self, site: Site) -> tf.Tensor:
        return tf.transpose(_patches(site.layer, site.args[0]), [0, 1, 3, 2])

    def gradients(self, site: Site) -> tf.Tensor:
        return self._split_gradients(site, site.layer.kernel.shape[-2])


def _patches(layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    """What the kernel sees, shape `(N, S, k, channels)`; one dimension is a row of a picture."""
    if layer.data_format == "channels_first":
        x = tf.transpose(x, [0, *range(2, x.shape.rank), 1])
    padding = layer.padding
    if padding == "causal":
        reach = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        x, padding = tf.pad(x, [[0, 0], [reach, 0], [0, 0]]), "valid"
    sizes, strides, rates = layer.kernel_size, layer.strides, layer.dilation_rate
    if layer.rank == 1:
        x = x[:, tf.newaxis]
        sizes, strides, rates = (1, *sizes), (1, *strides), (1, *rates)
    patches = tf.image.extract_patches(
        x, [1, *sizes, 1], [1, *strides, 1], [1, *rates, 1], padding.upper()
    )
    positions = patches.shape[1] * patches.shape[2]
    return tf.reshape(patches, [-1, positions, math.prod(sizes), x.shape[-1]])
