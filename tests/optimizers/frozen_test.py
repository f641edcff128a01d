"""Models of which a part is frozen: what a training step copies and puts back, and thawing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import EAGER
from keras import layers

import kfisher
from kfisher._keras.state import statistics_of

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = X[:, :1] > 0


class Counting(layers.Layer):
    """Counts calls in training, frozen or not."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale", initializer="ones")
        self.calls = self.add_weight(shape=(), name="calls", trainable=False, initializer="zeros")

    def call(self, x, training=None):
        if training:
            self.calls.assign_add(1.0)
        return x * self.scale


def model_on_frozen_base():
    keras.utils.set_random_seed(0)
    base = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, "tanh"), layers.BatchNormalization(), Counting(), layers.Dense(3)]
    )
    base.trainable = False
    model = kfisher.Sequential(
        [keras.Input((4,)), base, layers.BatchNormalization(), layers.Dense(1, "sigmoid")]
    )
    return model, base


def test_only_what_the_forward_pass_moves_is_copied_in_a_step():
    model, base = model_on_frozen_base()
    base.layers[2].calls.trainable = False
    names = [v.path.split("/")[-1] for v in statistics_of(model)]
    assert sorted(names) == sorted(
        ["moving_mean", "moving_variance", "calls"] + ["moving_mean", "moving_variance"]
    )
    model.compile(kfisher.optimizers.NaturalGradient(seed=0), "binary_crossentropy", **EAGER)
    before = [w.copy() for w in base.layers[0].get_weights()]
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, base.layers[0].get_weights()))
    assert float(base.layers[2].calls) == 4


def test_statistics_of_a_bad_batch_are_put_back_also_beside_frozen_weights():
    model, base = model_on_frozen_base()
    model.compile(kfisher.optimizers.NaturalGradient(seed=0), "binary_crossentropy")
    model.fit(X, Y, batch_size=8, verbose=0)
    before = model.get_weights()
    with pytest.warns(UserWarning, match="skipped 1 of"):
        model.fit(np.full_like(X, np.nan)[:8], Y[:8], batch_size=8, verbose=0)
    after = model.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(before, after) if np.size(a) > 1)


def test_a_part_that_is_thawed_asks_for_a_new_optimizer_and_then_trains():
    model, base = model_on_frozen_base()
    model.compile(kfisher.optimizers.NaturalGradient(seed=0), "binary_crossentropy", **EAGER)
    model.fit(X, Y, batch_size=8, verbose=0)
    base.trainable = True
    with pytest.raises(ValueError, match="compile the model with a new optimizer"):
        model.fit(X, Y, batch_size=8, verbose=0)
    model.compile(kfisher.optimizers.NaturalGradient(seed=0), "binary_crossentropy", **EAGER)
    before = base.layers[0].get_weights()
    losses = model.fit(X, Y, batch_size=8, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert not np.array_equal(before[0], base.layers[0].get_weights()[0])


def test_the_weights_of_a_frozen_base_are_read_by_no_comparison():
    """In the graph of a step: assignments go to statistics, never to frozen kernels."""
    model, base = model_on_frozen_base()
    model.compile(kfisher.optimizers.NaturalGradient(seed=0), "binary_crossentropy")
    model.optimizer.build(model.trainable_variables)
    step = tf.function(model.train_step).get_concrete_function((tf.constant(X), tf.constant(Y)))
    handle = base.layers[0].kernel.value.handle
    captured = next(inner for outer, inner in step.graph.captures if outer is handle)
    assert not [op for op in captured.consumers() if op.type.startswith("Assign")]
