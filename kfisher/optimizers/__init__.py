"""Keras optimizers."""

from kfisher.optimizers.empirical_natural_gradient import EmpiricalNaturalGradient
from kfisher.optimizers.improved_empirical_fisher import ImprovedEmpiricalFisher
from kfisher.optimizers.natural_gradient import NaturalGradient
from kfisher.optimizers.sophia_g import SophiaG

__all__ = ["EmpiricalNaturalGradient", "ImprovedEmpiricalFisher", "NaturalGradient", "SophiaG"]
