"""Lengths of steps: how far to go along a natural-gradient direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kfisher._common.vectors import Tensors, dot, norm
from kfisher.jacobian.batch import Batch
from kfisher.jacobian.linearization import Linearization

# The longest update, as a share of the length of the weights.
_CLOSE = 0.5


class Bounded(NamedTuple):
    """A step in its trust region.

    Attributes:
        step: What `update_step` multiplies by the learning rate (not that of the quadratic model).
        used: Its rate and momentum.
        radius: c, float64; `None` without a region.
        squared_length: Of `step`, float64; `None` where it is not known.
        factor: What brings the update into the trust region.
        share: Its length before, as a share of the longest that is allowed; `None` without a region.
        surprise: u of `TrustRegion`, 0 where there is none.
    """

    step: Tensors
    used: tuple[tf.Tensor, tf.Tensor]
    radius: tf.Tensor | None
    squared_length: Any
    factor: tf.Tensor | float = 1.0
    share: tf.Tensor | None = None
    surprise: Any = 0.0


def estimates(optimizer: Any) -> bool:
    """True if F is that of one batch, and a draw of labels, or those of the data, do not see all of it."""
    return not (optimizer.fisher.exact or optimizer.curvature.averages_batches)


def bounded(
    optimizer: Any,
    batch: Batch,
    m: Tensors,
    solution: Tensors,
    last: Tensors,
    damping: tf.Tensor,
    judgement: Any,
) -> Bounded:
    """The step of a `NaturalGradient`, in its trust region.

    Args:
        optimizer: The optimizer.
        batch: The last batch of this step.
        m: The gradient that was preconditioned.
        solution: (F + damping I)⁻¹ m.
        last: The last update, of a quadratic model.
        damping: λ, a scalar.
        judgement: That of the guard on this batch; `None` without a guard.
    """
    fisher, curvature, guard = optimizer.fisher, optimizer.curvature, optimizer.guard
    step, rate = solution, tf.cast(optimizer.learning_rate, tf.float64)
    length: Any = None
    used = rate, tf.constant(optimizer.momentum, tf.float64)
    if optimizer.step == "quadratic_model":
        step, length, used = quadratic_model(batch.exact_linearization, m, solution, last, damping)
        rate = tf.ones((), tf.float64)
    radius = None if judgement is None else guard.radius(judgement.past, judgement.loss)
    if radius is None:
        return Bounded(step, used, radius, length)
    if optimizer.step == "fixed" and not optimizer.knows_errors:
        rate *= guard.region.reach(judgement.past, judgement.loss)
        used = rate, used[1]
    far = norm(solution)
    measured, surprise, times = None, tf.zeros((), tf.float64), 1.0
    if curvature.averages_batches:
        measured = curvature.squared_length(batch, m, solution, damping)
    elif estimates(optimizer) and not fisher.needs_labels:  # labels of the data explain their gradient
        measured = dot(m, solution)
    if measured is not None:
        measured = at_least(measured, far, damping)
        surprise = guard.surprise(measured, judgement)
    if estimates(optimizer) and (length is None or fisher.needs_labels):
        length = damped_length(batch.measure, step, damping)
    elif length is None and measured is None:
        length = at_least(curvature.squared_length(batch, m, solution, damping), far, damping)
    elif length is None:
        length, times = measured, tf.maximum(surprise, 1)  # F may be so many times too small
    squared_length = times * length * rate**2
    factor, share = within(squared_length, radius)
    # λ δᵀδ is part of it: a bound in float64, where squares of δ overflow.
    longest = tf.sqrt(tf.maximum(squared_length, 0) / tf.cast(damping, tf.float64))
    own = tf.minimum(tf.abs(rate) * (far if step is solution else norm(step)), longest)
    factor = tf.minimum(factor, close(own, batch.model.trainable_variables))
    return Bounded(step, used, radius, length, factor, share, surprise)


def at_least(squared_length: tf.Tensor, far: tf.Tensor, damping: tf.Tensor) -> tf.Tensor:
    """xᵀ (F + damping I) x as it was found, or damping ‖x‖², where it is so far below that it is rounding.

    Not wherever it is below: inverses may have a damping of before, a third of this one.
    """
    least = tf.cast(damping, tf.float64) * far**2
    return tf.where(tf.math.is_finite(least) & (squared_length < 0.1 * least), least, squared_length)


def within(squared_length: tf.Tensor, radius: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The factor, at most 1, that keeps an update within a KL divergence, and what it then uses of it.

        factor = min(1, √(2 c / q)),    q = δᵀ (F + damping I) δ

    so that the update factor * δ has (factor δ)ᵀ F (factor δ) / 2 ≤ c, whatever δ is made
    of. The idea is that of Ba, Grosse & Martens 2017.

    Args:
        squared_length: q, a float64 scalar.
        radius: c, a float64 scalar.

    Returns:
        The factor, and the length of the update before it as a share of the longest that is allowed.
    """
    share = tf.sqrt(tf.maximum(squared_length, 0) / tf.maximum(2 * radius, 1e-300))
    factor = tf.where(share > 1, 1 / share, tf.ones_like(share))
    return factor, share


