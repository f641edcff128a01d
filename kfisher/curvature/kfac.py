"""Kronecker-factored approximate curvature."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.checks import positive_integer, share
from kfisher._common.vectors import Tensors, flatten
from kfisher.curvature import _damped_inverse, _sharing
from kfisher.curvature._damped_inverse import damped_inverse
from kfisher.curvature._kronecker import Kronecker, mean_eigenvalue
from kfisher.jacobian.layers.blocks import Block

# Factors of up to so many rows cost next to nothing to invert; larger ones are inverted every fifth time.
_SMALL, _RARELY = 256, 5
# The factor by which the damping may differ from that in the inverses, of small ones and of others.
_MOVED = 1.5, 3.0


@keras.saving.register_keras_serializable("kfisher")
class KFAC(Kronecker):
    """Two Kronecker factors for each layer, running over batches: the default for networks.

        F ~ A ⊗ B,    A = Σ_n w_n a_n a_nᵀ / Σ_n w_n,    B = Σ_rn g_rn g_rnᵀ
        (F + damping I)⁻¹ G ~ (A + pi √(damping) I)⁻¹ G (B + √(damping) / pi I)⁻¹
        pi² = (tr A / dim A) / (tr B / dim B)

    with a the inputs of a layer (and a 1 for its bias), g the vectors of the Fisher pulled back to its
    pre-activation outputs, root weight included, and G the gradient of its parameters as a matrix. Exact for
    one example, for a layer with one output, and for deep linear networks under squared error; the blocks
    of scale and shift are exact always, their damping too. The ridge of an L2 regulariser is part of the
    damping.

    The damping of a row of a factor that is no diagonal is at least its diagonal entry times 10 times the
    precision of the dtype times the norm of the factor scaled to a unit diagonal. With less, as raw inputs of
    one sign and a single output would have in float32, the inverse is rounding where it is smallest: along
    the leading eigenvectors, where steps must be shortest.

    A factorisation that fails, in float64 too, leaves the last good inverses in place and multiplies the
    damping by 10 for the next ones, until they succeed; `failures` counts, and `fit` warns at its end.

    Args:
        decay: Float in [0, 1), of the running averages. Defaults to `0.95`.
        update_every: Positive integer, steps between two updates of the factors (each runs the model once
            more); at first they come at steps 0, 1, 2, 4, 8, ..., and sooner where the weights move far.
            Defaults to `20`.
        invert_every: Positive integer, the same for the inverses, which also take the damping as it then
            is; they are made anew, too, when a policy has moved the damping by half, or, where a factor has
            more than 256 rows, to three times or a third. `None` stands for `update_every`, or five times
            that where a factor has more than 256 rows. Defaults to `None`.
        sharing: What to do with parameters that are used at several positions of one example
            (convolutions, time steps, shared layers). `"expand"` takes positions for examples, `"reduce"`
            averages inputs and sums gradients over them first. Defaults to `"expand"`.
        max_factor_size: Positive integer. Factors with more rows are kept as diagonals. Defaults to `4096`.
        tail: Float from 0 to 1. In factors of 256 rows and more, eigenvalues below `tail` times the
            damping of the factor are replaced by their mean, if these are most; or, where that is as close,
            the damped factor by its diagonal. The eigenvalues of the damped inverse then change by about that
            much at most, relative to themselves, and products with it cost a fraction. `0` for none.
            Defaults to `1.0`.
        max_examples: Positive integer, or `None`: of a batch of twice as many and more every k-th example is
            taken for the factors. All are where the loss is a sum over its batch. Defaults to `128`.
        max_memory: `"auto"`, a positive number of bytes, or `None`: what the factors and their inverses may
            take, all layers together. The largest factors are kept as diagonals until the rest fits; a
            warning tells of it once, and `kfisher.coverage` of each layer. `"auto"` is four times the bytes
            of the parameters, and no less than 64 MiB; `None` is no limit. Defaults to `"auto"`.
        share_factorisations: Bool. On several replicas, whether each inverts only a part of the factors and
            sends the inverses to the others, which changes no bit of them. It pays where inverting takes
            longer than sending; `python scripts/benchmark.py --replicas` says where that is. Defaults to
            `False`.

    Reference:
        Martens & Grosse 2015 (arXiv:1503.05671), section 6.3 for pi; Grosse & Martens 2016
        (arXiv:1602.01407); Eschenhagen et al. 2023 (arXiv:2311.00636) for `sharing`.

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(curvature=kfisher.curvature.KFAC(update_every=5))
    """

    def __init__(
        self,
        decay: float = 0.95,
        update_every: int = 20,
        invert_every: int | None = None,
        sharing: str = "expand",
        max_factor_size: int = 4096,
        max_examples: int | None = 128,
        tail: float = 1.0,
        max_memory: str | float | None = "auto",
        share_factorisations: bool = False,
    ):
        super().__init__(
            decay, update_every, sharing, max_factor_size, max_examples, max_memory, share_factorisations
        )
        self.invert_every = invert_every
        if invert_every is not None:
            kind = "a positive integer, or None"
            self.invert_every = positive_integer("invert_every", invert_every, kind)
        self.tail = share("tail", tail)

    def build(self, add_variable: Any, variables: Any, blocks: Any, parts: Any) -> None:
        super().build(add_variable, variables, blocks, parts)
        self.inverses = [
            [damped_inverse(self.add, factor, self.tail) for factor in factors] for factors in self.averages
        ]
        self._damping = self.add((), tf.float32, "damping_of_inverses")
        largest = max((f.shape[-1] for pair in self.averages for f in pair if len(f.shape) == 3), default=1)
        small = largest <= _SMALL
        self._moved = _MOVED[0] if small else _MOVED[1]
        self._invert_every = self.invert_every or self.update_every * (1 if small else _RARELY)

    def updated(self, step: Any, damping: Any, xla: bool) -> None:
        ratio = tf.cast(damping, tf.float32) / tf.maximum(self._damping.value, 1e-30)
        moved = self.ready() & ((ratio > self._moved) | (ratio < 1 / self._moved))
        wanted = self.wanted(step, self._invert_every) | moved
        replicas.cond(wanted, lambda: self._invert(damping, xla), lambda: None)

    def _invert(self, damping: tf.Tensor, xla: bool) -> None:
        factors = [tf.convert_to_tensor(v.value) for pair in self.averages for v in pair]
        boosted = self.boosted(tf.cast(damping, tf.float64)) + tf.constant(self._ridge, tf.float64)
        dampings = factored_damping(self.blocks, list(zip(factors[::2], factors[1::2])), boosted)
        shifts = [shift for pair in zip(*dampings) for shift in pair]
        kinds = [kind for pair in self.inverses for kind in pair]
        self._damping.assign(tf.cast(damping, tf.float32))
        compute = (_sharing if self.share_factorisations else _damped_inverse).compute
        values = compute(kinds, factors, shifts, self.tail, xla)
        self.keep([v for kind in kinds for v in kind.variables], values)

    def solve_block(self, number: int, gradient: Any, damping: Any, xla: bool) -> Any:
        left, right = self.inverses[number]
        if gradient.shape[0] == 1:
            gradient = tf.squeeze(gradient, 0)
        return right.times_right(left.times(gradient, xla), xla)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "invert_every": self.invert_every, "tail": self.tail}


def factored_damping(
    blocks: list[Block], pairs: list[tuple[tf.Tensor, tf.Tensor]], dampings: tf.Tensor
) -> tuple[Tensors, Tensors]:
    """pi √(damping) for A and √(damping) / pi for B of each block, `(G,)`, whose product is its damping.

    Where a factor is a number all the damping goes to the other, (A + damping / b I) b: the block is exact.

    Args:
        blocks: The blocks.
        pairs: Their A and B.
        dampings: One for each, float64.
    """
    # Of all blocks at once: an operation for each takes long to trace.
    groups, dtypes = [a.shape[0] for a, _ in pairs], [a.dtype for a, _ in pairs]
    means = flatten([mean_eigenvalue(f) for side in zip(*pairs) for f in side])
    a, b = tf.split(means, 2)
    damping = tf.gather(dampings, np.repeat(np.arange(len(pairs)), groups))
    # A factor that vanishes: the other one then matters as little.
    pi = tf.clip_by_value(tf.sqrt(tf.maximum(a, 1e-30) / tf.maximum(b, 1e-30)), 1e-6, 1e6)
    root = tf.sqrt(damping)
    left, right = pi * root, root / pi
    a_is_number = np.repeat([block.inputs == 1 for block in blocks], groups)
    b_is_number = np.repeat([block.inputs > 1 and block.outputs == 1 for block in blocks], groups)
    left, right = _all_on_one_side(a_is_number, a, left, right, damping)
    right, left = _all_on_one_side(b_is_number, b, right, left, damping)

    def of_blocks(values: tf.Tensor) -> Tensors:
        if len(set(dtypes)) == 1:
            values = tf.cast(values, dtypes[0])
        return [tf.cast(part, dtype) for part, dtype in zip(tf.split(values, groups), dtypes)]

    return of_blocks(left), of_blocks(right)


def _all_on_one_side(
    is_number: np.ndarray, number: tf.Tensor, own: tf.Tensor, other: tf.Tensor, damping: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Shifts of factors and of the others: 0, damping / number where one is a number that does not vanish."""
    if not is_number.any():
        return own, other
    alone = is_number & (number >= 1e-20)
    quotient = damping / tf.where(alone, number, tf.ones_like(number))
    return tf.where(alone, tf.zeros_like(own), own), tf.where(alone, quotient, other)
