"""How far to go along a natural-gradient step."""

from __future__ import annotations

import tensorflow as tf

from kfisher.linearization import Linearization
from kfisher.vectors import Tensors, dot


def within_trust_region(
    squared_length: tf.Tensor, rate: tf.Tensor, radius: float, momentum: float
) -> tf.Tensor:
    """The factor, at most 1, that keeps the KL divergence of `rate * step` within bounds.

        eta' = min(eta, (1 - mu) sqrt(2 c / q)),    q >= x^T F x

    so that the step delta = -eta' x has delta^T F delta / 2 <= c. q is `Curvature.squared_length`: with
    running curvature g . x = x^T (F + damping I) x, which costs one dot product, else x^T F x. With momentum
    mu the step is the sum of mu^k times the last such parts, whose F-norms then add up to no more than
    sqrt(2 c). The idea of the clip is that of Ba, Grosse & Martens 2017.
    """
    length = tf.sqrt(tf.maximum(squared_length, 0))
    wanted = tf.cast(rate, tf.float64) * length
    allowed = tf.cast((1 - momentum) * (2 * radius) ** 0.5, tf.float64)
    return tf.where(wanted > allowed, allowed / wanted, tf.ones_like(wanted))


def quadratic_model(
    linearization: Linearization,
    gradient: Tensors,
    step: Tensors,
    last: Tensors,
    damping: tf.Tensor,
    radius: float | None,
) -> Tensors:
    """The best combination delta of the step x and the last update, by the damped quadratic model of L.

        delta = V w,   V = [x, delta_{t-1}],   w = -(V^T F V + damping V^T V)^+ V^T grad L

    With a trust region c, w is scaled so that delta^T F delta / 2 <= c. Martens & Grosse 2015, section 7.
    """
    columns = [step, last]
    fisher = linearization.quadratic(columns)
    products = tf.convert_to_tensor([[dot(a, b) for b in columns] for a in columns])
    right = tf.convert_to_tensor([dot(column, gradient) for column in columns])
    model = fisher + tf.cast(damping, tf.float64) * products
    # At the first step the last update is zero. Scaled to a unit diagonal, as the two differ in length.
    scale = tf.sqrt(tf.linalg.diag_part(model))
    scale = tf.where(scale > 0, 1 / scale, tf.zeros_like(scale))
    model = model * scale[:, tf.newaxis] * scale
    w = -scale * tf.linalg.matvec(_pseudo_inverse(model), scale * right)
    if radius is not None:
        divergence = tf.tensordot(w, tf.linalg.matvec(fisher, w), 1) / 2
        w *= tf.where(divergence > radius, tf.sqrt(radius / divergence), tf.ones_like(divergence))
    return [tf.cast(w[0], a.dtype) * a + tf.cast(w[1], b.dtype) * b for a, b in zip(step, last)]


def _pseudo_inverse(matrix: tf.Tensor) -> tf.Tensor:
    """Of a symmetric positive semidefinite 2 x 2 matrix; NaN goes through it."""
    values, vectors = tf.linalg.eigh(tf.where(tf.math.is_finite(matrix), matrix, tf.zeros_like(matrix)))
    inverse = tf.where(values > 1e-10 * values[-1], 1 / values, tf.zeros_like(values))
    finite = tf.reduce_all(tf.math.is_finite(matrix))
    inverse = tf.where(finite, inverse, tf.constant(float("nan"), matrix.dtype))
    return tf.matmul(vectors * inverse, vectors, transpose_b=True)
