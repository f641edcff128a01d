"""What is known of a model and its optimizer before the first step."""

from __future__ import annotations

import keras

from kfisher.optimizers import EmpiricalNaturalGradient, NaturalGradient


def knows_kl(optimizer: keras.optimizers.Optimizer) -> bool:
    """True if the update is the learning rate times the natural-gradient direction, and nothing else."""
    changed = ["momentum", "trust_region", "clipnorm", "clipvalue", "global_clipnorm", "weight_decay"]
    plain = type(optimizer) in (NaturalGradient, EmpiricalNaturalGradient)
    return plain and not any(getattr(optimizer, name) for name in [*changed, "use_ema"])


def layers_of(model: keras.Model) -> dict[str, set[int]]:
    """Paths of layers, with the identities of the trainable variables that each owns."""
    found: dict[str, set[int]] = {}
    for variable in model.trainable_variables:
        found.setdefault(variable.path.rpartition("/")[0] or variable.path, set()).add(id(variable))
    return found
