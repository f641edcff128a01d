"""Models that hand their batches to the optimizer, and `attach` for those whose class cannot change."""

from __future__ import annotations

import contextlib
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from kfisher._common.models import model as check_model
from kfisher._keras.optimizers import inner
from kfisher._keras.patching import replaced

register = keras.saving.register_keras_serializable("kfisher")

# Under XLA: steps between two looks at how the training goes; each takes a few numbers off the device.
_SAID_EVERY = 10


def train_on(model: keras.Model, train_step: Callable, data: Any) -> Any:
    """One training step of `model`, whose batch its optimizer sees first, if it wants to.

    Labels and weights are checked in each step, whether or not the optimizer looks at them in this one. A
    step that the optimizer skips or takes back leaves no trace: statistics that the forward pass of a bad
    batch, or with bad weights, has moved (those of BatchNormalization) are put back.
    """
    optimizer = inner(model.optimizer)
    if not hasattr(optimizer, "observe"):
        return train_step(data)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    optimizer.observe(model, x, y, sample_weight)
    if optimizer is not model.optimizer:  # Keras tells the loss to the outer one only
        train_step = _telling_the_loss(model.optimizer, optimizer, train_step)
    with optimizer.checking(model) if hasattr(optimizer, "checking") else contextlib.nullcontext():
        return _without_trace(model, optimizer, train_step, data)


def _without_trace(model: keras.Model, optimizer: Any, train_step: Callable, data: Any) -> Any:
    """The training step, after which statistics that a failed one has moved are put back."""
    statistics = [v for v in model.non_trainable_variables if tf.as_dtype(v.dtype).is_floating]
    if not statistics:
        return train_step(data)
    held = [tf.convert_to_tensor(v.value) for v in statistics]
    failed = tf.convert_to_tensor(optimizer.failed_steps.value)
    try:
        logs = train_step(data)
    except tf.errors.InvalidArgumentError:  # labels that are refused, where each operation runs at once
        if tf.executing_eagerly():
            for variable, value in zip(statistics, held):
                variable.assign(value)
        raise
    fails = optimizer.failed_steps.value > failed
    for variable, value in zip(statistics, held):
        # Also where a step in several parts will be skipped only at its last.
        spoilt = fails | ~tf.reduce_all(tf.math.is_finite(variable.value))
        variable.assign(tf.where(spoilt, value, variable.value))
    return logs


def prepare(model: keras.Model) -> None:
    """Called at the start of each `fit`, which may run a step that was traced long ago."""
    optimizer = model.optimizer
    # Variables that a step makes while it is traced have TensorFlow trace all of it a second time.
    if model.built and optimizer is not None and not optimizer.built:
        with model.distribute_strategy.scope():
            optimizer.build(model.trainable_variables)
    if hasattr(inner(optimizer), "check"):
        inner(optimizer).check(model)


def _prepared(model: keras.Model, make: Callable, *args: Any, **kwargs: Any) -> Any:
    """Has `make` make the training function, once the optimizer is ready for it."""
    prepare(model)
    before = model.train_function
    made = make(*args, **kwargs)
    if (
        model.train_function is not before
        and model.jit_compile
        and hasattr(inner(model.optimizer), "trouble")
    ):
        model.train_function = _saying(model, model.train_function)
    return made


def _saying(model: keras.Model, function: Callable) -> Callable:
    """The training function, between whose calls divergence is said: XLA cannot call Python in a step."""
    calls = itertools.count(1)

    def call(iterator: Any) -> Any:
        logs = function(iterator)
        optimizer = inner(model.optimizer)
        if next(calls) % _SAID_EVERY == 0 and not int(optimizer.told.numpy()):
            trouble = optimizer.trouble()
            if trouble is not None:
                warnings.warn(trouble, stacklevel=2)
                optimizer.told.assign(1)
        return logs

    return call


def _telling_the_loss(outer: Any, optimizer: Any, train_step: Callable) -> Callable:
    """`train_step`, in which a `LossScaleOptimizer` tells the one inside of the loss, and of gradients that
    are not finite, which it keeps to itself."""

    def told(data: Any) -> Any:
        scale, check = outer.scale_loss, outer.check_finite

        def scale_loss(loss: Any) -> Any:
            optimizer.scale_loss(loss)
            return scale(loss)

        def check_finite(grads: Any) -> Any:
            finite = check(grads)
            optimizer.withheld(finite, [g for g in grads if g is not None])
            return finite

        with replaced(outer, "scale_loss", scale_loss), replaced(outer, "check_finite", check_finite):
            return train_step(data)

    return told


