"""Attributes and methods of Keras replaced for a while."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf


@contextlib.contextmanager
def replaced(target: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of an instance replaced for the length of the block."""
    # In the instance's own dictionary: Keras' attribute tracking has no business here.
    attributes, missing = vars(target), object()
    before = attributes.get(name, missing)
    attributes[name] = value
    try:
        yield
    finally:
        if before is missing:
            del attributes[name]
        else:
            attributes[name] = before


_shared: dict[tuple[int, str], list] = {}  # how many blocks there are, and the first
_sharing = threading.Lock()


@contextlib.contextmanager
def shared(target: Any, name: str, make: Callable) -> Iterator[None]:
    """As `replaced`, once for all blocks that overlap: the steps of replicas do, in no order of ends.

    Args:
        target, name: The attribute.
        make: From its value, what replaces it.
    """
    key = (id(target), name)
    with _sharing:
        if key not in _shared:
            stack = contextlib.ExitStack()
            stack.enter_context(replaced(target, name, make(getattr(target, name))))
            _shared[key] = [0, stack]
        _shared[key][0] += 1
    try:
        yield
    finally:
        with _sharing:
            _shared[key][0] -= 1
            if not _shared[key][0]:
                _shared.pop(key)[1].close()


_patch_lock = threading.RLock()


@contextlib.contextmanager
def _patched(owner: type, name: str, wrap: Callable) -> Iterator[None]:
    """A method of a class wrapped, in this thread, for the length of the block."""
    thread = threading.get_ident()
    with _patch_lock:
        # Read under the lock: what another thread has put there is not the original.
        original = getattr(owner, name)
        wrapped = wrap(original)

        def method(*args: Any, **kwargs: Any) -> Any:
            here = threading.get_ident() == thread
            return (wrapped if here else original)(*args, **kwargs)

        setattr(owner, name, method)
        try:
            yield
        finally:
            setattr(owner, name, original)


def patched_layer_call(wrap: Callable) -> contextlib.AbstractContextManager[None]:
    """`keras.layers.Layer.__call__` wrapped, in this thread, for the length of the block."""
    return _patched(keras.layers.Layer, "__call__", wrap)


@contextlib.contextmanager
def patched_tapes(wrap: Callable) -> Iterator[None]:
    """All that takes a derivative from a `tf.GradientTape` or an accumulator wrapped, and where one begins.

    Args:
        wrap: From the name of the method and the method, what replaces it.
    """
    names = {
        tf.GradientTape: ("__enter__", "gradient", "jacobian", "batch_jacobian"),
        tf.autodiff.ForwardAccumulator: ("jvp",),
    }
    with contextlib.ExitStack() as stack:
        for owner, methods in names.items():
            for name in methods:
                stack.enter_context(_patched(owner, name, functools.partial(wrap, name)))
        yield


def patched_loss_call(wrap: Callable) -> contextlib.AbstractContextManager[None]:
    """`keras.losses.Loss.__call__` wrapped, in this thread, for the length of the block."""
    return _patched(keras.losses.Loss, "__call__", wrap)
