"""Callbacks that a training outlives."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type)


def harmless(callback: _Class) -> _Class:
    """A class of callbacks, those of whose `on_...` methods that it defines do not raise into `fit`.

    What goes wrong gives one warning, and the callback does nothing more until the next `fit`. So
    `on_train_begin` counts as its own where it is inherited, too.
    """
    for name in {*vars(callback), "on_train_begin"}:
        if name.startswith("on_"):
            setattr(callback, name, _guarded(name, getattr(callback, name)))
    return callback


def _guarded(name: str, method: Callable) -> Callable:
    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> None:
        if name == "on_train_begin":
            self._gave_up = False
        elif getattr(self, "_gave_up", False):
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # training is worth more than its log
            self._gave_up = True
            found = f"{type(error).__name__}: {error}"
            message = f"{type(self).__name__} does nothing more; training goes on. Received: {found}"
            warnings.warn(message, stacklevel=2)

    return guarded
