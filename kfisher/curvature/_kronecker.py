"""Two running Kronecker factors for each block: what KFAC and EKFAC share."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.checks import boolean, one_of, positive, positive_integer
from kfisher._common.symmetric import diagonal
from kfisher._common.vectors import Tensors, all_finite
from kfisher.curvature._examples import in_place
from kfisher.curvature._running import Running
from kfisher.curvature._schedule import due, is_far
from kfisher.jacobian.layers.blocks import Block
from kfisher.jacobian.layers.outer_products import Positions

# max_memory="auto": so many times the bytes of the parameters, and no less than this.
PARAMETERS, LEAST = 4, 2.0**26
_BYTES = 4  # of a number; of float64 the budget is that of float32, in numbers


class Kronecker(Running):
    """Running averages of A, `(G, I, I)`, and B, `(G, O, O)`, with A ⊗ B close to each block.

    A factor of more than `max_factor_size` rows, and that of the inputs of an embedding, is diagonal; so are
    the largest ones until all others fit into `max_memory`.
    """

    symmetric = True

    def __init__(
        self,
        decay: Any,
        update_every: Any,
        sharing: str,
        max_factor_size: int,
        max_examples: Any,
        max_memory: Any,
        share_factorisations: bool,
    ):
        super().__init__(decay, update_every, max_examples)
        self.sharing = one_of("sharing", sharing, ("expand", "reduce"))
        self.max_factor_size = positive_integer("max_factor_size", max_factor_size)
        self.max_memory = max_memory
        if max_memory is not None and not (isinstance(max_memory, str) and max_memory == "auto"):
            kind = "'auto', a positive number of bytes, or None"
            self.max_memory = positive("max_memory", max_memory, kind, "float64")
        self.share_factorisations = boolean("share_factorisations", share_factorisations)

    def build(self, add_variable: Any, variables: Any, blocks: Any, parts: Any) -> None:
        self._largest = self.largest(blocks)
        self._tell(blocks)
        super().build(add_variable, variables, blocks, parts)
        self.factorisations = self.add((), tf.int32, "factorisations")
        self.failures = self.add((), tf.int32, "failures")
        self.failing = self.add((), tf.int32, "failing")
        self._path_factorised = self.add((), tf.float32, "path_since_factorisation")
        self._reported = self.add((), tf.int32, "failures_reported")

    def moved(self, share: Any) -> None:
        super().moved(share)
        self._path_factorised.assign_add(tf.cast(share, tf.float32))

    def ready(self) -> Any:
        return self.factorisations.value > 0

    def telling(self, statistic: Any) -> Any:
        # A second moment is finite if its diagonal is, which is cheaper to see.
        return diagonal(statistic) if statistic.shape.rank == 3 else statistic

    def boosted(self, damping: tf.Tensor) -> tf.Tensor:
        """The damping, ten times as large for every factorisation in a row that failed."""
        return damping * tf.cast(10, damping.dtype) ** tf.cast(self.failing.value, damping.dtype)

    def keep(self, variables: list[keras.Variable], values: Tensors) -> None:
        """The results of a factorisation if all are finite; otherwise the last good ones stay."""
        good = replicas.everywhere(all_finite([x for x in values if x.dtype.is_floating]))
        bad = tf.cast(~good, tf.int32)
        self.factorisations.assign_add(1 - bad)
        self.failures.assign_add(bad)
        self.failing.assign(bad * (self.failing.value + 1))
        self._path_factorised.assign(tf.where(good, 0.0, self._path_factorised.value))
        for variable, value in zip(variables, values):
            variable.assign(tf.where(good, value, variable.value))

    def wanted(self, step: tf.Tensor, every: int) -> tf.Tensor:
        """True if it is time to factorise: on schedule, after long ways, and until it has succeeded."""
        again = (self.failing.value > 0) | (self.factorisations.value == 0)
        far = is_far(self._path_factorised, every)
        return (self.updates.value > 0) & (due(step, every) | again | far)

    def trouble(self) -> str | None:
        new = int(self.failures.numpy()) - int(self._reported.numpy())
        self._reported.assign(self.failures.value)
        if new == 0:
            return None
        return (
            f"{new} factorisations of {type(self).__name__} failed; the last good ones stayed in use, and "
            "the damping was raised until the next succeeded. Raise `damping`."
        )

    def budget(self, blocks: list[Block]) -> float:
        """The bytes that factors, and what is made of them, may take."""
        if self.max_memory is None:
            return float("inf")
        if self.max_memory != "auto":
            return self.max_memory
        parameters = sum(block.groups * block.inputs * block.outputs for block in blocks)
        return max(PARAMETERS * _BYTES * parameters, LEAST)

    def largest(self, blocks: list[Block]) -> int:
        """The most rows of a factor that is not diagonal."""
        sizes = _sizes(blocks, self.max_factor_size)
        total, budget = sum(sizes.values()), self.budget(blocks)
        for rows in sorted(sizes, reverse=True):
            if total <= budget:
                break
            total -= sizes.pop(rows)
        return max(sizes, default=1)

    def _tell(self, blocks: list[Block]) -> None:
        sizes = _sizes(blocks, self.max_factor_size)
        if max(sizes, default=1) > self._largest:
            some = f"Kronecker factors of more than {self._largest} rows"
            which = some if self._largest > 1 else "all Kronecker factors"
            warnings.warn(
                f"{type(self).__name__} keeps {which} as their diagonals: in full they would take "
                f"{sum(sizes.values()) / 2**20:.0f} MiB, of "
                f"{self.budget(blocks) / 2**20:.0f} allowed (max_memory={self.max_memory!r}; None for all). "
                "kfisher.coverage(model, curvature) tells which.",
                stacklevel=2,
            )

    def diagonal(self, block: Block, largest: int | None = None) -> tuple[bool, bool]:
        """True for A and for B if it is diagonal."""
        limit = self._largest if largest is None else largest
        return block.form == "lookup" or block.inputs > limit, block.outputs > limit

    def statistics(self, block: Block) -> dict[str, tuple[int, ...]]:
        sides = zip(("input_factor", "output_factor"), (block.inputs, block.outputs), self.diagonal(block))
        return {
            name: (block.groups, size) if diagonal else (block.groups, size, size)
            for name, size, diagonal in sides
        }

    def measure(self, block: Block, products: Any, weights: Any, cache: dict) -> Any:
        return list(products.factors(weights, self.sharing, self.diagonal(block), cache))

    def examples_of(self, block: Block, products: Any, weights: Any, batch: Any) -> Any:
        if not isinstance(products, Positions):
            return [None, None]
        sides = (products.inputs(weights, self.sharing, {}), 0), (products.gradients(self.sharing), 1)
        return [None if d else in_place(*side, batch) for side, d in zip(sides, self.diagonal(block))]

    def totals(self, block: Block, terms: Any, weight: Any) -> Any:
        a, b = terms
        if block.form not in ("formed", "tied"):
            return [weight, None]
        # There A is a mean over the trace of B.
        return [tf.reduce_sum(mean_eigenvalue(b)) * block.outputs, None]

    def describe(self, block: Any, blocks: Any) -> str:
        def side(size: Any, diagonal: Any) -> Any:
            return f"diagonal {size}" if diagonal else str(size)

        left, right = self.diagonal(block, self.largest(blocks))
        sizes = side(block.outputs, right)
        if block.inputs > 1 or block.form != "formed":
            sizes = f"{side(block.inputs, left)} x {sizes}"
        elif not right:
            sizes = f"exact {sizes}"
        return f"{sizes}, {block.groups} groups" if block.groups > 1 else sizes

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "sharing": self.sharing,
            "max_factor_size": self.max_factor_size,
            "max_memory": self.max_memory,
            "share_factorisations": self.share_factorisations,
        }


def _sizes(blocks: list[Block], most: int) -> dict[int, float]:
    """By their rows, the bytes that all factors of at most so many rows would take, each with its inverse."""
    found: dict[int, float] = {}
    for block in blocks:
        for rows in (block.outputs, *([] if block.form == "lookup" else [block.inputs])):
            if rows <= most:
                found[rows] = found.get(rows, 0.0) + 2 * _BYTES * block.groups * rows**2
    return found


def times(factor: tf.Tensor, matrix: tf.Tensor, transpose: bool = False) -> tf.Tensor:
    """factor @ matrix for `(G, n, n)` or diagonal `(G, n)` factors and `(G, n, m)` matrices.

    Where G is 1, a matrix may also come, and then goes, as `(n, m)`.
    """
    if factor.shape.rank == 2:
        return tf.expand_dims(_one(factor) if matrix.shape.rank == 2 else factor, -1) * matrix
    if matrix.shape.rank == 2:
        return tf.matmul(_one(factor), matrix, transpose_a=transpose)
    if factor.shape[0] == 1:
        return tf.expand_dims(times(factor, _one(matrix), transpose), 0)
    return tf.matmul(factor, matrix, transpose_a=transpose)


def times_right(matrix: tf.Tensor, factor: tf.Tensor, transpose: bool = False) -> tf.Tensor:
    """matrix @ factor for `(G, n, m)` matrices and `(G, m, m)` or diagonal `(G, m)` factors; G as above."""
    if factor.shape.rank == 2:
        return matrix * (factor if matrix.shape.rank == 2 else tf.expand_dims(factor, 1))
    if matrix.shape.rank == 2:
        return tf.matmul(matrix, _one(factor), transpose_b=transpose)
    if factor.shape[0] == 1:
        return tf.expand_dims(times_right(_one(matrix), factor, transpose), 0)
    return tf.matmul(matrix, factor, transpose_b=transpose)


def _one(stack: tf.Tensor) -> tf.Tensor:
    """The matrix of a single group; TensorFlow traces `[0]` as four operations."""
    return tf.squeeze(stack, 0)


def mean_eigenvalue(factor: tf.Tensor) -> tf.Tensor:
    """tr A / dim A, `(G,)`."""
    return tf.reduce_mean(factor if factor.shape.rank == 2 else diagonal(factor), -1)
