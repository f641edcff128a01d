"""Outputs that are taken for probabilities, and are none: said once, and trained as Keras trains them."""

import warnings

import keras
import numpy as np
import pytest
from helpers.models import EAGER

import kfisher
from kfisher.optimizers import NaturalGradient

RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(16, 4)), RNG.integers(0, 3, 16)
Dense = keras.layers.Dense
# The loss, its labels, and how many outputs it takes.
LOSSES = {
    "binary": ("binary_crossentropy", LABELS % 2, 1),
    "classes": ("categorical_crossentropy", np.eye(3)[LABELS], 3),
    "sparse": ("sparse_categorical_crossentropy", LABELS, 3),
    "logits": (keras.losses.SparseCategoricalCrossentropy(from_logits=True), LABELS, 3),
}


def mixture(x):
    """Of probabilities, by a sum of products."""
    gate = Dense(1, "sigmoid")(x)
    return gate * Dense(3, "softmax")(x) + (1 - gate) * Dense(3, "softmax")(x)


def said(loss, make_outputs, **settings):
    keras.utils.set_random_seed(0)
    loss, y, count = LOSSES[loss]
    inputs = keras.Input((4,))
    model = kfisher.Model(inputs, make_outputs(inputs, count))
    model.compile(NaturalGradient(seed=0), loss, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            model.train_on_batch(3 * X, y)
    assert int(model.optimizer.iterations) == 3 and int(model.optimizer.skipped_steps) == 0
    return [str(w.message) for w in caught if "no probabilities" in str(w.message)]


@pytest.mark.parametrize("settings", [{}, EAGER], ids=["graph", "eager"])
@pytest.mark.parametrize("loss", ["binary", "classes", "sparse"])
def test_a_last_layer_without_its_activation_is_said_once(loss, settings):
    activation = "sigmoid" if loss == "binary" else "softmax"
    found = said(loss, lambda x, count: Dense(count)(x), **settings)
    assert len(found) == 1 and f"activation '{activation}', or the loss `from_logits=True`" in found[0]


@pytest.mark.parametrize(
    "make_outputs",
    [
        lambda x, count: Dense(count, use_bias=False)(x),
        lambda x, count: keras.layers.Reshape((count,))(keras.layers.Conv1D(count, 4)(x[..., None])),
        pytest.param(
            lambda x, count: Dense(count, dtype="mixed_float16")(x),
            marks=pytest.mark.slow,
            id="half precision",
        ),
    ],
)
def test_so_is_one_of_another_kind(make_outputs):
    assert len(said("sparse", make_outputs)) == 1


@pytest.mark.parametrize(
    "loss, make_outputs",
    [
        ("logits", lambda x, count: Dense(count)(x)),
        ("binary", lambda x, count: Dense(count, "sigmoid")(x)),
        ("sparse", lambda x, count: keras.layers.Softmax()(Dense(count)(x))),
        ("classes", lambda x, count: Dense(count, "softplus")(x)),  # Keras normalises them
        ("sparse", lambda x, count: mixture(x)),
        ("sparse", lambda x, count: Dense(count, "softmax", dtype="mixed_float16")(x)),
    ],
)
def test_probabilities_and_logits_that_are_said_to_be_some_are_not(loss, make_outputs):
    assert said(loss, make_outputs) == []
