"""The likelihood to use for a model, where it is not that of the compiled loss."""

from __future__ import annotations

from typing import Any

import keras

from kfisher._common.checks import deserialized, instance
from kfisher._keras.optimizers import inner
from kfisher.likelihoods._base import Likelihood


def get(identifier: Any) -> Likelihood | None:
    """A likelihood from its config, or itself; `None` for that of the compiled loss."""
    if identifier is None:
        return None
    kind = "an instance of a class of kfisher.likelihoods, or None"
    return instance("likelihood", deserialized("likelihood", identifier), Likelihood, kind)


def of_model(model: keras.Model, identifier: Any = None) -> Likelihood | None:
    """The likelihood that is asked for, or else that of the model's optimizer, if it was given one."""
    asked = get(identifier)
    return getattr(inner(getattr(model, "optimizer", None)), "likelihood", None) if asked is None else asked
