"""Checks of arguments, and of values that are known only while the graph runs.

A check returns the argument as Python's own type (NumPy scalars pass wherever numbers do), or raises a
`ValueError` that says what it must be and what was received.
"""

from __future__ import annotations

import inspect
import operator
import os
from collections.abc import Iterable
from typing import Any

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf

_NAN = float("nan")


def wrong(name: str, kind: str, value: Any, base: type | None = None) -> ValueError:
    """The error of an argument that is not `kind`, which may say why; of a subclass of `base`, what to do."""
    hint = ""
    if base is not None and isinstance(value, type) and issubclass(value, base) and value is not base:
        parameters = inspect.signature(value).parameters.values()
        needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        hint = f" (a class; an instance is {value.__name__}({', '.join(f'{n}=...' for n in needed)}))"
    return ValueError(f"`{name}` must be {kind}. Received: {name}={shown(value)}{hint}")


def shown(value: Any) -> str:
    """A value as an error names it: NumPy scalars as numbers, large things by their type and shape."""
    if isinstance(value, np.generic):
        value = value.item()
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape):
        return f"<{type(value).__name__} of shape {tuple(shape)}>"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


# --- numbers --------------------------------------------------------------------------------------


def _number(value: Any) -> float:
    """A float from any scalar, so that `optimizer.damping *= 0.5` works; NaN from what is none."""
    if isinstance(value, (bool, np.bool_, str, bytes)) or len(getattr(value, "shape", ())):
        return _NAN
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return _NAN


def number(name: str, value: Any, low: float, high: float, kind: str) -> float:
    """`value`, a float from `low` to `high`."""
    found = _number(value)
    if not low <= found <= high:
        raise wrong(name, kind, value)
    return found


def positive(name: str, value: Any, kind: str = "a positive float", dtype: str | None = None) -> float:
    """`value`, a float above 0 that does not vanish or overflow in `dtype` (by default Keras' floatx)."""
    found = _number(value)
    if not 0 < found < float("inf"):
        raise wrong(name, kind, value)
    dtype = dtype or keras.config.floatx()
    # TensorFlow flushes subnormal numbers to zero.
    limits = ml_dtypes.finfo(dtype)
    if not float(limits.smallest_normal) <= found <= float(limits.max):
        raise wrong(name, f"{kind} that is neither 0 nor infinite in {dtype}", value)
    return found


def not_negative(name: str, value: Any, kind: str = "a finite float that is not negative") -> float:
    """`value`, a finite float from 0 on."""
    return number(name, value, 0.0, float(np.finfo(np.float64).max), kind)


def probability(name: str, value: Any, kind: str = "a float in [0, 1)") -> float:
    """`value`, a float in [0, 1)."""
    found = number(name, value, 0.0, 1.0, kind)
    if found == 1:
        raise wrong(name, kind, value)
    return found


def share(name: str, value: Any) -> float:
    """`value`, a float from 0 to 1."""
    return number(name, value, 0.0, 1.0, "a float from 0 to 1")


def between_0_and_1(name: str, value: Any) -> float:
    """`value`, a float above 0 and below 1."""
    found = _number(value)
    if not 0 < found < 1:
        raise wrong(name, "a float between 0 and 1", value)
    return found


def integer(name: str, value: Any, kind: str = "an integer", low: int | None = None) -> int:
    """`value`, an integer from `low` on."""
    scalar = not len(getattr(value, "shape", ()))
    try:
        found = None if isinstance(value, (bool, np.bool_)) or not scalar else operator.index(value)
    except TypeError:
        found = None
    if found is None or (low is not None and found < low):
        raise wrong(name, kind, value)
    return found


def positive_integer(name: str, value: Any, kind: str = "a positive integer") -> int:
    """`value`, an integer from 1 on."""
    return integer(name, value, kind, 1)


