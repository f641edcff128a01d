"""Properties that are worked out once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class kept:  # noqa: N801  used as `property` is
    """`functools.cached_property` without a lock.

    Up to Python 3.11 that one holds a lock of the class while it works something out. Replicas that wait for
    each other in the middle of it, each with an instance of its own, would wait for ever.
    """

    def __init__(self, function: Callable):
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        # From now on the instance has an attribute of this name, which comes first.
        return vars(instance).setdefault(self._function.__name__, self._function(instance))
