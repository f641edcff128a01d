"""Policies for the damping λ while training."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kfisher._common.checks import between_0_and_1, deserialized, positive, positive_integer, wrong

register = keras.saving.register_keras_serializable("kfisher")


class Damping:
    """A policy for λ, the damping of `kfisher.optimizers.NaturalGradient`.

    Attributes:
        initial: The first λ.
        every: Steps between two adaptations, or `None` if it does not adapt.
    """

    every: Any = None

    def __init__(self, initial: float):
        self.initial = positive("initial", initial)

    def adapted(self, damping: tf.Tensor, ratio: tf.Tensor) -> tf.Tensor:
        """The next λ.

        Args:
            damping: Scalar, λ as it is.
            ratio: Scalar, the reduction ratio of the last step; NaN if there was none.
        """
        return damping

    def after_rejection(self, damping: tf.Tensor) -> tf.Tensor:
        """The next λ, when a step was taken back."""
        return damping

    def get_config(self) -> dict[str, Any]:
        return {"initial": self.initial}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Damping:
        return cls(**config)


@register
class Constant(Damping):
    """Constant λ at every step; a plain float as `damping` means this.

    Args:
        initial: Positive float, λ in the units of F (loss / parameter²).

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(damping=kfisher.damping.Constant(1e-2))
    """


@register
class Cautious(Damping):
    """Large while F is known from few examples or explains little, and after a step that is taken back.

        λ = W clip(max(initial min(1, 16 / n), minimum) caution, minimum, maximum)

    with W what the values of the loss on a batch weigh together, on average over batches: 1 where Keras takes
    their mean, so that a loss in other units is trained alike. n is how many examples F is known from, as
    many as (Σ w)² / Σ w² of equal weight: those that its running averages hold, at first those of one batch,
    among whose gradients most directions of a large network are not, at most B / (1 - decay) for batches of
    B; or those of the batch, where F is an estimate from it alone. A step that is taken back multiplies the
    caution by 10, each good one takes 5 % of it back. A gradient m that F does not explain, one whose mᵀ (F +
    λI)⁻¹ m is u > 1 times 40 times what the F of its own batch would let it be, multiplies it by ∛u, at least
    by 1.5 and at most by 10. So it grows where more than one step in nine is like that, as with many inputs
    and few examples, until F with the damping explains them. `damping="auto"` means this with its defaults.

    For the exact F of a single batch `initial` is `minimum`. There, in float64, the damping follows a loss
    that falls steadily, as that of a whole data set does, down to a ten thousandth: each loss below the one
    before halves λ, each other one takes four times as much.

    Args:
        initial: Positive float, λ in the units of F (loss / parameter²) for up to 16 examples. Defaults
            to `5e-3`, or the nearest between the two below.
        minimum, maximum: Bounds of λ. Default to `1e-4` and `1e3`.

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(damping=kfisher.damping.Cautious(1e-1))
    """

    def __init__(self, initial: float | None = None, minimum: float = 1e-4, maximum: float = 1e3):
        initial, self.minimum, self.maximum = bounds(initial, 5e-3, minimum, maximum)
        super().__init__(initial)

    def cautious(self, caution: tf.Tensor, examples: tf.Tensor) -> tf.Tensor:
        """λ / W.

        Args:
            caution: Scalar, 1 at first and again after enough good steps, ten times as large after each step
                that is taken back, 1.5 to ten times after one with a gradient that F does not explain.
            examples: Scalar n; 0 if it is not known yet.
        """
        base = self.initial * tf.minimum(1.0, 16.0 / tf.maximum(examples, 1.0))
        return tf.clip_by_value(tf.maximum(base, self.minimum) * caution, self.minimum, self.maximum)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "minimum": self.minimum, "maximum": self.maximum}


@register
class LevenbergMarquardt(Damping):
    """Trusts the quadratic model as far as it predicts the loss.

    Every `every` steps the step δ is judged on the batch after it, which had no part in it:

        rho = [L(θ + δ) - L(θ)] / [∇L(θ + δ) . δ - δᵀ F δ / 2]
        λ ← λ omega^every   if rho > 3/4,      λ / omega^every   if rho < 1/4

    with L of that batch, the exact F of the batch that made the step (the empirical one, if that is what the
    optimizer uses), and δ the whole change of the weights: momentum, clipping and weight decay included.
    This costs a forward pass with the weights before the step, with the same dropout masks, and one product
    J v each time. Where the model predicts no decrease, and after a step that was taken back, λ grows.

    Args:
        initial: Positive float, the first λ. Defaults to `1e-2`, or the nearest between the two below.
        omega: Float in (0, 1). Defaults to `0.95`.
        every: Positive integer. Defaults to `5`.
        minimum, maximum: Bounds of λ. Default to `1e-8` and `1e3`.

    Reference:
        Martens & Grosse 2015 (arXiv:1503.05671), section 6.5.

    Example:

    >>> policy = kfisher.damping.LevenbergMarquardt(1e-2)
    >>> optimizer = kfisher.optimizers.NaturalGradient(damping=policy)
    """

    def __init__(
        self,
        initial: float | None = None,
        omega: float = 0.95,
        every: int = 5,
        minimum: float = 1e-8,
        maximum: float = 1e3,
    ):
        initial, self.minimum, self.maximum = bounds(initial, 1e-2, minimum, maximum)
        super().__init__(initial)
        self.omega, self.every = between_0_and_1("omega", omega), positive_integer("every", every)

    def adapted(self, damping: Any, ratio: Any) -> Any:
        factor = tf.constant(self.omega**self.every, damping.dtype)
        lower = tf.where(ratio > 0.75, damping * factor, damping)
        # Not `ratio < 0.25`: NaN, too, is no reason to trust the model.
        found = tf.where(ratio >= 0.25, lower, damping / factor)
        return tf.clip_by_value(found, self.minimum, self.maximum)

    def after_rejection(self, damping: Any) -> Any:
        return self.adapted(damping, tf.constant(float("nan"), damping.dtype))

    def get_config(self) -> dict[str, Any]:
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
    identifier = deserialized("damping", identifier)
    if isinstance(identifier, (Damping, keras.optimizers.schedules.LearningRateSchedule)):
        return identifier
    kind = "'auto', a positive float, a schedule, or a policy of kfisher.damping"
    if isinstance(identifier, type):
        raise wrong("damping", kind, identifier, Damping)
    return Constant(positive("damping", identifier, kind))


def bounds(initial: Any, default: float, minimum: Any, maximum: Any) -> tuple[float, float, float]:
    """`initial`, `minimum` and `maximum`, in order; for an `initial` of `None` the nearest to a `default`."""
    minimum, maximum = positive("minimum", minimum), positive("maximum", maximum)
    if initial is None and minimum <= maximum:
        return min(max(default, minimum), maximum), minimum, maximum
    initial = positive("initial", default if initial is None else initial)
    if not minimum <= initial <= maximum:
        raise ValueError(
            "`initial` must be between `minimum` and `maximum`. Received: "
            f"initial={initial}, minimum={minimum}, maximum={maximum}"
        )
    return initial, minimum, maximum
