"""The next call of a model's training function, with eyes in it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher.callbacks.recorder import StepRecorder

_recording: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class Hook:
    """Stands in the place of `model.train_function` for one call, and then steps aside.

    So `fit` may end in any way, by an exception in another callback or by Ctrl-C, and leaves nothing behind.
    Several callbacks share one hook.

    Attributes:
        recorders: They record the steps of this call.
        peeks: Called with the first batch, before the step that trains on it.
        failed: Called if the call raises: at the end of the data, or of `fit`.
    """

    def __init__(self, model: keras.Model, plain: Callable):
        self._model, self._plain = model, plain
        self.recorders: list[StepRecorder] = []
        self.peeks: list[Callable[[Any], None]] = []
        self.failed: list[Callable[[], None]] = []

    @classmethod
    def on(cls, model: keras.Model) -> Hook:
        """The hook on the next call."""
        if not isinstance(model.train_function, cls):
            model.train_function = cls(model, model.train_function)
        return model.train_function

    def __call__(self, iterator: Any) -> Any:
        self._model.train_function = self._plain
        try:
            if self.peeks:
                iterator = self._peeked(iterator)
            with contextlib.ExitStack() as stack:
                for recorder in self.recorders:
                    stack.enter_context(recorder.installed())
                return self._function()(iterator)
        except BaseException:  # `on_train_end` may never come
            for tell in self.failed:
                tell()
            raise

    def _function(self) -> Callable:
        """The training function, traced with the recorders in it; calls of `fit` share it."""
        if not self.recorders:
            return self._plain
        plain, recorders, function = _recording.get(self._model, (None, None, None))
        if plain is not self._plain or recorders != self.recorders:
            self._model.make_train_function(force=True)
            function, self._model.train_function = self._model.train_function, self._plain
            _recording[self._model] = (self._plain, self.recorders, function)
        return function

    def _peeked(self, iterator: Any) -> Any:
        """Takes the batches of this call out, shows the first, and gives them back."""
        batches = []
        with contextlib.suppress(StopIteration, tf.errors.OutOfRangeError):
            for _ in range(self._model.steps_per_execution):
                batches.append(next(iterator))
        if not batches:
            return iterator
        for peek in self.peeks:
            peek(batches[0])
        # Of the same type as the iterator, or the training function would be traced again.
        again = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=iterator.element_spec)
        return iter(again)
