"""Keras optimizers; `compile` knows them by name, too: `"natural_gradient"`, `"sophia_g"`, ..."""

import keras

from kfisher.optimizers.empirical_natural_gradient import EmpiricalNaturalGradient
from kfisher.optimizers.improved_empirical_fisher import ImprovedEmpiricalFisher
from kfisher.optimizers.natural_gradient import NaturalGradient
from kfisher.optimizers.sophia_g import SophiaG

__all__ = ["EmpiricalNaturalGradient", "ImprovedEmpiricalFisher", "NaturalGradient", "SophiaG"]

# Where Keras looks for names that it does not know itself.
keras.saving.get_custom_objects().update(
    natural_gradient=NaturalGradient,
    empirical_natural_gradient=EmpiricalNaturalGradient,
    improved_empirical_fisher=ImprovedEmpiricalFisher,
    sophia_g=SophiaG,
)
