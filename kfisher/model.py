"""Models that hand their batches to the optimizer, and `attach` for those whose class cannot change."""

from __future__ import annotations

import contextlib
import functools
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras

from kfisher._common.models import model as check_model
from kfisher._keras.distributed import METHODS, OnReplicas, reducible
from kfisher._keras.optimizers import inner
from kfisher._keras.patching import replaced
from kfisher._keras.training_step import train_on

register = keras.saving.register_keras_serializable("kfisher")

_SAID_EVERY = 10  # under XLA: steps between two looks at how the training goes


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
    says = model.jit_compile and hasattr(inner(model.optimizer), "trouble")
    if says and model.train_function is not before:
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


class FisherMixin(OnReplicas):
    """Hands each training batch to the optimizer, then trains as the model does.

    To be put before a `keras.Model` in the bases of a class, which may have a `train_step` of its own. With
    an optimizer that needs no batch (Adam, say) nothing changes.

    Example:

    >>> class Network(kfisher.FisherMixin, keras.Model): ...
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own: Any = vars(cls).get("train_step")
        if own is not None:  # it stands before the one below

            @functools.wraps(own)
            def train_step(self: Any, data: Any) -> Any:
                return _train(self, functools.partial(own, self), data)

            setattr(cls, "train_step", train_step)

    def __setattr__(self, name: Any, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "optimizer":
            _bind(self)

    def make_train_function(self, force: Any = False) -> Any:
        return _prepared(self, super().make_train_function, force)

    def train_step(self, data: Any) -> Any:
        return _train(self, super().train_step, data)


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
    """Makes an existing model hand its batches to its optimizer.

    A sequential or functional model of Keras becomes one of kfisher, in place, and so survives saving,
    copying and pickling, and a functional one cloning, too (`clone_model` makes a plain `keras.Sequential`).
    A class of your own stays what it is: there a model that is loaded, cloned, copied or unpickled must be
    attached again, or its class be derived from `kfisher.FisherMixin`. Attaching twice is the same as once.

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
        ours = None if "train_step" in vars(model) else _counterpart(model)
        if ours is None:
            for name, function in _ATTACHED.items():
                vars(model)[name] = functools.partial(function, model, getattr(model, name))
        else:
            _attached[model] = type(model)
            object.__setattr__(model, "__class__", ours)
        _bind(model)
        model.train_function = None  # a training function that is already traced would not call it
    return model


# The classes that models had before they were attached.
_attached: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _counterpart(model: keras.Model) -> type | None:
    """The class of kfisher for a model whose class is one of Keras' own."""
    if type(model) is keras.Sequential:
        return Sequential
    return _functional().get(type(model))


@functools.cache
def _functional() -> dict[type, type]:
    """Keras' class of functional models → that of kfisher, which Keras makes functional with the first."""
    inputs = keras.Input((1,))
    outputs = keras.layers.Identity()(inputs)  # Keras 3.10 wants something between the two
    return {type(keras.Model(inputs, outputs)): type(Functional(inputs, outputs))}


def detach(model: keras.Model) -> keras.Model:
    """Undoes `attach` of a `keras.Model`, and returns it; one that is not attached stays as it is.

    Example:

    >>> model = kfisher.detach(kfisher.attach(model))
    """
    if check_model("model", model) in _attached:
        object.__setattr__(model, "__class__", _attached.pop(model))
        model.train_function = None
    if _is_attached(model):
        for name in _ATTACHED:
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
    with replaced(model, "train_step", functools.partial(_train, model, model.train_step)):
        _bind(model)
        yield


def _bind(model: keras.Model) -> None:
    optimizer: Any = getattr(model, "optimizer", None)
    optimizer = inner(optimizer)
    if hasattr(optimizer, "bind"):
        optimizer.bind(model)


def _train(model: keras.Model, train_step: Callable, data: Any) -> Any:
    return reducible(train_on(model, train_step, data))


# What stands for methods of an attached model: functions of the model, the method, and its arguments.
_ATTACHED: dict[str, Callable] = {"train_step": _train, "make_train_function": _prepared, **METHODS}


def _is_attached(model: keras.Model) -> bool:
    return getattr(vars(model).get("train_step"), "func", None) is _train
