"""The next call of a model's training function, with eyes in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher.callbacks._recorder import StepRecorder
from kfisher.model import attached


class Hook:
    """Stands in the place of `model.train_function` for one call, and then steps aside.

    So `fit` may end in any way, by an exception or by Ctrl-C. (A callback after ours that raises before the
    step leaves the hook for the next call, and then it is gone.) Several callbacks share one hook. A model
    whose optimizer wants to see its batches, and that does not show them, is attached for the call.

    Attributes:
        recorders: They record the steps of this call.
        peeks: Called with the first batch, before the step that trains on it.
        after: Called when the steps are taken.
        failed: Called if the call raises: at the end of the data, or of `fit`.
    """

    def __init__(self, model: keras.Model, plain: Callable):
        self._model, self._plain = model, plain
        self.recorders: list[StepRecorder] = []
        self.peeks: list[Callable[[Any], None]] = []
        self.after: list[Callable[[], None]] = []
        self.failed: list[Callable[[], None]] = []

    @classmethod
    def on(cls, model: keras.Model) -> Hook:
        """The hook on the next call."""
        if not isinstance(model.train_function, cls):
            model.train_function = cls(model, model.train_function)
        return model.train_function

    @staticmethod
    def prepare(model: keras.Model, name: str) -> None:
        """At the begin of `fit`: takes off a hook that was never called; raises if there are replicas."""
        replicas = model.distribute_strategy.num_replicas_in_sync
        if replicas > 1:
            raise ValueError(
                f"{name} looks at the steps of one replica. Received: a model under a strategy with "
                f"{replicas} replicas"
            )
        if isinstance(model.train_function, Hook):
            model.train_function = model.train_function._plain

    def record(self, recorder: StepRecorder) -> None:
        """Has the steps of this call recorded, once."""
        if recorder not in self.recorders:
            self.recorders.append(recorder)

    def __call__(self, iterator: Any) -> Any:
        self._model.train_function = self._plain
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
            function, self._model.train_function = self._model.train_function, self._plain
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
        for peek in self.peeks:
            peek(batches[0])

        def give() -> Any:
            while batches:
                yield batches.pop(0)  # TensorFlow keeps this function for good

        # Of the same type as the iterator, or the training function would be traced again.
        again = tf.data.Dataset.from_generator(give, output_signature=iterator.element_spec)
        return iter(again)
