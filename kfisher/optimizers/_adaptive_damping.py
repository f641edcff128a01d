"""λ as the optimizer keeps it: a variable that a policy moves, or a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher import damping as dampings
from kfisher._common import replicas
from kfisher._common.checks import positive
from kfisher._common.vectors import Tensors, dot
from kfisher.curvature import Curvature
from kfisher.optimizers._judgement import Judgement

# In float64 the damping of a single batch goes down to this share of its minimum, with the loss.
_LEAST = 1e-4
# What a good step leaves of the caution. A gradient that F does not explain takes eight good steps to make up
# for, or more where it is far from explained: the caution grows where more than one in nine is like that.
_CALM, _RARE = 0.95, 8
# How many times as large a step that was taken back makes it, and a gradient that F does not explain at most.
_BAD = 10.0


class AdaptiveDamping:
    """The damping of an optimizer, and what its policy makes of the steps.

    Args:
        damping: `"auto"`, a positive float, a schedule, or a policy from `kfisher.damping`.
        whole: Whether F is that of the batch itself, and no estimate that few examples may get wrong.
        add_variable: That of the optimizer, so that λ is saved with it.

    Attributes:
        policy: The policy or schedule.
        every: Steps between two judgements on the quadratic model, or `None` if the policy asks for none.
        variable: λ; `None` if it follows a schedule.
        bent: Of the last step δ, until the next batch judges it: its δᵀ F δ, or -1; `None` where
            `every` is.
    """

    def __init__(self, damping: Any, whole: bool, add_variable: Callable):
        self.policy: Any = dampings.get(damping)
        self.every: int | None = getattr(self.policy, "every", None)  # a schedule does not adapt
        self.variable: Any = None
        self.bent: Any = None
        first = getattr(self.policy, "initial", None)
        if isinstance(self.policy, dampings.Cautious) and whole:
            first = self.policy.minimum
        if first is not None:
            self.variable = add_variable(
                (),
                # initializers.Constant goes through float32
                lambda shape, dtype: tf.constant(first, dtype),
                name="damping",
            )
        self._whole = whole
        self.caution: Any = None
        if isinstance(self.policy, dampings.Cautious):
            self.caution = add_variable((), "ones", dtype="float32", name="caution")

    def build(self, add_variable: Callable) -> None:
        """Makes the state that adapting takes."""
        if self.every is not None:
            self.bent = add_variable(
                (), keras.initializers.Constant(-1), dtype="float64", name="curvature_along_step"
            )

    def value(self, step: Any) -> Any:
        """λ of a step: the variable, or the value of the schedule."""
        return self.policy(step) if self.variable is None else self.variable

    def set(self, value: Any) -> None:
        """Gives λ another value."""
        if self.variable is None:
            raise TypeError(
                "This optimizer was created with a schedule as its `damping`, so its damping cannot be set. "
                f"Received: damping={value}"
            )
        value = positive("damping", value)
        if self.caution is not None:
            self.caution.assign(self.caution * tf.cast(value / self.variable.value, tf.float32))
        self.variable.assign(value)

    @property
    def config(self) -> Any:
        """A float where λ does not move, else the policy's own config."""
        if type(self.policy) is dampings.Constant:
            return float(self.variable.numpy())
        return keras.saving.serialize_keras_object(self.policy)

    # --- what the steps say -----------------------------------------------------------------------

    def is_judged(self) -> tf.Tensor | bool:
        """True if the last step waits for its judgement."""
        return False if self.bent is None else self.bent.value >= 0

    def is_due(self, step: tf.Tensor) -> tf.Tensor:
        """True if the step that follows `step` others is to be judged."""
        return tf.equal((step + 1) % self.every, 0)

    def after_rejection(self, curvature: Curvature) -> None:
        """Called when a step was taken back."""
        if self.caution is not None:
            self.caution.assign(tf.minimum(_BAD * self.caution.value, self._most()))
            largest = tf.cast(self.policy.maximum * curvature.weight, self.variable.dtype)
            self.variable.assign(tf.minimum(_BAD * self.variable.value, largest))
            return
        self._move(lambda damping: self.policy.after_rejection(damping))
        if self.bent is not None:
            self.bent.assign(-1)

    def after_step(
        self,
        judgement: Judgement,
        gradient: Tensors,
        last: Callable[[], Tensors],
        curvature: Curvature,
        examples: Any,
        surprise: Any,
    ) -> None:
        """Called before the next step is taken.

        The last step δ is judged on this batch, which had no part in it. With its gradient g at the end
        of the step, the quadratic model has the loss change by g . δ - δᵀ F δ / 2.

        Args:
            judgement: What this batch says of the last step.
            gradient: Its gradient.
            last: δ.
            curvature: What F is of.
            examples: From how many F is known.
            surprise: u of the next step; above 1, F does not explain its gradient.
        """
        bent = self.bent
        if self.caution is not None:
            lower = tf.maximum(_CALM * self.caution.value, 1.0)
            # Where F knows nothing u goes as 1 / λ, and with the weights: a third of the way at a time.
            grown = tf.clip_by_value(tf.cast(surprise, tf.float32) ** (1 / 3), _CALM**-_RARE, _BAD)
            higher = tf.minimum(grown * self.caution.value, self._most())
            self.caution.assign(tf.where(surprise > 1, higher, lower))
            damping = self._known(curvature, examples)
            if self._whole and all(g.dtype == tf.float64 for g in gradient):
                # Where batches differ every other loss is above the one before, and the damping stays.
                mean = tf.abs(judgement.loss) / tf.cast(curvature.weight, tf.float64)
                share = tf.clip_by_value(tf.cast(mean, damping.dtype), _LEAST, 1.0)
                moved = self.variable.value * tf.cast(tf.where(judgement.fell, 0.5, 4.0), damping.dtype)
                damping = tf.clip_by_value(moved, share * damping, damping)
            self.variable.assign(damping)
        if bent is None:
            return

        def adapt() -> None:
            delta = [tf.cast(d, g.dtype) for d, g in zip(last(), gradient)]
            promised = dot(gradient, delta) - bent.value / 2
            ratio = (judgement.loss - judgement.before) / promised
            ratio = tf.where(promised < 0, ratio, tf.constant(float("nan"), tf.float64))
            (ratio,) = replicas.first([ratio])
            self._move(lambda damping: self.policy.adapted(damping, tf.cast(ratio, damping.dtype)))

        replicas.cond((bent.value >= 0) & tf.math.is_finite(judgement.before), adapt, lambda: None)
        bent.assign(-1)

    def follow(self, curvature: Curvature, examples: Any) -> None:
        """Called before a step that nobody judges: λ goes by what F is known from."""
        if self.caution is not None:
            self.caution.assign(tf.maximum(_CALM * self.caution.value, 1.0))
            self.variable.assign(self._known(curvature, examples))

    def _known(self, curvature: Curvature, examples: Any) -> tf.Tensor:
        """λ by the caution as it is, in the units of the loss."""
        damping = self.policy.cautious(self.caution.value, tf.cast(examples, tf.float32))
        return tf.cast(damping * curvature.weight, self.variable.dtype)

    def _most(self) -> float:
        """No more caution than the largest λ has: the rest would only take longer to forget."""
        return min(self.policy.maximum / self.policy.minimum, 1e30)  # of float32

    def _move(self, change: Callable[[tf.Tensor], tf.Tensor]) -> None:
        if self.variable is not None:
            damping = tf.convert_to_tensor(self.variable.value)
            changed = change(damping)
            if changed is not damping:
                self.variable.assign(changed)
