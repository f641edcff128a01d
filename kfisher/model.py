"""How the optimizer gets at the batch: models that hand it over, and `attach` for those that cannot."""

from __future__ import annotations

from typing import Any

import keras

register = keras.saving.register_keras_serializable("kfisher")


def hand_over(model: keras.Model, data: Any) -> None:
    """Shows the batch of a training step to the optimizer of `model`, if that wants to see it."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if hasattr(optimizer, "observe"):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        optimizer.observe(model, x, y, sample_weight)


class FisherMixin:
    """Hands each training batch to the optimizer, then trains as the model does.

    To be put before a `keras.Model` in the bases of a class. With an optimizer that needs no batch (Adam,
    say) nothing changes.

    Example:

    >>> class Network(kfisher.FisherMixin, keras.Model): ...
    """

    def train_step(self, data):
        hand_over(self, data)
        return super().train_step(data)


@register
class Model(FisherMixin, keras.Model):
    """`keras.Model` for kfisher optimizers; functional, or to be subclassed.

    `kfisher.Model(model.inputs, model.outputs)` upgrades a functional model and shares its weights.

    Example:

    >>> inputs = keras.Input((4,))
    >>> model = kfisher.Model(inputs, keras.layers.Dense(1)(inputs))
    """

    def __new__(cls, *args, **kwargs):
        if cls is Model and (args or "inputs" in kwargs):
            return Functional(*args, **kwargs)
        return super().__new__(cls)


@register
class Functional(FisherMixin, keras.Model):
    """What `kfisher.Model(inputs, outputs)` returns.

    Keras makes a class with functional arguments functional for good, so that `Model` itself would no
    longer be open to subclasses with a `call`.
    """


@register
class Sequential(FisherMixin, keras.Sequential):
    """`keras.Sequential` for kfisher optimizers.

    Example:

    >>> model = kfisher.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    """


def attach(model: keras.Model) -> keras.Model:
    """Makes an existing model hand its batches to its optimizer, without changing its class.

    This is kept in the instance, not in its file: a model that is saved and loaded must be attached
    again. `kfisher.Model` and `kfisher.Sequential` survive both. Attaching twice is the same as once.

    Args:
        model: Any `keras.Model`.

    Returns:
        The same model.

    Example:

    >>> model = kfisher.attach(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
    """
    if not isinstance(model, FisherMixin) and "train_step" not in vars(model):
        train_step = model.train_step

        def attached(data):
            hand_over(model, data)
            return train_step(data)

        vars(model)["train_step"] = attached
        model.train_function = None  # a training function that is already traced would not call it
    return model


def detach(model: keras.Model) -> keras.Model:
    """Undoes `attach`."""
    if vars(model).pop("train_step", None) is not None:
        model.train_function = None
    return model
