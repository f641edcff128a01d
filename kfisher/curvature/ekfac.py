"""K-FAC with its eigenvalues corrected."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.checks import positive_integer
from kfisher._common.vectors import all_finite
from kfisher.curvature import _factorisation, _sharing
from kfisher.curvature._factorisation import least_shift
from kfisher.curvature._kronecker import Kronecker, times, times_right

# An eigenvalue below so many machine epsilons of the largest is zero: a few are what sums and LAPACK leave.
_ROUNDING = 32


@keras.saving.register_keras_serializable("kfisher")
class EKFAC(Kronecker):
    """The eigenbasis of K-FAC's factors, and in it the exact diagonal of F in place of K-FAC's eigenvalues.

        A = Q_A diag(a) Q_Aᵀ,   B = Q_B diag(b) Q_Bᵀ,   s = Σ_rn w_n (Q_Aᵀ U_rn Q_B)²
        (F + damping I)⁻¹ G ~ Q_A [(Q_Aᵀ G Q_B) / (s + damping)] Q_Bᵀ

    Of all matrices with these eigenvectors it is the closest to each block of F, so never worse than K-FAC,
    and damping is exact in it, at every step the one of that step. The basis is refreshed rarely, s with
    every update; after a new basis s starts from K-FAC's products. A decomposition that fails leaves the
    last good basis in place, until the next update tries again; `failures` counts.

    Where there are eigenvectors, the damping is no less than 10 times the precision of the dtype times the
    largest s that they mix.

    A singular factor says nothing of a basis in its null space. There s is the mean over the null space, so
    that the step is the same in all bases.

    Args:
        decay: Float in [0, 1), of the running averages. Defaults to `0.95`.
        update_every: Positive integer, steps between two updates of factors and eigenvalues (each runs the
            model once more); at first they come at steps 0, 1, 2, 4, 8, ..., and sooner where the weights
            move far. Defaults to `10`.
        basis_every: Positive integer, the same for the eigenbasis. Defaults to `100`.
        sharing, max_factor_size, max_examples, max_memory, share_factorisations: As in `KFAC`, with
            eigenvectors in the place of inverses. A side that is kept as its diagonal has the identity as its
            basis; there s is exact as everywhere.

    Reference:
        George et al. 2018 (arXiv:1806.03884), equations (7)-(10).

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(curvature=kfisher.curvature.EKFAC())
    """

    # The squares of one batch need the basis that its other half helps to make.
    accumulates = False
    refines = True

    def __init__(
        self,
        decay: float = 0.95,
        update_every: int = 10,
        basis_every: int = 100,
        sharing: str = "expand",
        max_factor_size: int = 4096,
        max_examples: int | None = 128,
        max_memory: str | float | None = "auto",
        share_factorisations: bool = False,
    ):
        super().__init__(
            decay, update_every, sharing, max_factor_size, max_examples, max_memory, share_factorisations
        )
        self.basis_every = positive_integer("basis_every", basis_every)

    def build(self, add_variable: Any, variables: Any, blocks: Any, parts: Any) -> None:
        super().build(add_variable, variables, blocks, parts)
        self.bases = [
            [self.add_like(v, "basis") if len(v.shape) == 3 else None for v in factors]
            for factors in self.averages
        ]
        # Of each basis, how many vectors span the null space: the first.
        self.nullities = [
            [self.add((v.shape[0],), tf.int32, "nullity") if len(v.shape) == 3 else None for v in factors]
            for factors in self.averages
        ]
        self.eigenvalues = [
            self.add((block.groups, block.inputs, block.outputs), dtype, f"{name}_eigenvalues")
            for block, dtype, name in zip(blocks, self._dtypes, self.names)
        ]

    def refine(self, products: Any, step: Any, xla: bool) -> None:
        replicas.cond(self.wanted(step, self.basis_every), lambda: self._refresh(xla), lambda: None)
        measured = []
        for number, (examples, s) in enumerate(zip(products, self.eigenvalues)):
            if examples is None:
                measured.append([tf.zeros(s.shape, s.dtype)])
            else:
                squares = examples.squares(*self._basis(number))
                measured.append([tf.cast(self._levelled(number, squares), s.dtype)])
        measured = [[s] for s in replicas.total([s for (s,) in measured])]
        finite = all_finite([s for (s,) in measured])
        self.mix([[s] for s in self.eigenvalues], measured, finite)

    def _basis(self, number: int) -> list[tf.Tensor | None]:
        return [None if q is None else tf.convert_to_tensor(q.value) for q in self.bases[number]]

    def _levelled(self, number: int, s: tf.Tensor) -> tf.Tensor:
        """s, `(G, I, O)`, with its mean in the null space of either factor."""
        left, right = (None if k is None else tf.convert_to_tensor(k.value) for k in self.nullities[number])
        s = s if left is None else _mean_of_first(left, s)
        return (
            s
            if right is None
            else tf.linalg.matrix_transpose(_mean_of_first(right, tf.linalg.matrix_transpose(s)))
        )

    def _refresh(self, xla: bool) -> None:
        """A new basis, and K-FAC's eigenvalues in it."""
        factors = [tf.convert_to_tensor(v.value) for pair in self.averages for v in pair]
        eigensystems = (_sharing if self.share_factorisations else _factorisation).eigensystems
        systems = iter(eigensystems([f for f in factors if f.shape.rank == 3], xla))
        pairs = [next(systems) if f.shape.rank == 3 else (f, None) for f in factors]
        variables, values = [], []
        for number, s in enumerate(self.eigenvalues):
            (a, left), (b, right) = pairs[2 * number : 2 * number + 2]
            spectra = [x if q is None else _without_rounding(x) for x, q in ((a, left), (b, right))]
            variables.append(s)
            values.append(spectra[0][:, :, tf.newaxis] * spectra[1][:, tf.newaxis])
            for basis, nullity, q, x in zip(
                self.bases[number], self.nullities[number], (left, right), spectra
            ):
                if q is not None:
                    variables += [basis, nullity]
                    values += [q, tf.reduce_sum(tf.cast(tf.equal(x, 0), tf.int32), -1)]
        self.keep(variables, values)

    def solve_block(self, number: int, gradient: Any, damping: Any, xla: bool) -> Any:
        left, right = self._basis(number)
        turned = [axis for axis, basis in ((1, left), (2, right)) if basis is not None]
        rotated = gradient if left is None else times(left, gradient, transpose=True)
        rotated = rotated if right is None else times_right(rotated, right)
        s = tf.convert_to_tensor(self.eigenvalues[number].value)
        damping = self.boosted(self.damping_of(number, damping))
        if turned:  # what has no basis is divided as it is, without rounding
            damping = tf.maximum(damping, least_shift(tf.reduce_max(s, turned, keepdims=True), s.dtype))
        rotated /= s + damping
        rotated = rotated if left is None else times(left, rotated)
        return rotated if right is None else times_right(rotated, right, transpose=True)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "basis_every": self.basis_every}


def _without_rounding(values: tf.Tensor) -> tf.Tensor:
    """Eigenvalues `(G, n)`, those that rounding alone may have left of zero set to it."""
    epsilon = 2.0**-52 if values.dtype == tf.float64 else 2.0**-23
    # Not where they are above: NaN, of a decomposition that failed, is to stay.
    return tf.where(values <= _ROUNDING * epsilon * values[:, -1:], tf.zeros_like(values), values)


def _mean_of_first(count: tf.Tensor, s: tf.Tensor) -> tf.Tensor:
    """s, `(G, n, m)`, in which the first `count`, `(G,)`, rows are replaced by their mean."""
    first = (tf.range(s.shape[1]) < count[:, tf.newaxis])[..., tf.newaxis]
    total = tf.reduce_sum(tf.where(first, s, tf.zeros_like(s)), 1, keepdims=True)
    mean = total / tf.cast(tf.maximum(count, 1), s.dtype)[:, tf.newaxis, tf.newaxis]
    return tf.where(first, mean, s)
