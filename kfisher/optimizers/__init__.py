"""Keras optimizers."""

from kfisher.optimizers.empirical_natural_gradient import EmpiricalNaturalGradient
from kfisher.optimizers.natural_gradient import NaturalGradient

__all__ = ["EmpiricalNaturalGradient", "NaturalGradient"]
