"""Identity of an optimizer's state: kept beside it, and compared when it comes back."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_LENGTH = 160
_FIELDS = ("optimizer", "curvature", "fisher", "weights", "blocks", "state")


class Identity(tf.train.experimental.PythonState):
    """The optimizer and the model that state belongs to, as text in a variable that is saved with it.

    State is saved by position: that of another optimizer, or of the same one for other layers, may fit into
    its place without being meant for it. Where it does not fit, TensorFlow speaks of shapes: a
    `tf.train.Checkpoint` keeps the text once more, as Python's state, which it hands over before variables.

    Args:
        add_variable: That of the optimizer. The variable comes before all others that are made with it, so
            that every file has something else there unless it is meant.

    Attributes:
        text: Of this optimizer, once all of its state is there; until then empty.
    """

    def __init__(self, add_variable: Callable):
        self.text = ""
        # No smaller type can be told from one worker to another.
        self.variable = add_variable((_LENGTH,), "zeros", dtype="int32", name="identity")

    def settle(self, optimizer: Any, variables: list[keras.Variable], blocks: list | None) -> None:
        """Called when all state is there, of which some may have been restored before it was made."""
        entries = sum(math.prod(v.shape) for v in variables)
        # Of shapes, not of names: Keras counts names on in every process.
        weights = [tuple(v.shape) for v in variables]
        state = [(tuple(v.shape), v.dtype) for v in optimizer.variables]
        parts = (
            type(optimizer).__name__,
            type(optimizer.curvature).__name__,
            type(optimizer.fisher).__name__,
            f"{len(variables)} with {entries} entries {_digest(weights)}",
            f"{len(blocks or ())} {_digest([block.get_config() for block in blocks or ()])}",
            f"{len(state)} variables {_digest(state)}",
        )
        self.text = "|".join(parts)[:_LENGTH]
        with tf.init_scope():
            if _read(self.variable.numpy()):
                self.check()
            self.variable.assign(_bytes(self.text))

    def check(self) -> None:
        """Raises if the state has been replaced by that of something else."""
        if self.text:
            with tf.init_scope():
                self._compare(_read(self.variable.numpy()))

    def serialize(self) -> str:
        """Called by a `tf.train.Checkpoint` that is written."""
        return self.text

    def deserialize(self, value: bytes) -> None:
        """Called by a `tf.train.Checkpoint` that is read, before anything is restored."""
        found = value.decode(errors="replace")
        if self.text and found:  # else it was written, or is read, before there is any state
            self._compare(found)

    def assertion(self) -> None:
        """Check while a graph runs, for state that is replaced after it was traced."""
        same = tf.reduce_all(tf.equal(self.variable.value, _bytes(self.text)))
        tf.debugging.Assert(same, [_message(f"something else than {self.text!r}")])

    def check_store(self, store: Any, variables: list[keras.Variable]) -> None:
        """Raises if a file holds the state of something else.

        Args:
            store: What Keras hands to `load_own_variables`.
            variables: Those of the optimizer.
        """
        place = str(next(i for i, v in enumerate(variables) if v is self.variable))
        value = np.asarray(store[place]) if place in store.keys() else np.zeros(())
        if value.shape != (_LENGTH,):
            raise ValueError(
                _message(
                    f"that of an optimizer that is not one of kfisher, with {len(store.keys())} variables "
                    f"instead of {len(variables)}"
                )
            )
        if np.any(value):  # else it was saved before there was any
            self._compare(_read(value))

    def _compare(self, found: str) -> None:
        if found != self.text:
            pairs = zip(_FIELDS, found.split("|"), self.text.split("|"))
            differences = [f"{name}={a!r} instead of {b!r}" for name, a, b in pairs if a != b]
            raise ValueError(_message(", ".join(differences) or repr(found)))


def _message(received: str) -> str:
    return (
        "The state that was restored is not that of this optimizer and model. Restore it with the same "
        "optimizer, curvature, Fisher and layers, or restore the weights only (for a new optimizer, "
        f"compile the model again). Received: {received}"
    )


def _digest(thing: Any) -> str:
    return f"#{zlib.crc32(repr(thing).encode()):08x}"


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode()[:_LENGTH].ljust(_LENGTH, b"\0"), np.uint8).astype(np.int32)


def _read(values: Any) -> str:
    return bytes(np.asarray(values, np.uint8)).rstrip(b"\0").decode(errors="replace")
