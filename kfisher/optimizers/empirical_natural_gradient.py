"""Natural gradient descent with the empirical Fisher."""

from __future__ import annotations

from typing import Any

import keras

from kfisher.curvature import Curvature
from kfisher.fisher import Empirical
from kfisher.likelihoods import Likelihood
from kfisher.optimizers._keras_arguments import Rate, require_own
from kfisher.optimizers.natural_gradient import NaturalGradient


@keras.saving.register_keras_serializable("kfisher")
class EmpiricalNaturalGradient(NaturalGradient):
    """`NaturalGradient` with the empirical Fisher: `fisher=kfisher.Empirical()`, and no other difference.

        δ = -learning_rate * (EF + damping I)⁻¹ ∇L,   EF = Σ_n w_n g_n g_nᵀ

    with g_n the gradient of -log p(y_n | x_n). It looks like natural gradient descent, costs the same, and
    distorts both the direction and the length of the step (Kunstner, Balles, Hennig 2019, section 4).

    Args:
        learning_rate, curvature, damping, momentum, trust_region, step, likelihood, seed, and all others:
            as in `NaturalGradient`.

    Example:

    >>> optimizer = kfisher.optimizers.EmpiricalNaturalGradient(0.1, damping=1e-2)
    """

    def __init__(
        self,
        learning_rate: Rate = 0.3,
        curvature: str | Curvature = "kfac",
        damping: Any = "auto",
        momentum: str | float = "auto",
        trust_region: str | float | None = "auto",
        step: str = "fixed",
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
        name: str = "empirical_natural_gradient",
        **kwargs: Any,
    ):
        require_own(self, kwargs, fisher="the labels of the data, fisher='empirical'")
        super().__init__(
            learning_rate=learning_rate,
            fisher=Empirical(),
            curvature=curvature,
            damping=damping,
            momentum=momentum,
            trust_region=trust_region,
            step=step,
            likelihood=likelihood,
            seed=seed,
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

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["fisher"]
        return config
