"""What is known of a model and its optimizer."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from kfisher.logs import schema
from kfisher.optimizers import EmpiricalNaturalGradient, NaturalGradient

# Attributes of the optimizer that are logged under their own names ...
HYPER_PARAMETERS = (
    schema.LEARNING_RATE,
    schema.DAMPING,
    schema.RADIUS,
    schema.SKIPPED_STEPS,
    schema.REJECTED_STEPS,
)
# ... and those that it sets when it takes the step.
IN_USE = (schema.RATE_IN_USE, schema.MOMENTUM_IN_USE)


def known(optimizer: keras.optimizers.Optimizer, names: Sequence[str]) -> list[str]:
    """Those that it has, or will have when it has seen a batch of a model that is not built yet."""
    later: tuple[str, ...] = ()
    if isinstance(optimizer, NaturalGradient):
        later = IN_USE if optimizer.trust_region is None else (*IN_USE, schema.RADIUS)
    return [name for name in names if name in later or getattr(optimizer, name, None) is not None]


def values_of(optimizer: keras.optimizers.Optimizer, names: Sequence[str]) -> list[tf.Tensor]:
    """Attributes of the optimizer as they are now, float64 scalars."""
    values = [getattr(optimizer, name) for name in names]
    values = [v.value if isinstance(v, keras.Variable) else v for v in values]
    # Read now: a variable that is cast to its own dtype is handed on as it is.
    return [tf.cast(tf.convert_to_tensor(v), tf.float64) for v in values]


def knows_kl(optimizer: keras.optimizers.Optimizer) -> bool:
    """True if the update is the learning rate times the natural-gradient direction, and nothing else."""
    changed = ["momentum", "trust_region", "clipnorm", "clipvalue", "global_clipnorm", "weight_decay"]
    plain = type(optimizer) in (NaturalGradient, EmpiricalNaturalGradient)
    exact = plain and not optimizer.curvature.remembers  # then gᵀ x is xᵀ (F + λ I) x
    return exact and not any(getattr(optimizer, name) for name in [*changed, "use_ema"])


def layers_of(model: keras.Model) -> dict[str, set[int]]:
    """Paths of layers, with the identities of the trainable variables that each owns."""
    found: dict[str, set[int]] = {}
    for variable in model.trainable_variables:
        found.setdefault(variable.path.rpartition("/")[0] or variable.path, set()).add(id(variable))
    return found
