"""The optimizers by name; each is made from its setting, a curvature and a seed."""

from __future__ import annotations

from collections.abc import Callable

import keras

from comparison.problems import Setting
from kfisher.optimizers import EmpiricalNaturalGradient, NaturalGradient


def _plain(optimizer: type[keras.optimizers.Optimizer]) -> Callable[..., keras.optimizers.Optimizer]:
    return lambda setting, curvature, seed: optimizer(setting.learning_rate)


def _natural(optimizer: type[NaturalGradient], **labels) -> Callable[..., keras.optimizers.Optimizer]:
    def make(setting: Setting, curvature: str, seed: int) -> keras.optimizers.Optimizer:
        return optimizer(
            setting.learning_rate, damping=setting.damping, curvature=curvature, seed=seed, **labels
        )

    return make


OPTIMIZERS = {
    "sgd": _plain(keras.optimizers.SGD),
    "adam": _plain(keras.optimizers.Adam),
    "natural_gradient": _natural(NaturalGradient, fisher="exact"),
    "natural_gradient_sampled": _natural(NaturalGradient, fisher="sampled"),
    "empirical_fisher": _natural(EmpiricalNaturalGradient),
}
