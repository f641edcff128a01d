"""How many rows of F are compared: all of them, or as many as fit into a budget of memory."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kfisher.fisher import Columns, Sampled
from kfisher.jacobian.batch import Batch
from kfisher.jacobian.layers import rule_for
from kfisher.jacobian.layers.dense import DenseRule
from kfisher.jacobian.square_root import Recorded
from kfisher.likelihoods.weighted import Head

SMALL = 1024  # symmetric matrices up to this size are decomposed in full, which takes a quarter of a second
MEMORY = 2**29  # bytes
_ENOUGH = 64  # examples: EF has a row for each, so that fewer say little of it
_LEAST = 8  # labels drawn for each example


@dataclass
class Limits:
    """Limits of what is formed.

    Attributes:
        memory: Bytes of all rows, of the gradients that they are made of, and of their products.
        rows: Of F, where their Gram matrix is formed.
    """

    memory: float = MEMORY
    rows: int = 4096  # 256 examples of 16 outputs; their Gram matrix takes 67 MB


class TooManyRows(ValueError):
    """The matrices would be too large; `examples` is how many would fit in, 0 if not one does."""

    def __init__(self, examples: int, received: int, count: int, limits: Limits):
        self.examples = examples
        self.reason = (
            f"F has {count} rows for each (outputs times positions), and what is formed may have "
            f"{limits.rows} rows and {limits.memory / 2**20:.4g} MiB"
        )
        super().__init__(
            f"Pass fewer examples, {examples} at most: {self.reason}. Received: {received} examples"
        )


class Drawn(Sampled):
    """F from labels that are drawn with a seed of their own, in place of the expectation over labels."""

    def __init__(self, num_samples: int, seed: tf.Tensor):
        super().__init__(num_samples)
        self._seed = seed

    def columns(self, heads: list[Head], seed: tf.Tensor) -> Columns:
        """V of a batch, whatever the seed."""
        return super().columns(heads, self._seed)


def labels_for_exact(recorded: Recorded, batch: Batch, draws: int, limits: Limits) -> int:
    """0 if all rows of F fit in; else how many drawn labels of each example are to stand for them.

    Args:
        recorded: The pass over `batch`; its shapes are known, and in a graph nothing is computed yet.
        draws: Labels that are drawn anyway.
        limits: What may be formed.

    Raises:
        TooManyRows: If fewer examples fit in with all their rows, and are enough to say something of EF; or
            if not even drawn labels of all examples fit in.
    """
    variables, heads = batch.model.trainable_variables, recorded.loss.heads
    parameters = sum(math.prod(v.shape) for v in variables)
    item = max(tf.as_dtype(v.dtype).size for v in variables)
    size, count = int(heads[0].eta.shape[0]), sum(_columns(head) for head in heads)
    row = item * _entries_of_row(recorded)

    def fits(examples: int, rows: int, drawn: bool = True) -> bool:
        small = parameters <= min(SMALL, rows * examples)  # then the rows are kept, in float64 as well
        pulled = (rows + 2 + (draws if drawn else 0)) * examples  # EF, and perhaps the gradient
        every = (rows + 2 + draws) * examples
        formed = 32 * every * parameters if small else 3 * item * pulled**2
        if not small:  # and all in the basis, which has as many directions as F and EF have rows
            formed += 8 * every * min((rows + 1) * examples, SMALL)
        return pulled * row + formed <= limits.memory and (small or rows * examples <= limits.rows)

    if fits(size, count, drawn=False):
        return 0
    whole = _most(size - 1, lambda examples: fits(examples, count, drawn=False))
    if whole >= min(size, _ENOUGH):
        raise TooManyRows(whole, size, count, limits)
    drawn = _most(min(size, _ENOUGH), lambda examples: fits(examples, _LEAST))
    if drawn < size:
        raise TooManyRows(max(whole, drawn), size, count, limits)
    return _most(count, lambda rows: fits(size, rows))


def _most(high: int, fits: Callable[[int], bool]) -> int:
    """The largest of 1, ..., `high` that fits in, 0 if none does."""
    return bisect.bisect_left(range(1, high + 1), True, key=lambda n: not fits(n))


def _columns(head: Head) -> int:
    """Rows of F of one example in one term of the loss."""
    root = head.likelihood.fisher_root(head.eta)  # in a graph, for its shape alone
    return int(root.shape[-1]) * math.prod(head.eta.shape[1:-1])


def _entries_of_row(recorded: Recorded) -> int:
    """Of the gradients at all layers, of as much in between, and of rows that are formed."""
    entries = 2 * sum(math.prod(head.eta.shape[1:]) for head in recorded.loss.heads)
    for call in recorded.layer_calls:
        entries += 2 * _entries(call.z)
        if rule_for([call.tap]) is not DenseRule or _positions(call.z) > 1:
            entries += _entries((call.args, call.kwargs))
            entries += sum(math.prod(v.shape) for v in call.tap.variables)
    return entries


def _entries(structure: Any) -> int:
    """Of one example, in all tensors of a structure."""
    shapes = [t.shape for t in keras.tree.flatten(structure) if tf.is_tensor(t) and t.shape.rank]
    return sum(shape[1:].num_elements() or 0 for shape in shapes)


def _positions(z: Any) -> int:
    shape = keras.tree.flatten(z)[0].shape
    return shape[1:-1].num_elements() or 1
