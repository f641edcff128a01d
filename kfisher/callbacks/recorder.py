"""Numbers of every optimizer step, taken inside the compiled step and kept in a ring buffer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kfisher.vectors import dot

_STATISTICS = ("update_norm", "gradient_norm", "update_to_gradient", "cosine", "weight_norm")
_HYPER_PARAMETERS = ("learning_rate", "damping", "skipped_steps")


class StepRecorder:
    """Wraps `optimizer.apply` for a while; each call writes one row.

    `apply` is where all optimizers meet: what Keras does after it (clipping, weight decay, moving averages,
    loss scaling) is in the difference of the weights. Nothing is written from inside the step, which XLA
    would not allow: a row goes to a variable, and `read` fetches what is new.

    Args:
        model: A compiled model, with any Keras optimizer.
        every: Positive integer; other steps than its multiples leave no row.
        capacity: How many rows are kept until they are read.
    """

    def __init__(self, model: keras.Model, every: int, capacity: int):
        optimizer = model.optimizer
        self._trainable_variables = model.trainable_variables
        self.capacity = capacity
        self._optimizer = optimizer
        self._inner = getattr(optimizer, "inner_optimizer", optimizer)
        self._every = every
        hyper_parameters = [name for name in _HYPER_PARAMETERS if hasattr(self._inner, name)]
        self.names = [*_STATISTICS, *hyper_parameters]
        self._rows = tf.Variable(tf.zeros([capacity, len(self.names)], tf.float64), trainable=False)
        self._count = tf.Variable(0, trainable=False, dtype=tf.int64)
        self._read = 0

    def resume(self) -> None:
        """The count goes on from that of the optimizer, which may have trained without this."""
        self._read = max(self._read, int(keras.ops.convert_to_numpy(self._optimizer.iterations)))
        self._count.assign(self._read)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Within it, traces of a training step record."""
        attributes = vars(self._optimizer)
        before = attributes.get("apply")
        self._apply = self._optimizer.apply
        attributes["apply"] = self._recorded
        try:
            yield
        finally:
            if before is None:
                del attributes["apply"]
            else:
                attributes["apply"] = before

    def _recorded(self, grads, trainable_variables=None):
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        variables, grads = list(trainable_variables), list(grads)
        step = self._count + 1
        before = [tf.convert_to_tensor(v.value) for v in variables]
        hyper_parameters = [tf.cast(p, tf.float64) for p in self._hyper_parameters()]
        scale = tf.cast(self._scale(), tf.float64)
        self._apply(grads, trainable_variables)
        after = [tf.convert_to_tensor(v.value) for v in variables]

        def write():
            row = tf.stack(_statistics(before, after, grads, scale) + hyper_parameters)
            self._rows.scatter_nd_update([[(step // self._every) % self.capacity]], [row])

        if self._every == 1:
            write()
        else:
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
        steps = steps[steps % self._every == 0][-self.capacity :]
        self._read = last
        return steps, self._rows.numpy()[(steps // self._every) % self.capacity]


def _statistics(before, after, grads, scale) -> list[tf.Tensor]:
    """Norms and the cosine of the update with -grad L, over all variables that have a gradient."""
    # Few operations on purpose: for a middle-sized network each costs as much to start as to run.
    trained = [(a, a - b, tf.convert_to_tensor(g)) for b, a, g in zip(before, after, grads) if g is not None]
    update, gradient, weight = (
        tf.cast(tf.linalg.global_norm(tensors), tf.float64)
        for tensors in ([d for _, d, _ in trained], [g for _, _, g in trained], [a for a, _, _ in trained])
    )
    product = dot([d for _, d, _ in trained], [g for _, _, g in trained])
    cosine = tf.math.divide_no_nan(-product, update * gradient)
    gradient /= scale
    return [update, gradient, tf.math.divide_no_nan(update, gradient), cosine, weight]