def seed(name: str, value: Any, kind: str = "an integer from 0 to 2^31 - 1") -> int:
    """`value`, an integer that TensorFlow and NumPy take for a seed."""
    found = integer(name, value, kind, 0)
    if found >= 2**31:
        raise wrong(name, kind, value)
    return found


# --- other arguments ------------------------------------------------------------------------------


def boolean(name: str, value: Any) -> bool:
    """`value`, `True` or `False`; 0 and 1 stand for them."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, (int, np.integer)) and value in (0, 1)):
        return bool(value)
    raise wrong(name, "a bool", value)


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """`value`, one of a few strings."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        known = " or ".join(map(repr, choices)) if len(choices) == 2 else f"one of {choices}"
        raise wrong(name, known, value)
    return value


def directory(name: str, value: Any) -> str:
    """The path of a directory, as a string."""
    found = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(found, str) or not found:
        raise wrong(name, "a directory, a string or path that is not empty", value)
    return found


def function(name: str, value: Any, kind: str) -> Any:
    """`value`, which can be called."""
    if not callable(value):
        raise wrong(name, kind, value)
    return value


def instance(name: str, value: Any, types: type | tuple[type, ...], kind: str) -> Any:
    """`value`, an instance of a class."""
    if not isinstance(value, types):
        raise wrong(name, kind, value, types if isinstance(types, type) else None)
    return value


def deserialized(name: str, value: Any) -> Any:
    """`value`, or the object of which it is the config."""
    if not isinstance(value, dict):
        return value
    if not isinstance(value.get("class_name"), str):
        raise wrong(name, "a config with a `class_name`, as Keras makes it, if it is a dict", value)
    return keras.saving.deserialize_keras_object(value)


def checked(values: tf.Tensor, valid: tf.Tensor, message: str) -> tf.Tensor:
    """`values`, or an error with `message` if `valid` does not hold everywhere.

    XLA drops assertions, so invalid values also turn into NaN: the optimizer then skips the step and
    counts it, and no weight changes either way.

    Args:
        values: Floating tensor.
        valid: Boolean tensor that broadcasts to `values`.
        message: String, what is wrong and what to do.

    Raises:
        tf.errors.InvalidArgumentError: With `message`, where some entry is not valid.
    """
    assertion = tf.debugging.Assert(tf.reduce_all(valid), [message])
    with tf.control_dependencies([assertion] if assertion is not None else []):
        return tf.where(valid, values, tf.constant(float("nan"), values.dtype))


def check_batch(**structures: Any) -> list[Any]:
    """The structures, in which all tensors have the same number of examples, and some.

    Args:
        **structures: Structures of tensors or `None`, by the name to use in the message.

    Returns:
        The same structures. Where a size is known only while the graph runs, nothing is made of their tensors
        before it is checked.

    Raises:
        ValueError: If the static shapes differ in the first axis, or it is 0.
        tf.errors.InvalidArgumentError: The same, for sizes known only while the graph runs.
    """
    tensors = {k: [t for t in keras.tree.flatten(s) if t is not None] for k, s in structures.items()}
    flat = [t for found in tensors.values() for t in found if t.shape.rank != 0]
    static = {t.shape[0] for t in flat}
    shapes = {k: [tuple(t.shape) for t in found] for k, found in tensors.items() if found}
    message = (
        "A batch must have the same number of examples throughout, and at least one (a `tf.data.Dataset` of "
        f"single examples has batches after `.batch(32)`). Received: tensors of shapes {shapes}"
    )
    if len(static - {None}) > 1 or 0 in static:
        raise ValueError(message)
    if None not in static:
        return list(structures.values())
    sizes = [tf.shape(t)[0] for t in flat]
    good = (sizes[0] > 0) & tf.reduce_all(tf.equal(sizes, sizes[0]))
    assertion = tf.debugging.Assert(good, [message, sizes])

    def guarded(t: Any) -> Any:
        return t if t is None else tf.identity(t)

    with tf.control_dependencies([] if assertion is None else [assertion]):
        return [keras.tree.map_structure(guarded, s) for s in structures.values()]
