"""The next call of a model's training function, with eyes in it."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher.callbacks._recorder import StepRecorder
from kfisher.callbacks._snapshot import Snapshot
from kfisher.model import attached


class Hook:
    """Stands in the place of `model.train_function` for one call, and then steps aside.

    So `fit` may end in any way, by an exception or by Ctrl-C. (A callback after ours that raises before the
    step leaves the hook for the next call, and then it is gone.) Several callbacks share one hook. A model
    whose optimizer wants to see its batches, and that does not show them, is attached for the call.

    Attributes:
        recorders: They record the steps of this call.
        peeks: Called with the first batch, before the step that trains on it; not where replicas train.
        charges: Called with the seconds that giving the batch back took.
        after: Called one after the other when the steps are taken, within the call.
        failed: Called if the call raises: at the end of the data, or of `fit`.
    """

    def __init__(self, model: keras.Model, plain: Callable):
        self._model, self._plain = model, plain
        self.recorders: list[StepRecorder | Snapshot] = []
        self.peeks: list[Callable[[Any], None]] = []
        self.charges: list[Callable[[float], None]] = []
        self.after: list[Callable[[], None]] = []
        self.failed: list[Callable[[], None]] = []

    @classmethod
    def on(cls, model: keras.Model) -> Hook:
        """The hook on the next call."""
        found = model.train_function
        if not isinstance(found, cls):
            found = cls(model, found)
            _put(model, found)
        return found

    @staticmethod
    def prepare(model: keras.Model) -> None:
        """At the begin of `fit`: takes off a hook that was never called."""
        if isinstance(model.train_function, Hook):
            _put(model, model.train_function._plain)

    def record(self, recorder: StepRecorder | Snapshot) -> None:
        """Has the steps of this call recorded, once."""
        if recorder not in self.recorders:
            self.recorders.append(recorder)

    def __call__(self, iterator: Any) -> Any:
        _put(self._model, self._plain)
        try:
            if self.peeks:
                iterator = self._peeked(iterator)
            with contextlib.ExitStack() as stack:
                stack.enter_context(attached(self._model))
                for recorder in self.recorders:
                    stack.enter_context(recorder.installed())
                found = self._function()(iterator)
            for tell in self.after:
                tell()
            return found
        except BaseException:  # `on_train_end` may never come
            for tell in self.failed:
                tell()
            raise

    def _function(self) -> Callable:
        """The training function, traced with the recorders in it; calls of `fit` share it."""
        if not self.recorders:
            return self._plain
        keeper = self.recorders[0]
        plain, recorders, function = keeper.traced
        if plain is not self._plain or recorders != self.recorders:
            self._model.make_train_function(force=True)
            function = self._model.train_function
            _put(self._model, self._plain)
            keeper.traced = (self._plain, self.recorders, function)
        return function

    def _peeked(self, iterator: Any) -> Any:
        """Takes the batches of this call out, shows the first, and gives them back."""
        batches = []
        with contextlib.suppress(StopIteration, tf.errors.OutOfRangeError):
            for _ in range(self._model.steps_per_execution):
                batches.append(next(iterator))
        if not batches:
            return iterator
        try:
            for peek in self.peeks:
                peek(batches[0])
        except Exception as error:  # training is worth more than its log
            warnings.warn(f"Nothing is measured here; training goes on. Received: {error!r}", stacklevel=2)
        started = time.perf_counter()
        again = _iterator(batches, iterator.element_spec)
        for charge in self.charges:
            charge(time.perf_counter() - started)
        return again


def _put(model: keras.Model, function: Callable) -> None:
    """Sets `model.train_function`, twice in every step."""
    # In the model's own dictionary: what Keras does to track layers and variables takes a third of our time.
    vars(model)["train_function"] = function


def _iterator(batches: list[Any], spec: Any) -> Any:
    """An iterator over `batches` of the type `spec`: for any other the training function is traced again."""
    dataset = functools.reduce(
        lambda first, then: first.concatenate(then), map(tf.data.Dataset.from_tensors, batches)
    )
    options = tf.data.Options()  # what makes a long data set quick takes long itself
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    variant = tf.data.experimental.to_variant(dataset.with_options(options))
    return iter(tf.data.experimental.from_variant(variant, spec))
