"""The batch and the weights of one step, kept by the step itself, where several replicas train."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kfisher._common import replicas
from kfisher._keras.patching import replaced
from kfisher.callbacks._replicas import is_first_here, plain
from kfisher.diagnosis.meter import variables_of


class Snapshot:
    """Wraps `model.train_step` for a while; a step that is wanted leaves what it started from.

    Where a batch comes from, replicas wait for each other, so that one of them cannot look at it first. And
    what is looked at does not depend on what one of them knows: the step keeps it on its own replica, without
    a word to others. The parts of the replicas of this process are put together again.

    Args:
        model: A model under a strategy.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._wanted = plain(lambda: tf.Variable(False, trainable=False))
        self._batch: Any = None  # its structure
        self._parts: dict[int, list[np.ndarray]] = {}
        self._variables: list[keras.Variable] = []
        self._values: list[np.ndarray] = []
        self.traced: tuple[Any, list, Any] = (None, [], None)  # the training function with this in it

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Within it, traces of a training step keep what is wanted."""
        train_step = self._model.train_step

        def keeping(data: Any) -> Any:
            self._keep(data)
            return train_step(data)

        with replaced(self._model, "train_step", keeping):
            yield

    def want(self) -> None:
        """Has the next step keep what it starts from."""
        self._parts, self._values = {}, []
        self._wanted.assign(True)

    def take(self) -> tuple[Any, list[tuple[keras.Variable, tf.Tensor]]]:
        """The batch, in the structure of `train_step`, and the variables of the model with their values.

        Raises:
            ValueError: If there is none, or it has other parts than tensors.
        """
        self._wanted.assign(False)
        parts = [self._parts[number] for number in sorted(self._parts)]
        held = [(v, tf.constant(value)) for v, value in zip(self._variables, self._values, strict=True)]
        self._parts, self._values = {}, []
        if not parts:
            raise ValueError("The batch is not made of tensors.")
        whole = [np.concatenate(columns) if columns[0].ndim else columns[0] for columns in zip(*parts)]
        leaves = iter(whole)
        flat = [None if leaf is None else next(leaves) for leaf in tf.nest.flatten(self._batch)]
        return tf.nest.pack_sequence_as(self._batch, flat), held

    def _keep(self, data: Any) -> None:
        leaves = tf.nest.flatten(data)
        tensors = [leaf for leaf in leaves if leaf is not None]
        if not all(isinstance(tensor, tf.Tensor) for tensor in tensors):
            return
        self._batch = tf.nest.pack_sequence_as(data, [leaf is not None or None for leaf in leaves])
        number = replicas.index()
        variables = variables_of(self._model) if is_first_here() else []
        self._variables = variables or self._variables

        def store(*arrays: np.ndarray) -> int:
            if number not in self._parts:  # of several steps in one call the first
                copies = [np.array(array) for array in arrays]  # TensorFlow takes the memory back
                self._parts[number] = copies[: len(tensors)]
                self._values = copies[len(tensors) :] or self._values
            return 0

        def keep() -> tf.Tensor:
            values = [tf.convert_to_tensor(v.value) for v in variables]
            return tf.numpy_function(store, [*tensors, *values], tf.int64)

        tf.cond(self._wanted, keep, lambda: tf.constant(0, tf.int64))
