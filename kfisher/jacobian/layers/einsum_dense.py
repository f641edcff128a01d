"""EinsumDense (and with it MultiHeadAttention): a matrix product once its axes are sorted.

Each label of the equation is one of
    position    in the input and the output            "b" and "t" in "btd,dhk->bthk"
    input       in the input and the kernel            "d"
    output      in the kernel and the output           "h", "k"
    group       in all three (a block-diagonal kernel)
"""

from __future__ import annotations

import math
import string
from typing import Any

import keras
import tensorflow as tf

from kfisher._common.rows import flatten_positions, reshape_behind
from kfisher.jacobian.layer_calls import LayerCall
from kfisher.jacobian.layers.blocks import Piece
from kfisher.jacobian.layers.dense import MatrixRule


class EinsumDenseRule(MatrixRule):
    """EinsumDense with any equation whose axes sort as above."""

    name = "einsum dense"
    layers = (keras.layers.EinsumDense,)

    @classmethod
    def applies(cls, tap: Any) -> bool:
        layer: Any = tap.layer
        if not super().applies(tap) or not _Labels(layer.equation).sorts:
            return False
        # A bias like (k, 1) is not always added where it belongs: `keras.ops.add` may take it for a vector of
        # channels. What the layer then computes is left to autodiff.
        return layer.bias is None or len(layer.bias.shape) == 1 or layer.bias.shape[-1] > 1

    @classmethod
    def kernel_piece(cls, layer: Any) -> Any:
        labels, shape = _Labels(layer.equation), tuple(layer.kernel.shape)
        order = [labels.kernel.index(c) for c in labels.groups + labels.contracted + labels.new]
        sizes = [
            math.prod(shape[labels.kernel.index(c)] for c in kind)
            for kind in (labels.groups, labels.contracted, labels.new)
        ]
        return Piece(layer.kernel, shape, tuple(order), tuple(sizes))

    @classmethod
    def bias_piece(cls, layer: Any) -> Any:
        labels = _Labels(layer.equation)
        own = [c for c in labels.output if c in layer.bias_axes]
        if set(own) != set(labels.groups + labels.new):
            return None
        groups, _, outputs = cls.kernel_piece(layer).shape
        split = [layer.kernel.shape[labels.kernel.index(c)] for c in own]
        order = [own.index(c) for c in labels.groups + labels.new]
        return Piece(layer.bias, tuple(split), tuple(order), (groups, 1, outputs))

    def reads(self, layer_call: LayerCall) -> Any:
        labels = _Labels(layer_call.layer.equation, layer_call.args[0].shape.rank)
        return tuple(labels.input.index(c) for c in labels.groups + labels.contracted)

    def inputs(self, layer_call: LayerCall) -> tf.Tensor:
        a = layer_call.args[0]
        labels = _Labels(layer_call.layer.equation, a.shape.rank)
        order = [labels.input.index(c) for c in labels.positions + labels.groups + labels.contracted]
        return _merge(tf.transpose(a, order), 1, len(labels.groups), len(labels.contracted))

    def gradients(self, layer_call: LayerCall) -> tf.Tensor:
        g = layer_call.grads[0]
        labels = _Labels(layer_call.layer.equation, layer_call.args[0].shape.rank)
        order = [labels.output.index(c) + 1 for c in labels.positions + labels.groups + labels.new]
        return _merge(tf.transpose(g, [0, *order]), 2, len(labels.groups), len(labels.new))

    def to_kernel(self, rows: tf.Tensor) -> tf.Tensor:
        kernel = self.layer_calls[0].layer.kernel
        labels = _Labels(self.layer_calls[0].layer.equation)
        stored = labels.contracted + labels.groups + labels.new
        sizes = [kernel.shape[labels.kernel.index(c)] for c in stored]
        split = reshape_behind(rows, 2, sizes)
        return tf.transpose(split, [0, 1, *(stored.index(c) + 2 for c in labels.kernel)])

    def bias_rows(self, layer_call: LayerCall) -> tf.Tensor:
        g, shape = layer_call.grads[0], layer_call.layer.bias.shape
        lead = g.shape.rank - len(shape)  # the bias broadcasts against the last axes
        axes = [*range(2, lead), *(lead + i for i, size in enumerate(shape) if size == 1)]
        return reshape_behind(tf.reduce_sum(g, axes), 2, shape)


class _Labels:
    """The labels of an equation; "..." stands for as many positions as the rank of the input needs."""

    def __init__(self, equation: str, rank: int | None = None):
        equation = equation.replace(" ", "")
        if "..." in equation:
            terms = equation.replace("->", ",").split(",")
            unused = [c for c in string.ascii_letters if c not in equation]
            missing = 1 if rank is None else rank - len(terms[0].replace("...", ""))
            equation = equation.replace("...", "".join(unused[:missing]))
        operands, self.output = equation.split("->")
        self.input, self.kernel = operands.split(",")
        self.positions = [c for c in self.input if c not in self.kernel]
        self.groups = [c for c in self.input if c in self.kernel and c in self.output]
        self.contracted = [c for c in self.input if c in self.kernel and c not in self.output]
        self.new = [c for c in self.kernel if c not in self.input]

    @property
    def sorts(self) -> bool:
        """True if the batch leads, nothing is summed away, and no label repeats within a term."""
        batch_leads = self.positions[:1] == [self.input[0]] == [self.output[0]]
        nothing_lost = set(self.positions + self.new) <= set(self.output)
        no_repeats = all(len(set(t)) == len(t) for t in (self.input, self.kernel, self.output))
        return batch_leads and nothing_lost and no_repeats


def _merge(t: tf.Tensor, leading: int, groups: int, features: int) -> tf.Tensor:
    """`(lead, positions, groups, features)`: each kind of axis merged into one."""
    rank = t.shape.rank
    shape = t.shape[rank - groups - features :]
    sizes = [shape[:groups].num_elements(), shape[groups:].num_elements()]
    merged = reshape_behind(t, rank - groups - features, sizes)
    return flatten_positions(merged, leading, 2)
