"""Independent references: the Gauss-Newton matrix and outer products of the compiled Keras loss.

Nothing here imports kfisher. Every matrix comes from automatic differentiation of `model.compute_loss`, so
reductions, weights, masks and loss weights are those of Keras. P runs over `model.trainable_variables`, each
flattened row-major. Meant for models and losses in float64.
"""

import keras
import numpy as np
import tensorflow as tf


def values(model):
    """The TensorFlow variables behind `model.trainable_variables`, which tapes handle when unconnected."""
    return [v.value for v in model.trainable_variables]


def jacobian(model, x):
    """J, `(sum of output sizes, P)`: the derivative of all model outputs, flattened in their order."""
    with tf.GradientTape(persistent=True) as tape:
        outputs = [f for part in keras.tree.flatten(model(x)) for f in tf.unstack(tf.reshape(part, [-1]))]
    rows = [tape.gradient(f, values(model), unconnected_gradients="zero") for f in outputs]
    return np.stack([np.concatenate([_flat(p) for p in row]) for row in rows])


def output_hessian(model, x, y, sample_weight=None, before=None, link=None):
    """H: the Hessian of the compiled loss with respect to all model outputs, as `jacobian` orders them.

    With `before`, a model of the values in front of the last activation, and `link`, that activation, the
    Hessian is that of loss(link(z)) with respect to z.
    """
    structure = model(x)
    outputs = keras.tree.flatten(structure)
    masks = [getattr(f, "_keras_mask", None) for f in outputs]  # tf.reshape drops them; Keras needs them
    sizes = [int(tf.size(f)) for f in outputs]
    flat = tf.concat([tf.reshape(f, [-1]) for f in keras.tree.flatten((before or model)(x))], 0)
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(flat)
        with tf.GradientTape() as inner:
            inner.watch(flat)
            pieces = [tf.reshape(p, f.shape) for p, f in zip(tf.split(flat, sizes), outputs)]
            pieces = pieces if link is None else [link(p) for p in pieces]
            for piece, mask in zip(pieces, masks):
                if mask is not None:
                    piece._keras_mask = mask
            loss = tf.reduce_sum(
                model.compute_loss(x, y, keras.tree.pack_sequence_as(structure, pieces), sample_weight)
            )
        slopes = tf.unstack(inner.gradient(loss, flat))
    return np.stack([outer.gradient(s, flat, unconnected_gradients="zero").numpy() for s in slopes])


def gauss_newton(model, x, y, sample_weight=None, before=None, link=None, j=None):
    """J^T H J, `(P, P)`, and the Hessian of L2 regularisers; `j` is J if it is known already.

    `before` has variables of its own, with the values of those of `model`.
    """
    j = jacobian(before or model, x) if j is None else j
    return j.T @ output_hessian(model, x, y, sample_weight, before, link) @ j + np.diag(ridge(model))


def ridge(model):
    """The diagonal that `keras.regularizers.L2` adds, by autodiff of the regulariser."""
    diagonal = []
    for variable in model.trainable_variables:
        theta = tf.convert_to_tensor(variable.value)
        second = tf.zeros_like(theta)
        if variable.regularizer is not None:
            with tf.GradientTape() as outer:
                outer.watch(theta)
                with tf.GradientTape() as inner:
                    inner.watch(theta)
                    penalty = variable.regularizer(theta)
                # Penalties are sums over elements: there are no mixed derivatives.
                total = tf.reduce_sum(inner.gradient(penalty, theta))
            second = outer.gradient(total, theta)
        diagonal.append(second.numpy().ravel())
    return np.concatenate(diagonal)


def gradient(model, value):
    """The gradient of the scalar that `value()` returns, `(P,)`."""
    with tf.GradientTape() as tape:
        scalar = value()
    parts = tape.gradient(scalar, values(model), unconnected_gradients="zero")
    return np.concatenate([_flat(p) for p in parts])


def _flat(t):
    return tf.convert_to_tensor(t).numpy().ravel()  # the gradient of an embedding comes as indexed slices


def outer_products(model, value, weights):
    """sum_n w_n g_n g_n^T with g_n the gradient of `value(n)`, one example at a time."""
    total = 0.0
    for n, weight in enumerate(weights):
        g = gradient(model, lambda: value(n))
        total = total + weight * np.outer(g, g)
    return total


def distance(a, b):
    """The largest difference of two arrays, relative to the largest entry of `b`."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    return np.max(np.abs(a - b)) / np.max(np.abs(b))
