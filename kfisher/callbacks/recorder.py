"""Numbers of every optimizer step, taken inside the compiled step and kept in a ring buffer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Rows that fit in the buffer. It is read when half full, so that no step is lost.
CAPACITY = 512
_STATISTICS = ("update_norm", "gradient_norm", "update_to_gradient", "cosine", "weight_norm")
_HYPER_PARAMETERS = ("learning_rate", "damping", "skipped_steps")


class StepRecorder:
    """Wraps `optimizer.apply` for a while; each call writes one row.

    `apply` is where all optimizers meet: what Keras does after it (clipping, weight decay, moving averages,
    loss scaling) is in the difference of the weights. Nothing is written from inside the step, which XLA
    would not allow: a row goes to a variable, and `read` fetches what is new.

    Args:
        optimizer: Any Keras optimizer.
        every: Positive integer; other steps than its multiples cost nothing and leave no row.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, every: int):
        self._optimizer = optimizer
        self._inner = getattr(optimizer, "inner_optimizer", optimizer)
        self._every = every
        hyper_parameters = [name for name in _HYPER_PARAMETERS if hasattr(self._inner, name)]
        self.names = [*_STATISTICS, *hyper_parameters]
        self._rows = tf.Variable(tf.zeros([CAPACITY, len(self.names)], tf.float64), trainable=False)
        self._count = tf.Variable(0, trainable=False, dtype=tf.int64)
        self._read = 0

    def install(self) -> None:
        """From now on, traces of a training step record; the count goes on from the optimizer's."""
        self._read = max(self._read, int(keras.ops.convert_to_numpy(self._optimizer.iterations)))
        self._count.assign(self._read)
        self._apply = self._optimizer.apply
        vars(self._optimizer)["apply"] = self._recorded

    def remove(self) -> None:
        """Undoes `install`."""
        if vars(self._optimizer).get("apply") == self._recorded:
            del vars(self._optimizer)["apply"]

    def _recorded(self, grads, trainable_variables=None):
        if trainable_variables is None:
            trainable_variables = self._optimizer.trainable_variables
        variables, grads = list(trainable_variables), list(grads)
        step = self._count + 1
        before = [tf.convert_to_tensor(v.value) for v in variables]
        hyper_parameters = [tf.cast(p, tf.float64) for p in self._hyper_parameters()]
        scale = tf.cast(self._scale(), tf.float64)
        self._apply(grads, trainable_variables)
        after = [tf.convert_to_tensor(v.value) for v in variables]

        def write():
            row = tf.stack(_statistics(before, after, grads, scale) + hyper_parameters)
            self._rows.scatter_nd_update([[(step // self._every) % CAPACITY]], [row])

        tf.cond(tf.equal(step % self._every, 0), write, lambda: None)
        with tf.control_dependencies(after):  # a step that fails is none
            self._count.assign(step)

    def _hyper_parameters(self) -> list[Any]:
        """Those of the step that is about to be taken; `skipped_steps` is that before it."""
        values = [getattr(self._inner, name) for name in self.names[len(_STATISTICS) :]]
        return [v.value if isinstance(v, keras.Variable) else v for v in values]

    def _scale(self) -> Any:
        """What the gradients are multiplied with, to keep them off the limits of half precision."""
        if self._optimizer is not self._inner:
            return self._optimizer.dynamic_scale.value
        return self._optimizer.loss_scale_factor or 1.0

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return int(self._count.numpy())

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and rows since the last call, `(S,)` and `(S, len(names))`."""
        last = self.steps
        steps = np.arange(self._read + 1, last + 1)
        steps = steps[steps % self._every == 0][-CAPACITY:]
        self._read = last
        return steps, self._rows.numpy()[(steps // self._every) % CAPACITY]


def _statistics(before, after, grads, scale) -> list[tf.Tensor]:
    """Norms and the cosine of the update with -grad L, over all variables that have a gradient."""
    update2 = gradient2 = product = weight2 = tf.zeros((), tf.float64)
    for b, a, g in zip(before, after, grads):
        delta = tf.reshape(a - b, [-1])
        update2 += _square(delta)
        weight2 += _square(a)
        if g is not None:
            g = tf.reshape(tf.cast(tf.convert_to_tensor(g), delta.dtype), [-1])
            gradient2 += _square(g)
            product += tf.cast(tf.tensordot(delta, g, 1), tf.float64)
    update, gradient = tf.sqrt(update2), tf.sqrt(gradient2) / scale
    cosine = tf.math.divide_no_nan(-product / scale, update * gradient)
    return [update, gradient, tf.math.divide_no_nan(update, gradient), cosine, tf.sqrt(weight2)]


def _square(t: tf.Tensor) -> tf.Tensor:
    return tf.cast(2 * tf.nn.l2_loss(t), tf.float64)
