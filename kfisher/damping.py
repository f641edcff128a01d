"""How the damping lambda changes while training."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kfisher.checks import positive_integer

register = keras.saving.register_keras_serializable("kfisher")


class Damping:
    """A policy for lambda, the damping of `kfisher.optimizers.NaturalGradient`.

    Attributes:
        initial: The first lambda.
        every: Steps between two adaptations, or `None` if it does not adapt.
    """

    every: int | None = None

    def __init__(self, initial: float):
        self.initial = positive("initial", initial)

    def adapted(self, damping: tf.Tensor, ratio: tf.Tensor) -> tf.Tensor:
        """The next lambda.

        Args:
            damping: Scalar, lambda as it is.
            ratio: Scalar, the reduction ratio of the last step; NaN if there was none.
        """
        return damping

    def after_step(self, damping: tf.Tensor) -> tf.Tensor:
        """The next lambda, when a step was taken."""
        return damping

    def after_rejection(self, damping: tf.Tensor) -> tf.Tensor:
        """The next lambda, when a step was taken back."""
        return damping

    def get_config(self) -> dict[str, Any]:
        return {"initial": self.initial}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Damping:
        return cls(**config)


@register
class Constant(Damping):
    """The same lambda at every step; a plain float as `damping` means this.

    Args:
        initial: Positive float, lambda in the units of F (loss / parameter^2).

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(damping=kfisher.damping.Constant(1e-2))
    """


@register
class Cautious(Damping):
    """The same lambda at every step, but ten times as large after one that had to be taken back.

    It then falls by 5 % a step until it is what it was. `damping="auto"` means this with its defaults.

    Args:
        initial: Positive float, lambda in the units of F (loss / parameter^2). Defaults to `3e-4`.
        maximum: Its largest value. Defaults to `1e3`.

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(damping=kfisher.damping.Cautious(1e-3))
    """

    def __init__(self, initial: float = 1e-4, maximum: float = 1e3):
        super().__init__(initial)
        self.maximum = positive("maximum", maximum)
        if self.maximum < self.initial:
            raise ValueError(
                f"`maximum` must not be below `initial`. Received: initial={initial}, maximum={maximum}"
            )

    def after_step(self, damping):
        least = tf.constant(self.initial, damping.dtype)
        return tf.maximum(least, damping * tf.constant(0.95, damping.dtype))

    def after_rejection(self, damping):
        return tf.minimum(tf.constant(self.maximum, damping.dtype), damping * tf.constant(10, damping.dtype))

    def get_config(self):
        return {**super().get_config(), "maximum": self.maximum}


@register
class LevenbergMarquardt(Damping):
    """Trusts the quadratic model as far as it predicts the loss.

    Every T = `every` steps the loss on the batch is taken before and after the step delta, and

        rho = [L(theta + delta) - L(theta)] / [grad L . delta + delta^T F delta / 2]
        lambda <- lambda omega^T   if rho > 3/4,      lambda / omega^T   if rho < 1/4

    with the exact F of the batch (the empirical one, if that is what the optimizer uses) and delta the whole
    change of the weights: momentum, clipping and weight decay included. The same dropout masks are used in
    both. This costs two forward passes and one product J v every T steps. Where the model predicts no
    decrease, which momentum can bring about, or the loss is not finite, lambda grows.

    Args:
        initial: Positive float, the first lambda. Defaults to `1e-2`.
        omega: Float in (0, 1). Defaults to `0.95`.
        every: Positive integer T. Defaults to `5`.
        minimum, maximum: Bounds of lambda. Default to `1e-8` and `1e3`.

    Reference:
        Martens & Grosse 2015 (arXiv:1503.05671), section 6.5.

    Example:

    >>> policy = kfisher.damping.LevenbergMarquardt(1e-2)
    >>> optimizer = kfisher.optimizers.NaturalGradient(damping=policy)
    """

    def __init__(
        self,
        initial: float = 1e-2,
        omega: float = 0.95,
        every: int = 5,
        minimum: float = 1e-8,
        maximum: float = 1e3,
    ):
        super().__init__(initial)
        if not isinstance(omega, (int, float)) or not 0 < omega < 1:
            raise ValueError(f"`omega` must be a float between 0 and 1. Received: omega={omega}")
        self.omega, self.every = omega, positive_integer("every", every)
        self.minimum, self.maximum = positive("minimum", minimum), positive("maximum", maximum)
        if not self.minimum <= self.initial <= self.maximum:
            raise ValueError(
                "`initial` must be between `minimum` and `maximum`. Received: "
                f"initial={initial}, minimum={minimum}, maximum={maximum}"
            )

    def adapted(self, damping, ratio):
        factor = tf.constant(self.omega**self.every, damping.dtype)
        lower = tf.where(ratio > 0.75, damping * factor, damping)
        # Not `ratio < 0.25`: NaN, too, is no reason to trust the model.
        found = tf.where(ratio >= 0.25, lower, damping / factor)
        return tf.clip_by_value(found, self.minimum, self.maximum)

    def after_rejection(self, damping):
        return self.adapted(damping, tf.constant(float("nan"), damping.dtype))

    def get_config(self):
        return {
            **super().get_config(),
            "omega": self.omega,
            "every": self.every,
            "minimum": self.minimum,
            "maximum": self.maximum,
        }


def get(identifier: Any) -> Damping | keras.optimizers.schedules.LearningRateSchedule:
    """A policy or schedule from a float, "auto", a config, or itself."""
    if isinstance(identifier, str) and identifier == "auto":
        return Cautious()
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, (Damping, keras.optimizers.schedules.LearningRateSchedule)):
        return identifier
    kind = "'auto', a positive float, a schedule, or a policy of kfisher.damping"
    return Constant(positive("damping", identifier, kind))


def positive(name: str, value: Any, kind: str = "a positive float") -> float:
    """A float from any scalar, so that `optimizer.damping *= 0.5` works."""
    try:
        number = float("nan") if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 < number < float("inf"):
        raise ValueError(f"`{name}` must be {kind}. Received: {name}={value}")
    return number
