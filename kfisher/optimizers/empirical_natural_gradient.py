"""The same with the labels of the data."""

from __future__ import annotations

import keras

from kfisher.fisher import Empirical
from kfisher.optimizers.natural_gradient import NaturalGradient


@keras.saving.register_keras_serializable("kfisher")
class EmpiricalNaturalGradient(NaturalGradient):
    """`NaturalGradient` with the empirical Fisher: `fisher=kfisher.Empirical()`, and no other difference.

        delta = -learning_rate * (EF + damping I)^{-1} grad L,   EF = sum_n w_n g_n g_n^T

    with g_n the gradient of -log p(y_n | x_n). It looks like natural gradient descent, costs the same, and
    distorts both the direction and the length of the step (Kunstner, Balles, Hennig 2019, section 4).

    Args:
        learning_rate, curvature, damping, momentum, likelihood, seed, and all others: as in
            `NaturalGradient`.

    Example:

    >>> optimizer = kfisher.optimizers.EmpiricalNaturalGradient(0.1, damping=1e-2)
    """

    def __init__(
        self,
        learning_rate=0.3,
        curvature="kfac",
        damping="auto",
        momentum=0.0,
        likelihood=None,
        seed=None,
        name="empirical_natural_gradient",
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate,
            fisher=Empirical(),
            curvature=curvature,
            damping=damping,
            momentum=momentum,
            likelihood=likelihood,
            seed=seed,
            name=name,
            **kwargs,
        )

    def get_config(self):
        config = super().get_config()
        del config["fisher"]
        return config
