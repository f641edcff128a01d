"""Blocks of the Fisher: variables whose gradients are the entries of one matrix.

A block of a running curvature covers some variables of one layer, whose gradients together form `groups`
matrices of `inputs` x `outputs` (a Dense layer: its kernel with the bias as the last row). A block is plain
data, saved with the optimizer, so that its state can be made before any model is at hand.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kfisher._common.rows import reshape_behind


@dataclass(frozen=True)
class Piece:
    """One variable of a block: reshaped to `split`, transposed to `order`, merged to `shape`.

    Attributes:
        variable: The variable itself in a `Block` that a layer's rule makes; its position among the trainable
            variables once `located`.
        split: Sizes of the axes to transpose.
        order: Their order: groups, then inputs, then outputs.
        shape: `(groups, inputs, outputs)`.
    """

    variable: Any
    split: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, int, int]

    @property
    def straight(self) -> bool:
        """True if the entries stay in their order."""
        return self.order == tuple(range(len(self.order)))

    def to_matrix(self, tensor: tf.Tensor, leading: int = 0) -> tf.Tensor:
        """A tensor in the shape of the variable as `(groups, inputs, outputs)`; `leading` axes stay."""
        order = [*range(leading), *(leading + i for i in self.order)]
        if not self.straight:
            tensor = tf.transpose(reshape_behind(tensor, leading, self.split), order)
        return reshape_behind(tensor, leading, self.shape)

    def from_matrix(self, matrix: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
        """Back to the shape of the variable."""
        if not self.straight:
            inverse = [self.order.index(i) for i in range(len(self.order))]
            matrix = tf.transpose(tf.reshape(matrix, [self.split[i] for i in self.order]), inverse)
        return matrix if matrix.shape == shape else tf.reshape(matrix, shape)


def matrix(variable: keras.Variable) -> Piece:
    """A variable with two axes, as it is."""
    shape = tuple(variable.shape)
    return Piece(variable, shape, (0, 1), (1, *shape))


@dataclass(frozen=True)
class Block:
    """Variables whose gradients form `groups` matrices of `inputs` x `outputs`.

    Attributes:
        pieces: Its variables. Where there are several, their matrices are stacked along the inputs, or along
            the outputs if the gradients are formed.
        form: `"positions"`: gradients are sums of a ⊗ g over positions. `"lookup"`: the same with one-hot
            a. `"tied"`: sums of l ⊗ r over several uses of one matrix. `"formed"`: the gradient of each
            example is formed as a matrix.
    """

    pieces: tuple[Piece, ...]
    form: str = "positions"

    @property
    def groups(self) -> int:
        return self.pieces[0].shape[0]

    @property
    def inputs(self) -> int:
        sizes = [p.shape[1] for p in self.pieces]
        return sum(sizes) if self.axis == 1 else sizes[0]

    @property
    def outputs(self) -> int:
        sizes = [p.shape[2] for p in self.pieces]
        return sizes[0] if self.axis == 1 else sum(sizes)

    @property
    def axis(self) -> int:
        """Along which the pieces are stacked."""
        return 2 if self.form == "formed" else 1

    def to_matrix(self, tensors: list[tf.Tensor], leading: int = 0) -> tf.Tensor:
        """Tensors in the shapes of the variables as `(groups, inputs, outputs)`; `leading` axes stay."""
        flat = all(piece.straight and t.shape.rank == 1 for piece, t in zip(self.pieces, tensors))
        if flat and self._in_a_row and not leading:
            return tf.reshape(tf.concat(tensors, 0), [1, self.inputs, self.outputs])
        parts = [piece.to_matrix(t, leading) for piece, t in zip(self.pieces, tensors)]
        return parts[0] if len(parts) == 1 else tf.concat(parts, leading + self.axis)

    def from_matrix(self, matrix: tf.Tensor, shapes: list[tf.TensorShape]) -> list[tf.Tensor]:
        """Back to the shapes of the variables; a single group may come without its axis."""
        sizes = [piece.shape[self.axis] for piece in self.pieces]
        if len(sizes) == 1:
            parts = [matrix]
        elif self._in_a_row:  # TensorFlow takes a part of a vector without a copy
            counts = [n * (self.outputs if self.axis == 1 else 1) for n in sizes]
            flat = tf.reshape(matrix, [-1])
            starts = itertools.accumulate(counts, initial=0)
            parts = [tf.slice(flat, [start], [count]) for start, count in zip(starts, counts)]
        else:
            parts = tf.split(tf.reshape(matrix, [self.groups, self.inputs, self.outputs]), sizes, self.axis)
        return [piece.from_matrix(part, shape) for piece, part, shape in zip(self.pieces, parts, shapes)]

    @property
    def _in_a_row(self) -> bool:
        """True if the entries of one piece lie behind those of the last."""
        return self.groups == 1 and (self.axis == 1 or self.inputs == 1)

    @property
    def variables(self) -> list[Any]:
        return [piece.variable for piece in self.pieces]

    def located(self, position: Callable[[keras.Variable], int]) -> Block:
        """With positions among the trainable variables in place of the variables."""
        pieces = [Piece(position(p.variable), p.split, p.order, p.shape) for p in self.pieces]
        return Block(tuple(pieces), self.form)

    def get_config(self) -> dict[str, Any]:
        pieces = [[p.variable, list(p.split), list(p.order), list(p.shape)] for p in self.pieces]
        return {"pieces": pieces, "form": self.form}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Block:
        pieces = [Piece(v, *(tuple(part) for part in rest)) for v, *rest in config["pieces"]]
        return cls(tuple(pieces), config["form"])
