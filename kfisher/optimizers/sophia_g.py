"""Sophia-G: a diagonal Fisher from drawn labels, and a clip of every entry."""

from __future__ import annotations

import keras
import tensorflow as tf

from kfisher.curvature import Diagonal
from kfisher.damping import positive
from kfisher.fisher import Sampled
from kfisher.optimizers.natural_gradient import NaturalGradient

# Arguments of `NaturalGradient` that its step length leaves no room for.
_NOT_SOPHIA = {"damping", "momentum", "step", "trust_region"}


@keras.saving.register_keras_serializable("kfisher")
class SophiaG(NaturalGradient):
    """Sophia with the Gauss-Newton-Bartlett diagonal.

        m <- beta_1 m + (1 - beta_1) grad L
        theta <- theta - learning_rate * clip(m / max(gamma h, epsilon), -1, 1)

    with h the running average (`beta_2`) of diag(F) from labels drawn from the model, refreshed every
    `update_every` steps. So an entry moves by the natural-gradient step of a diagonal Fisher where that is
    short and certain, and by `learning_rate` times the sign of m elsewhere.

    The paper estimates h by N g o g, with g the gradient of the mean loss on drawn labels; here the squares
    are those of single examples, `kfisher.curvature.Diagonal`. Both have the same expectation, and this one
    less variance.

    Args:
        learning_rate: As in `NaturalGradient`: the largest change of an entry. Defaults to `1e-3`.
        beta_1: Float in [0, 1), of the average of gradients. Defaults to `0.965`.
        beta_2: Float in [0, 1), of the average of h. Defaults to `0.99`.
        gamma: Positive float: larger values clip less. Defaults to `0.05`.
        epsilon: Positive float. Defaults to `1e-12`.
        update_every: Positive integer, steps between two estimates of h. Defaults to `10`.
        likelihood, seed, weight_decay, and all others: as in `NaturalGradient`; weight decay is decoupled.

    Reference:
        Liu et al. 2023 (arXiv:2305.14342), algorithms 2 and 3.

    Example:

    >>> optimizer = kfisher.optimizers.SophiaG(1e-3, weight_decay=0.1)
    """

    def __init__(
        self,
        learning_rate=1e-3,
        beta_1=0.965,
        beta_2=0.99,
        gamma=0.05,
        epsilon=1e-12,
        update_every=10,
        likelihood=None,
        seed=None,
        name="sophia_g",
        **kwargs,
    ):
        taken = _NOT_SOPHIA & set(kwargs)
        if taken:
            raise TypeError(f"SophiaG has no such arguments. Received: {', '.join(sorted(taken))}")
        gamma = positive("gamma", gamma)
        for name_of, beta in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not isinstance(beta, (int, float)) or not 0 <= beta < 1:
                raise ValueError(f"`{name_of}` must be a float in [0, 1). Received: {name_of}={beta}")
        epsilon = positive("epsilon", epsilon)
        super().__init__(
            learning_rate=learning_rate,
            fisher=Sampled(),
            curvature=Diagonal(decay=beta_2, update_every=update_every),
            damping=epsilon,
            likelihood=likelihood,
            seed=seed,
            name=name,
            **kwargs,
        )
        self.beta_1, self.beta_2 = beta_1, beta_2
        self.gamma, self.epsilon, self.update_every = gamma, epsilon, update_every

    def build_own(self, variables):
        super().build_own(variables)
        self.averages = self.add_optimizer_variables(variables, "average")

    def solve(self, evidence, gradient, damping):
        """The gradient itself, if there is a diagonal to go with it: `update_step` does the rest."""
        ready = self.curvature.ready()
        return [tf.where(ready, g, tf.constant(float("nan"), g.dtype)) for g in gradient]

    def update_step(self, gradient, variable, learning_rate):
        i = self._get_variable_index(variable)
        m, h = self.averages[i], tf.cast(self.curvature.entries(i), variable.dtype)
        average = self.beta_1 * tf.cast(m.value, variable.dtype) + (1 - self.beta_1) * tf.cast(
            gradient, variable.dtype
        )
        self.assign(m, average)
        ratio = average / tf.maximum(self.gamma * h, tf.constant(self.epsilon, variable.dtype))
        self.assign_add(variable, -tf.cast(learning_rate, variable.dtype) * tf.clip_by_value(ratio, -1, 1))

    def get_config(self):
        config = super().get_config()
        for key in ("fisher", "curvature", *_NOT_SOPHIA):
            del config[key]
        return {
            **config,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "gamma": self.gamma,
            "epsilon": self.epsilon,
            "update_every": self.update_every,
        }
