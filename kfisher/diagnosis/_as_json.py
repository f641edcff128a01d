"""Dataclasses as JSON and back, with every value of the type that its field declares."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Self


@dataclass
class AsJson:
    """Base of dataclasses that are logged."""

    def to_json(self) -> str:
        """All fields, with `null` for what is not finite."""
        return json.dumps(_without_nan(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read back from what `to_json` wrote; `null` stands for NaN.

        Raises:
            ValueError: If it is something else: no JSON, without a field, with a value of another type, or
                with values that do not go together.
        """
        try:
            found = _of_type(cls, json.loads(text), cls.__name__)
        except RecursionError:
            raise ValueError(f"{cls.__name__} must not be nested so deeply.") from None
        found._check()
        return found

    def _check(self) -> None:
        """Raises if the values do not go together."""


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity; `null` stands for them."""
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _of_type(kind: Any, value: Any, where: str) -> Any:
    """`value`, or what it stands for, if it is of the declared type."""
    if dataclasses.is_dataclass(kind):
        make: Any = kind
        return make(**_fields(kind, {f.name for f in dataclasses.fields(kind) if _required(f)}, value, where))
    if kind is Any:
        return _with_nan(value)
    if kind is float:
        return _number(value, where)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is list and isinstance(value, list):
        if arguments[0] is float and all(type(v) is float for v in value):
            return value  # thousands of eigenvalues
        return [_of_type(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value)]
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        return {key: _of_type(arguments[1], v, f"{where}.{key}") for key, v in value.items()}
    if typing.is_typeddict(kind):
        return _fields(kind, kind.__required_keys__, value, where)
    if type(value) is not kind:
        raise ValueError(f"`{where}` must be of type {getattr(kind, '__name__', kind)}. {_received(value)}")
    return value


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _fields(cls: Any, required: Set[str], value: Any, where: str) -> dict[str, Any]:
    kinds = typing.get_type_hints(cls)
    if not isinstance(value, dict) or not required <= set(value) <= set(kinds):
        raise ValueError(f"`{where}` must have the fields {', '.join(kinds)}. {_received(value)}")
    return {name: _of_type(kinds[name], v, f"{where}.{name}") for name, v in value.items()}


def _number(value: Any, where: str) -> float:
    if value is None:
        return math.nan
    if type(value) not in (int, float):
        raise ValueError(f"`{where}` must be a number. {_received(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"`{where}` must fit into a float. {_received(value)}") from None


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nan(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_with_nan(v) for v in value]
    return math.nan if value is None else value


def _received(value: Any) -> str:
    text = repr(sorted(value) if isinstance(value, dict) else value)
    return f"Received: {text if len(text) <= 80 else text[:79] + '…'}"
