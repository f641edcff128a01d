"""The small models that most tests train, and their weights as one vector."""

import keras
import numpy as np

import kfisher

# For what has nothing to do with graphs: up to twenty steps are faster than to trace one.
EAGER = {"run_eagerly": True}


def crossentropy():
    """Made where it is used, as a loss keeps the float type of the moment at which it was made."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(optimizer, *hidden, loss=None, outputs=3, start=None, **options):
    """Three inputs, four tanh units unless other layers are given, and a linear output; compiled.

    Args:
        start: Its weights. Left out, they are drawn from the same seed at every call.
    """
    keras.utils.set_random_seed(0)
    hidden = hidden or [keras.layers.Dense(4, "tanh")]
    model = kfisher.Sequential([keras.Input((3,)), *hidden, keras.layers.Dense(outputs)])
    if start is not None:
        model.set_weights(start)
    model.compile(optimizer, loss or crossentropy(), **options)
    return model


def eager(stack, loss=None, shape=(3,), optimizer=None, **options):
    """A model of layers with weights that are neither 0 nor 1, the same at every call.

    Its steps are eager unless `options` say otherwise.
    """
    random = np.random.default_rng(3)
    model = kfisher.Sequential([keras.Input(shape), *stack])
    for v in model.trainable_variables:
        v.assign(random.normal(size=v.shape) / np.sqrt(v.shape[0]))
    model.compile(optimizer, loss or crossentropy(), **{**EAGER, **options})
    return model


def flat(tensors):
    """All entries in one vector of float64."""
    return np.concatenate([np.asarray(t, "float64").ravel() for t in tensors])


def weights(model):
    return flat(model.get_weights())
