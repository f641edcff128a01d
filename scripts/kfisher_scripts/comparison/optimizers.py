"""The optimizers by name; each is made from its setting, the curvature of the problem, and a seed."""

from __future__ import annotations

from collections.abc import Callable

import keras

from kfisher.optimizers import EmpiricalNaturalGradient, ImprovedEmpiricalFisher, NaturalGradient, SophiaG
from kfisher_scripts.comparison.problem import Setting

Make = Callable[[Setting, str, int], keras.optimizers.Optimizer]


def _plain(optimizer: type[keras.optimizers.Optimizer]) -> Make:
    return lambda setting, curvature, seed: optimizer(setting.learning_rate)


def _natural(optimizer: type[NaturalGradient], own_curvature: str | None = None, **labels) -> Make:
    def make(setting: Setting, curvature: str, seed: int) -> keras.optimizers.Optimizer:
        return optimizer(
            setting.learning_rate,
            damping=setting.damping,
            momentum=setting.momentum,
            trust_region=setting.trust_region,
            curvature=own_curvature or curvature,
            seed=seed,
            **labels,
        )

    return make


OPTIMIZERS: dict[str, Make] = {
    "sgd": _plain(keras.optimizers.SGD),
    "adam": _plain(keras.optimizers.Adam),
    "natural_gradient": _natural(NaturalGradient, fisher="exact"),
    "natural_gradient_sampled": _natural(NaturalGradient, fisher="sampled"),
    "empirical_fisher": _natural(EmpiricalNaturalGradient),
    "improved_empirical_fisher": _natural(ImprovedEmpiricalFisher),
    "kfac": _natural(NaturalGradient, "kfac", fisher="sampled"),
    "kfac_empirical": _natural(EmpiricalNaturalGradient, "kfac"),
    "ekfac": _natural(NaturalGradient, "ekfac", fisher="sampled"),
    "sophia_g": lambda setting, curvature, seed: SophiaG(setting.learning_rate, seed=seed),
}
