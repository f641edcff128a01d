"""The directions of natural gradient and of the empirical Fisher at the same weights, side by side."""

from __future__ import annotations

import keras
import tensorflow as tf

import kfisher
from kfisher import fisher
from kfisher.jacobian.batch import Batch


def directions(
    model: keras.Model,
    x: tf.Tensor,
    y: tf.Tensor,
    curvature: kfisher.curvature.Curvature,
    damping: tf.Tensor,
    fishers: tuple[str, str] = ("exact", "empirical"),
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Compares (F + damping I)^{-1} g and (EF + damping I)^{-1} g; to be called in a `tf.function`.

    Returns:
        Their cosine, the length of EF's over the other's, and |g|.
    """
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=False), training=False)
    gradient = tape.gradient(loss, [v.value for v in model.trainable_variables])
    steps = []
    for kind in fishers:
        batch = Batch(model, x, y, None, fisher.get(kind), tf.constant([0, 0]), training=False)
        solved = curvature.solve(batch, gradient, damping)
        steps.append(tf.concat([tf.reshape(tf.cast(s, tf.float64), [-1]) for s in solved], 0))
    ngd, ef = steps
    lengths = tf.norm(ngd), tf.norm(ef)
    cosine = tf.tensordot(ngd, ef, 1) / (lengths[0] * lengths[1])
    return cosine, lengths[1] / lengths[0], tf.linalg.global_norm(gradient)
