"""Updates of an optimizer, heard without a copy of the old weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kfisher._keras.optimizers import inner
from kfisher._keras.patching import replaced


class Updates:
    """Listens to `assign_sub` and `assign_add` of an optimizer during one step.

    Keeping the old weights until the step is over makes TensorFlow copy all of them. Where a weight is
    changed once, by adding or subtracting a tensor, and by nothing else, that tensor is the update.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]):
        self._optimizer = optimizer
        self._found: dict[int, list[Any]] = {id(v.value): [] for v in variables}
        # Keras makes these changes past the methods of the optimizer.
        self._alone = not (
            optimizer.weight_decay
            or optimizer.use_ema
            or optimizer.gradient_accumulation_steps
            or any(v.constraint is not None for v in variables)
            or inner(optimizer) is not optimizer
            or tf.distribute.get_strategy().num_replicas_in_sync > 1  # each in a thread of its own
        )

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Within it, the optimizer's changes are noted."""
        if not self._alone:
            yield
            return
        methods = {"assign_sub": -1.0, "assign_add": 1.0, "assign": None}
        originals = {name: getattr(self._optimizer, name) for name in methods}

        def listening(name: Any) -> Any:
            def method(variable: Any, value: Any) -> Any:
                key = id(variable.value if isinstance(variable, keras.Variable) else variable)
                if key in self._found:
                    self._found[key].append(None if methods[name] is None else (methods[name], value))
                return originals[name](variable, value)

            return method

        with contextlib.ExitStack() as stack:
            for name in methods:
                stack.enter_context(replaced(self._optimizer, name, listening(name)))
            yield

    def of(self, variables: list[keras.Variable]) -> list[tf.Tensor] | None:
        """The update of each, or `None` if they are not all known."""
        notes = [self._found[id(v.value)] for v in variables]
        if not self._alone or any(len(note) != 1 or note[0] is None for note in notes):
            return None
        values = [(sign, tf.convert_to_tensor(value)) for ((sign, value),) in notes]
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        if graph is not None and any(t.graph is not graph for _, t in values):
            return None  # made in a branch, and not to be seen from here
        if any(t.dtype.size < 4 or t.dtype != v.value.dtype for (_, t), v in zip(values, variables)):
            return None  # what half precision adds is not what it was given
        return [t if sign > 0 else -t for sign, t in values]
