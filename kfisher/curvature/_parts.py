"""The batches of a step that comes in several, as those of one large batch."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from kfisher._common.vectors import Tensors


class Parts:
    """Statistics of all batches of a step so far.

    Sums over examples carry the weights of a loss that is a mean over its batch, so they are averaged; means
    over examples count by what they are a mean of. The factors of a matrix with several uses are no means:
    they are those of the large batch only as far as its parts are alike.

    Args:
        add: Makes a variable from a shape, a dtype and a name.
        averages: The averages that the statistics are for, a list for each block.
    """

    def __init__(self, add: Callable, averages: list[list[keras.Variable]]):
        def like(v: keras.Variable, name: str, shape: tuple) -> keras.Variable:
            return add(shape, tf.as_dtype(v.dtype), f"{v.name}_{name}")

        self._sums = [[like(v, "partial", v.shape) for v in vs] for vs in averages]
        self._counts = [[like(v, "partial_count", ()) for v in vs] for vs in averages]
        self._weights = add((2,), tf.float64, "weight_and_squares")
        self._refused = add((), tf.float32, "refused_parts")

    def statistics(self, measured: list[Tensors], totals: list[list], part: tf.Tensor) -> list[Tensors]:
        """Those of the large batch, after the last of its parts.

        Args:
            measured: Those of this batch.
            totals: For each that is a mean over examples the total that it is a mean of; `None` for sums.
            part: Integer scalar, the number of this batch among those of the step, from 0.
        """
        found = []
        for sums, counts, terms, of in zip(self._sums, self._counts, measured, totals, strict=True):
            row = []
            for so_far, count, term, total in zip(sums, counts, terms, of):
                total = tf.ones((), term.dtype) if total is None else tf.cast(total, term.dtype)
                _add(so_far, total * term, part)
                _add(count, total, part)
                row.append(tf.math.divide_no_nan(tf.convert_to_tensor(so_far.value), count.value))
            found.append(row)
        return found

    def accepted(self, accepted: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
        """Whether all parts so far may be taken in, this one included."""
        _add(self._refused, 1 - tf.cast(accepted, tf.float32), part)
        return tf.equal(self._refused.value, 0)

    def squares(self, squares: tf.Tensor, weight: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
        """Σ (w_n / Σ w)² over the large batch, from that over this one, which weighs so much."""
        weight = tf.cast(weight, tf.float64)  # whose squares float32 may not hold
        _add(self._weights, tf.stack([weight, tf.cast(squares, tf.float64) * weight**2]), part)
        weight, found = tf.unstack(tf.convert_to_tensor(self._weights.value))
        return tf.cast(tf.math.divide_no_nan(found, weight**2), squares.dtype)


def _add(variable: keras.Variable, value: tf.Tensor, part: tf.Tensor) -> None:
    # Not a product with 0, which would keep the NaN of an earlier step.
    variable.assign(tf.where(part > 0, variable.value, tf.zeros_like(value)) + value)
