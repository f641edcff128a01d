"""Numbers of every optimizer step, taken inside the compiled step and kept in a ring buffer."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.vectors import dot
from kfisher._keras.optimizers import inner, parts_of_step
from kfisher._keras.patching import replaced
from kfisher.callbacks._known import HYPER_PARAMETERS, IN_USE, known, knows_kl, layers_of, values_of
from kfisher.callbacks._replicas import is_first_here, plain
from kfisher.callbacks._sums import few, squares_of
from kfisher.callbacks._updates import Updates
from kfisher.logs import schema

_STATISTICS = (
    schema.LOSS,
    schema.UPDATE_NORM,
    schema.GRADIENT_NORM,
    schema.UPDATE_TO_GRADIENT,
    schema.COSINE,
    schema.WEIGHT_NORM,
    schema.DISTANCE,
)


class StepRecorder:
    """Wraps `optimizer.apply` for a while; each call writes one row.

    All optimizers meet there: what Keras does after it (clipping, weight decay, moving averages) is in the
    difference of the weights. A row goes to a variable, as XLA allows no more; `read` fetches what is new.

    Of several replicas all add up their gradients, and the first of each process writes the row: weights
    and sums are the same everywhere.

    Args:
        model: A compiled model, with any Keras optimizer.
        every: Positive integer; other steps than its multiples leave no row.
        capacity: How many rows are kept until they are read.
        per_layer: Whether to record norms of each layer, too.
    """

    def __init__(self, model: keras.Model, every: int, capacity: int, per_layer: bool):
        optimizer = model.optimizer
        self._trainable_variables = list(model.trainable_variables)
        self._start = {id(v): _plain(tf.convert_to_tensor(v.value)) for v in self._trainable_variables}
        self._layers = layers_of(model) if per_layer else {}
        self.capacity = capacity
        self._optimizer = optimizer
        self._inner = inner(optimizer)
        self._every = every
        self._hyper_parameters = known(self._inner, HYPER_PARAMETERS)
        self._in_use = known(self._inner, IN_USE)
        self._has_kl = knows_kl(self._inner)
        self.names = [*_STATISTICS, *self._hyper_parameters, *self._in_use]
        self.names += [schema.KL] if self._has_kl else []
        self.tags = [schema.step_tag(name) for name in self.names]
        self.tags += [
            schema.layer_tag(layer, name) for layer in self._layers for name in schema.LAYER_STATISTICS
        ]
        self._rows = _plain(tf.zeros([capacity, len(self.tags)], tf.float64))
        self._count = _plain(tf.constant(0, tf.int64))
        self._read = self._parts = 0
        self.traced: tuple[Any, list, Any] = (None, [], None)  # the training function with this in it
        self._loss: Any = None  # of the step that is being traced

    def resume(self) -> None:
        """The count goes on from that of the optimizer, which may have trained without this.

        It goes back if that of the optimizer has, which was restored; otherwise it is ahead of it by parts of
        an accumulated step, or by skipped ones.
        """
        parts = parts_taken(self._optimizer)
        self._read = parts if parts < self._parts else max(self._read, parts)
        self._count.assign(self._read)

    @property
    def start(self) -> list[tf.Variable]:
        """The weights from which distances count, a variable for each trainable one."""
        return [self._start[id(v)] for v in self._trainable_variables]

    def _start_of(self, variable: keras.Variable) -> tf.Tensor:
        """The same for one, which a model may make only when it sees its first batch."""
        if id(variable) not in self._start:
            with tf.init_scope():
                if not variable.value.is_initialized():  # TensorFlow traces again when it has a value
                    return tf.fill(variable.shape, tf.constant(float("nan"), variable.dtype))
                self._start[id(variable)] = _plain(tf.convert_to_tensor(variable.value))
            self._trainable_variables.append(variable)
        return tf.convert_to_tensor(self._start[id(variable)])

    def start_here(self) -> None:
        """Distances count from the weights as they are now."""
        for variable in self._trainable_variables:
            self._start[id(variable)].assign(tf.convert_to_tensor(variable.value))

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Within it, traces of a training step record."""
        self._apply, self._scale_loss = self._optimizer.apply, self._optimizer.scale_loss
        with replaced(self._optimizer, "apply", self._recorded):
            with replaced(self._optimizer, "scale_loss", self._seen):
                yield

    def _seen(self, loss: Any) -> Any:
        """`scale_loss`, which is where an optimizer is told the loss."""
        self._loss = loss
        return self._scale_loss(loss)

    def _loss_of_step(self) -> tf.Tensor:
        """The loss; infinite where it is not a number, and NaN, which is not logged, if nobody told it."""
        loss, self._loss = self._loss, None
        here = tf.is_tensor(loss) and loss.shape.rank == 0
        if not here or not (tf.executing_eagerly() or loss.graph is tf.compat.v1.get_default_graph()):
            return tf.constant(float("nan"), tf.float64)
        loss = tf.cast(loss, tf.float64)
        return tf.where(tf.math.is_nan(loss), tf.constant(float("inf"), tf.float64), loss)

    def _recorded(self, grads: Any, trainable_variables: Any = None) -> None:
        everything = self._trainable_variables if trainable_variables is None else trainable_variables
        everything, grads = list(everything), list(grads)
        try:
            heard, record = self._prepared(grads, everything)
        except Exception as error:  # training is worth more than its log
            _tell(error)
            self._apply(grads, everything)
            return
        with heard.heard():
            self._apply(grads, everything)
        try:
            record()
        except Exception as error:
            _tell(error)

    def _prepared(self, grads: list, variables: list) -> tuple[Updates, Callable[[], None]]:
        """Ears for the update, and what records the step when it is done."""
        trained = [i for i, g in enumerate(grads) if g is not None]
        variables, kept = [variables[i] for i in trained], [tf.convert_to_tensor(grads[i]) for i in trained]
        *kept, loss = replicas.total([*kept, self._loss_of_step()])  # Keras has divided it among them
        if not is_first_here():
            return Updates(self._optimizer, variables), lambda: None
        step = self._count + 1
        before = [tf.convert_to_tensor(v.value) for v in variables]
        values = values_of(self._inner, self._hyper_parameters)  # of this step
        scale = tf.cast(self._scale(), tf.float64)
        heard = Updates(self._optimizer, variables)

        def record() -> None:
            after = [tf.convert_to_tensor(v.value) for v in variables]
            sign, updates = heard.of(variables) or (1.0, [a - b for a, b in zip(after, before)])

            def write() -> None:
                told = [loss, *values, *values_of(self._inner, self._in_use)]
                row = self._row(variables, sign, updates, after, kept, scale, told)
                self._rows.scatter_nd_update([[(step // self._every) % self.capacity]], [row])

            if self._every == 1:
                write()
            else:
                tf.cond(tf.equal(step % self._every, 0), write, lambda: None)
            with tf.control_dependencies(after):  # a step that fails is none
                self._count.assign(step)

        return heard, record

    def _row(
        self, variables: Any, sign: float, updates: Any, after: Any, grads: Any, scale: Any, values: Any
    ) -> tf.Tensor:
        """All that is recorded of one step; a weight without a gradient counts in nothing."""
        loss, *values = values
        lists = updates, after, grads, [self._start_of(v) for v in variables]
        updates, after, grads, start = lists if self._layers else map(few, lists)
        squares = {
            schema.UPDATE_NORM: squares_of(updates),
            schema.GRADIENT_NORM: squares_of(grads),
            schema.WEIGHT_NORM: squares_of(after),
            schema.DISTANCE: squares_of([a - s for a, s in zip(after, start)]),
        }
        squares[schema.GRADIENT_NORM] /= scale**2
        norms = {name: tf.sqrt(tf.reduce_sum(square)) for name, square in squares.items()}
        update, gradient = norms[schema.UPDATE_NORM], norms[schema.GRADIENT_NORM]
        product = sign * dot(updates, grads) / scale
        statistics = {
            schema.LOSS: loss,
            **norms,
            schema.UPDATE_TO_GRADIENT: tf.math.divide_no_nan(update, gradient),
            schema.COSINE: tf.math.divide_no_nan(-product, update * gradient),
        }
        row = [statistics[name] for name in _STATISTICS] + values
        if self._has_kl:
            row.append(self._kl(-product, values[self._hyper_parameters.index(schema.LEARNING_RATE)]))
        for members in self._layers.values():
            mask = tf.constant([float(id(v) in members) for v in variables], tf.float64)
            row += [tf.sqrt(tf.tensordot(mask, squares[name], 1)) for name in schema.LAYER_STATISTICS]
        return tf.stack(row)

    def _kl(self, descent: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        """δᵀ (F + λ I) δ / 2 of a step δ = -η (F + λ I)⁻¹ g, from -gᵀ δ."""
        return descent / 2 if self._inner.step == "quadratic_model" else rate * descent / 2

    def _scale(self) -> Any:
        """The factor that keeps gradients off the limits of half precision."""
        if self._optimizer is not self._inner:
            return self._optimizer.dynamic_scale.value
        return self._optimizer.loss_scale_factor or 1.0

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return int(self._count.numpy())

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and rows since the last call, `(S,)` and `(S, len(tags))`."""
        last, self._parts = self.steps, parts_taken(self._optimizer)
        steps = np.arange(self._read + 1, last + 1)
        steps = steps[steps % self._every == 0][-self.capacity :]
        self._read = last
        return steps, self._rows.numpy()[(steps // self._every) % self.capacity]


def _tell(error: Exception) -> None:
    warnings.warn(f"Steps are not recorded; training goes on. Received: {error!r}", stacklevel=2)


def _plain(value: tf.Tensor) -> tf.Variable:
    return plain(lambda: tf.Variable(value, trainable=False))


def parts_taken(optimizer: keras.optimizers.Optimizer) -> int:
    """Steps so far; of accumulated ones each part."""
    steps = int(keras.ops.convert_to_numpy(optimizer.iterations))
    return steps * parts_of_step(optimizer)
