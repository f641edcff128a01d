"""Regularisers: what they add to F, and the parts of a loss that nothing here knows."""

from __future__ import annotations

import keras


def ridge_of(variable: keras.Variable) -> float:
    """The Hessian of l2 * sum(θ²) is 2 l2 on the diagonal."""
    regularizer = variable.regularizer
    known = isinstance(regularizer, (keras.regularizers.L2, keras.regularizers.L1L2))
    return 2 * float(regularizer.l2) if known else 0.0


def has_other_losses(model: keras.Model) -> bool:
    """True if there are `add_loss` terms, activity regularisers, or regularisers that are not plain L2."""
    regularizers = [v.regularizer for v in model.trainable_variables if v.regularizer is not None]
    plain = [
        isinstance(r, keras.regularizers.L2) or (isinstance(r, keras.regularizers.L1L2) and r.l1 == 0)
        for r in regularizers
    ]
    return len(model.losses) > len(regularizers) or not all(plain)