_Base: Any = object  # for types: what stands beside it is a `keras.Model`


class FisherMixin(_Base):
    """Hands each training batch to the optimizer, then trains as the model does.

    To be put before a `keras.Model` in the bases of a class. With an optimizer that needs no batch (Adam,
    say) nothing changes.

    Example:

    >>> class Network(kfisher.FisherMixin, keras.Model): ...
    """

    def __setattr__(self, name: Any, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "optimizer":
            _bind(self)

    def make_train_function(self, force: Any = False) -> Any:
        return _prepared(self, super().make_train_function, force)

    def train_step(self, data: Any) -> Any:
        return train_on(self, super().train_step, data)


@register
class Model(FisherMixin, keras.Model):
    """`keras.Model` for kfisher optimizers; functional, or to be subclassed.

    `kfisher.Model(model.input, model.output)` upgrades a functional model and shares its weights.

    Example:

    >>> inputs = keras.Input((4,))
    >>> model = kfisher.Model(inputs, keras.layers.Dense(1)(inputs))
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is Model and (args or "inputs" in kwargs):
            return Functional(*args, **kwargs)
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if args or "inputs" in kwargs:
            raise TypeError(
                "Keras makes a class that calls `super().__init__(inputs, outputs)` functional, and its "
                "bases with it. Derive such a class from `kfisher.FisherMixin` and `keras.Model` instead of "
                f"`kfisher.Model`. Received: class {type(self).__name__}"
            )
        super().__init__(**kwargs)


@register
class Functional(FisherMixin, keras.Model):
    """The class of `kfisher.Model(inputs, outputs)`; a `keras.Model`, not an instance of `kfisher.Model`.

    Keras makes a class with functional arguments functional for good, so that `Model` itself would no
    longer be open to subclasses with a `call`.
    """


@register
class Sequential(FisherMixin, keras.Sequential):
    """`keras.Sequential` for kfisher optimizers.

    Example:

    >>> model = kfisher.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    """


def attach(model: keras.Model) -> keras.Model:
    """Makes an existing model hand its batches to its optimizer, without changing its class.

    This is kept in the instance, not in its file: a model that is loaded, cloned, copied or unpickled must
    be attached again. `kfisher.Model` and `kfisher.Sequential` survive all. Attaching twice is the
    same as once.

    Args:
        model: Any `keras.Model`.

    Returns:
        The same model.

    Raises:
        ValueError: If `model` is no `keras.Model`.

    Example:

    >>> model = kfisher.attach(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
    """
    if not isinstance(check_model("model", model), FisherMixin) and not _is_attached(model):
        vars(model)["train_step"] = functools.partial(train_on, model, model.train_step)
        vars(model)["make_train_function"] = functools.partial(_prepared, model, model.make_train_function)
        _bind(model)
        model.train_function = None  # a training function that is already traced would not call it
    return model


def detach(model: keras.Model) -> keras.Model:
    """Undoes `attach`; a model that is not attached stays as it is.

    Example:

    >>> model = kfisher.detach(kfisher.attach(model))
    """
    if _is_attached(check_model("model", model)):
        for name in ("train_step", "make_train_function"):
            _, before = vars(model).pop(name).args
            if getattr(before, "__self__", None) is not model:  # one that was set on the instance
                vars(model)[name] = before
        model.train_function = None
    return model


def wants_batches(model: keras.Model) -> bool:
    """True if the optimizer has to see the batches and the model does not show them."""
    optimizer = inner(model.optimizer)
    return hasattr(optimizer, "observe") and not isinstance(model, FisherMixin) and not _is_attached(model)


@contextlib.contextmanager
def attached(model: keras.Model) -> Iterator[None]:
    """For the length of the block the model hands its batches to its optimizer, if that wants them."""
    if not wants_batches(model):
        yield
        return
    with replaced(model, "train_step", functools.partial(train_on, model, model.train_step)):
        _bind(model)
        yield


def _bind(model: keras.Model) -> None:
    optimizer: Any = getattr(model, "optimizer", None)
    optimizer = inner(optimizer)
    if hasattr(optimizer, "bind"):
        optimizer.bind(model)


def _is_attached(model: keras.Model) -> bool:
    return getattr(vars(model).get("train_step"), "func", None) is train_on
