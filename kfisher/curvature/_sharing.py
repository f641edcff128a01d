"""Factorisations shared out: each replica makes those that it owns, and all have the results.

They are to the last bit those that a replica makes by itself: to what one has made the others add zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.symmetric import from_triangle, triangle
from kfisher._common.vectors import Tensors
from kfisher.curvature import _damped_inverse, _factorisation
from kfisher.curvature._damped_inverse import FormedInverse, TruncatedInverse


def owners(work: list[float], count: int) -> list[int]:
    """Who of `count` does which piece of work: the largest goes first, each to the one with least so far."""
    loads, found = [0.0] * count, [0] * len(work)
    for i in sorted(range(len(work)), key=lambda i: -work[i]):
        found[i] = loads.index(min(loads))
        loads[found[i]] += work[i]
    return found


def compute(kinds: list[FormedInverse], factors: Tensors, shifts: Tensors, tail: float, xla: bool) -> Tensors:
    """As `_damped_inverse.compute`."""
    if replicas.count() == 1:
        return _damped_inverse.compute(kinds, factors, shifts, tail, xla)

    def make(places: list[int]) -> list[Tensors]:
        own = [kinds[i] for i in places]
        inputs = [factors[i] for i in places], [shifts[i] for i in places]
        values = iter(_damped_inverse.compute(own, *inputs, tail, xla))
        return [_packed(kind, [next(values) for _ in kind.variables]) for kind in own]

    crossed = _shared_out(factors, make, [_shapes(kind) for kind in kinds])
    return [x for kind, packed in zip(kinds, crossed) for x in _unpacked(kind, packed)]


def eigensystems(matrices: Tensors, xla: bool) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """As `_factorisation.eigensystems`."""
    if replicas.count() == 1:
        return _factorisation.eigensystems(matrices, xla)

    def make(places: list[int]) -> list[Tensors]:
        return [list(pair) for pair in _factorisation.eigensystems([matrices[i] for i in places], xla)]

    shapes = [[(m.shape[:2], m.dtype), (m.shape, m.dtype)] for m in matrices]
    return [(values, vectors) for values, vectors in _shared_out(matrices, make, shapes)]


def _shared_out(factors: Tensors, make: Callable, shapes: list[list[tuple]]) -> list[Tensors]:
    """Results for all factors, from `make`, which takes the places of those that it is to make.

    Args:
        factors: `(G, n, n)`, or diagonals `(G, n)`; the same on all replicas.
        make: Returns a list of tensors for each place.
        shapes: For each factor, shape and dtype of each of its tensors.
    """
    # A diagonal takes no time.
    work = [float(f.shape[0] * f.shape[-1] ** 3) if f.shape.rank == 3 else 0.0 for f in factors]
    mine = [i for i, owner in enumerate(owners(work, replicas.count())) if owner == replicas.index()]
    made = dict(zip(mine, make(mine)))
    parts = [made.get(i) or [tf.zeros(*kind) for kind in kinds] for i, kinds in enumerate(shapes)]
    crossed = iter(replicas.total([t for part in parts for t in part]))
    return [[next(crossed) for _ in part] for part in parts]


# --- an inverse without what it says twice --------------------------------------------------------------


def _shapes(kind: FormedInverse) -> list[tuple]:
    """Shape and dtype of each tensor of `_packed`."""
    shape, *rest = ((v.shape, v.dtype) for v in kind.variables)
    if len(shape[0]) == 3:
        groups, n, _ = shape[0]
        shape = (groups, n * (n + 1) // 2), shape[1]
    return [shape, *rest]


def _packed(kind: FormedInverse, values: Tensors) -> Tensors:
    inverse, *rest = values
    if inverse.shape.rank == 2:
        return values
    if not isinstance(kind, TruncatedInverse):
        return [triangle(inverse)]
    ((_, size), _), *_ = _shapes(kind)

    def first_rows() -> tf.Tensor:
        # All but these are zero: it has not half as many.
        return tf.reshape(inverse, [1, -1])[:, :size]

    return [tf.cond(kind.is_formed(rest[1]), lambda: triangle(inverse), first_rows), *rest]


def _unpacked(kind: FormedInverse, packed: Tensors) -> Tensors:
    numbers, *rest = packed
    shape = kind.inverse.shape
    if len(shape) == 2:
        return packed
    if not isinstance(kind, TruncatedInverse):
        return [from_triangle(numbers)]

    def first_rows() -> tf.Tensor:
        return tf.reshape(tf.pad(numbers, [[0, 0], [0, math.prod(shape) - numbers.shape[1]]]), shape)

    return [tf.cond(kind.is_formed(rest[1]), lambda: from_triangle(numbers), first_rows), *rest]
