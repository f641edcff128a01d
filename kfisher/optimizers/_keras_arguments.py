"""The arguments that every Keras optimizer takes, checked before Keras sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import keras

from kfisher._common.checks import (
    boolean,
    deserialized,
    instance,
    not_negative,
    positive,
    positive_integer,
    share,
    shown,
    wrong,
)

Schedule = keras.optimizers.schedules.LearningRateSchedule
# What `learning_rate` may be.
Rate: TypeAlias = "float | keras.optimizers.schedules.LearningRateSchedule | Callable[[], Any]"


def checked(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments as Python numbers; those that Keras does not know are left to it.

    Raises:
        ValueError: If one of them is wrong. Keras itself takes a rate that is negative or NaN.
    """
    return {
        name: _CHECKS[name](name, value) if name in _CHECKS else value for name, value in arguments.items()
    }


def require_own(optimizer: Any, arguments: dict[str, Any], **fixed: str) -> None:
    """Raises if `arguments` has one that the class of an optimizer itself decides; `fixed` says on what."""
    for name in (name for name in fixed if name in arguments):
        raise ValueError(
            f"{type(optimizer).__name__} takes no `{name}`: it is the one with {fixed[name]}. For another "
            f"use kfisher.optimizers.NaturalGradient({name}=...). Received: {name}={shown(arguments[name])}"
        )


def _learning_rate(name: str, value: Any) -> Any:
    value = deserialized(name, value)
    if isinstance(value, Schedule) or (callable(value) and not isinstance(value, type)):
        return value
    kind = "a finite float that is not negative, a schedule, or a function"
    if isinstance(value, str):
        kind += " (a curvature, damping or fisher is given by its name, as curvature='ekfac')"
    return not_negative(name, value, kind)


def _weight_decay(name: str, value: Any) -> Any:
    return value if value is None else not_negative(name, value, "a finite float, not negative, or None")


def _limit(name: str, value: Any) -> Any:
    return value if value is None else positive(name, value, "a positive float, or None")


def _period(name: str, value: Any) -> Any:
    return value if value is None else positive_integer(name, value, "a positive integer, or None")


def _name(name: str, value: Any) -> Any:
    if value == "":
        raise wrong(name, "a string that is not empty, or None", value)
    return value if value is None else instance(name, value, str, "a string, or None")


_CHECKS = {
    "learning_rate": _learning_rate,
    "weight_decay": _weight_decay,
    "clipnorm": _limit,
    "clipvalue": _limit,
    "global_clipnorm": _limit,
    "use_ema": boolean,
    "ema_momentum": share,
    "ema_overwrite_frequency": _period,
    "loss_scale_factor": _limit,
    "name": _name,
}
