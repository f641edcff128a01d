"""Sophia-G: a diagonal Fisher from drawn labels, and a clip of every entry."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.checks import positive, probability
from kfisher._common.vectors import norm
from kfisher.curvature import Diagonal
from kfisher.fisher import Sampled
from kfisher.likelihoods import Likelihood
from kfisher.optimizers._keras_arguments import Rate, require_own
from kfisher.optimizers._observing import ObservingOptimizer
from kfisher.optimizers._skips import stays_finite


@keras.saving.register_keras_serializable("kfisher")
class SophiaG(ObservingOptimizer):
    """Sophia with the Gauss-Newton-Bartlett diagonal.

        m ← beta_1 m + (1 - beta_1) ∇L
        h ← beta_2 h + (1 - beta_2) diag(F)      every `update_every` steps
        θ ← θ - learning_rate * clip(m / max(gamma h, epsilon), -1, 1)

    with diag(F) from labels drawn from the model. Both averages start at zero and are not corrected for it,
    as published. So an entry moves by the natural-gradient step of a diagonal Fisher where that is short and
    certain, and by `learning_rate` times the sign of m elsewhere: no entry ever moves by more than that.

    Two things differ. The paper estimates diag(F) by N g o g, with g the gradient of the mean loss on drawn
    labels; here the squares are those of single examples, `kfisher.curvature.Diagonal`, of up to 255 of a
    batch. Both have the same expectation, and this one less variance. And while steps are few, estimates are
    made more often than every `update_every` of them: with 10 at steps 0, 1, 2, 4, 8, 10, 20, 30.

    Args:
        learning_rate: As in `NaturalGradient`: the largest change of an entry. Defaults to `1e-3`.
        beta_1: Float in [0, 1), of the average of gradients. Defaults to `0.965`.
        beta_2: Float in [0, 1), of the average of h. Defaults to `0.99`.
        gamma: Positive float: larger values clip less. Defaults to `0.05`.
        epsilon: Positive float. Defaults to `1e-12`.
        update_every: Positive integer, steps between two estimates of h. Defaults to `10`.
        likelihood, seed, and all others: as in `NaturalGradient`; weight decay is decoupled.

    Attributes:
        skipped_steps: As in `NaturalGradient`.

    Reference:
        Liu et al. 2023 (arXiv:2305.14342), algorithms 2 and 3.

    Example:

    >>> optimizer = kfisher.optimizers.SophiaG(1e-3, weight_decay=0.1)
    """

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.965,
        beta_2: float = 0.99,
        gamma: float = 0.05,
        epsilon: float = 1e-12,
        update_every: int = 10,
        likelihood: Likelihood | None = None,
        seed: int | None = None,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str = "sophia_g",
        **kwargs: Any,
    ):
        require_own(self, kwargs, fisher="drawn labels", curvature="the diagonal")
        super().__init__(
            Sampled(),
            Diagonal(decay=probability("beta_2", beta_2), update_every=update_every, corrected=False),
            likelihood,
            seed,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            **kwargs,
        )
        self.beta_1, self.beta_2 = probability("beta_1", beta_1), self.curvature.decay
        self.gamma, self.epsilon = positive("gamma", gamma), positive("epsilon", epsilon)
        self.update_every = self.curvature.update_every

    def build_own(self, variables: Any) -> None:
        self.averages = self.add_optimizer_variables(variables, "average")

    def take_step(self, batch: Any, gradient: Any, variables: Any, missing: set[int], losses: Any) -> None:
        # What a step is divided by, too: the clip makes nothing finite of a NaN.
        kept = [h.value for averages in self.curvature.averages for h in averages]
        finite = tf.math.is_finite(norm([*gradient, *kept])) & self.curvature.ready()
        finite &= tf.math.is_finite(losses[0])  # of one that is NaN, XLA can make a gradient of 0
        steps = [None if id(v) in missing else g for v, g in zip(variables, gradient)]
        longest = tf.abs(tf.cast(self.learning_rate, tf.float64))  # of each entry
        finite = replicas.everywhere(finite & stays_finite(self, steps, variables, longest))

        def take() -> None:
            self.apply_steps(steps, variables)
            self.succeeded()

        replicas.cond(finite, take, lambda: self.skip(batch, losses[0], gradient, self.curvature.ready()))

    def added(self, step: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> tf.Tensor:
        """The update that `update_step` adds to a variable."""
        h = tf.cast(self.curvature.entries(self._get_variable_index(variable)), variable.dtype)
        average = self._average(step, variable)
        ratio = average / tf.maximum(self.gamma * h, tf.constant(self.epsilon, variable.dtype))
        return -tf.cast(learning_rate, variable.dtype) * tf.clip_by_value(ratio, -1, 1)

    def _average(self, gradient: tf.Tensor, variable: Any) -> tf.Tensor:
        m = tf.cast(self.averages[self._get_variable_index(variable)].value, variable.dtype)
        return self.beta_1 * m + (1 - self.beta_1) * tf.cast(gradient, variable.dtype)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        delta = self.added(gradient, variable, learning_rate)
        self.assign(self.averages[self._get_variable_index(variable)], self._average(gradient, variable))
        self.assign_add(variable, delta)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["fisher"], config["curvature"]
        return {
            **config,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "gamma": self.gamma,
            "epsilon": self.epsilon,
            "update_every": self.update_every,
        }