def close(length: tf.Tensor, weights: list[keras.Variable]) -> tf.Tensor:
    """The factor, at most 1, that keeps an update of this length within half of that of the weights.

    The outputs of a network are products of the weights of its layers: F says how they change only where
    these change little. With targets of 1e5 it would have them change by thousands of their lengths. Weights
    that are shorter than 1, as those that begin at zero, count as 1, so that they can grow.
    """
    if sum(len(v.shape) > 1 for v in weights) < 2:  # a single layer is no product
        return tf.ones_like(length)
    longest = _CLOSE * tf.maximum(norm([tf.convert_to_tensor(v.value) for v in weights]), 1)
    return tf.where(length > longest, longest / length, tf.ones_like(length))


def in_use(add_variable: Callable) -> list[keras.Variable]:
    """Where a step leaves the learning rate and the momentum that it had."""
    return [add_variable((), dtype="float64", name=f"{name}_in_use") for name in ("rate", "momentum")]


def longest_of(size: tf.Tensor, rate: tf.Tensor, damping: tf.Tensor, radius: tf.Tensor | None) -> tf.Tensor:
    """A bound for the length of an update, float64: λ δᵀδ ≤ δᵀ (F + λ I) δ ≤ 2 c, where there is a c.

    Where there is none it is that of the step, its `size`, times the learning rate.
    """
    if radius is None:
        return tf.abs(rate) * size
    return tf.sqrt(2 * radius / tf.cast(damping, tf.float64))


def damped_length(linearization: Linearization, delta: Tensors, damping: tf.Tensor) -> tf.Tensor:
    """δᵀ (F + damping I) δ, a float64 scalar."""
    return linearization.quadratic([delta])[0, 0] + tf.cast(damping, tf.float64) * dot(delta, delta)


def quadratic_model(
    linearization: Linearization, gradient: Tensors, step: Tensors, last: Tensors, damping: tf.Tensor
) -> tuple[Tensors, tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
    """The best combination δ of the step x and the last update, by the damped quadratic model of L.

        δ = V w,   V = [x, delta_{t-1}],   w = -(Vᵀ F V + damping Vᵀ V)^+ Vᵀ ∇L

    Returns δ, δᵀ (F + damping I) δ, and w as a learning rate and a momentum.

    Martens & Grosse 2015, section 7.
    """
    columns = [step, last]
    fisher = linearization.quadratic(columns)
    products = tf.convert_to_tensor([[dot(a, b) for b in columns] for a in columns])
    right = tf.convert_to_tensor([dot(column, gradient) for column in columns])
    damped = fisher + tf.cast(damping, tf.float64) * products
    # At the first step the last update is zero. Scaled to a unit diagonal, as the two differ in length.
    scale = tf.sqrt(tf.linalg.diag_part(damped))
    scale = tf.where(scale > 0, 1 / scale, tf.zeros_like(scale))
    model = damped * scale[:, tf.newaxis] * scale
    w = -scale * tf.linalg.matvec(_pseudo_inverse(model), scale * right)
    delta = [tf.cast(w[0], a.dtype) * a + tf.cast(w[1], b.dtype) * b for a, b in zip(step, last)]
    return delta, tf.tensordot(w, tf.linalg.matvec(damped, w), 1), (-w[0], w[1])


def _pseudo_inverse(matrix: tf.Tensor) -> tf.Tensor:
    """Pseudo-inverse of a symmetric positive semidefinite 2 × 2 matrix; NaN goes through it."""
    values, vectors = tf.linalg.eigh(tf.where(tf.math.is_finite(matrix), matrix, tf.zeros_like(matrix)))
    inverse = tf.where(values > 1e-10 * values[-1], 1 / values, tf.zeros_like(values))
    finite = tf.reduce_all(tf.math.is_finite(matrix))
    inverse = tf.where(finite, inverse, tf.constant(float("nan"), matrix.dtype))
    return tf.matmul(vectors * inverse, vectors, transpose_b=True)
