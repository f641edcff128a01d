"""A loss that rises by many steps, each too small to be judged."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import network

from kfisher.damping import Cautious
from kfisher.optimizers import NaturalGradient
from kfisher.optimizers._adaptive_damping import AdaptiveDamping
from kfisher.optimizers._judgement import Judgement

RNG = np.random.default_rng(11)
X = RNG.normal(size=(128, 3))
LABELS = (X @ RNG.normal(size=(3, 3)) + 0.5 * RNG.normal(size=(128, 3))).argmax(1)


def test_steps_become_shorter_as_the_average_loss_rises_above_its_best():
    optimizer = NaturalGradient(seed=0)
    model = network(optimizer)
    for _ in range(25):
        model.train_on_batch(X, LABELS)
    memory = optimizer.guard.memory
    best, size = memory.read().best, float(memory.read().best_size)
    memory.change(level=best)
    at_best = float(optimizer.radius)
    assert at_best == pytest.approx(0.003 * size)
    for times in (2, 3, 1000):
        memory.change(level=times * best)
        # In length, which is the root of it.
        assert float(optimizer.radius) == pytest.approx(at_best / times**2)


def test_the_best_average_is_forgotten_in_time():
    optimizer = NaturalGradient(seed=0)
    model = network(optimizer)
    for _ in range(25):
        model.train_on_batch(X, LABELS)
    memory = optimizer.guard.memory
    past = memory.read()
    memory.change(best=1e-6 * past.best, best_size=1e-6 * past.best_size)
    lucky, level = float(optimizer.radius), float(past.level)
    for _ in range(10):
        model.train_on_batch(X, LABELS)
    assert 0.008 * level < float(memory.read().best) < 0.01 * level
    assert float(optimizer.radius) > 100 * lucky


def test_single_examples_train():
    """Their gradients are mostly noise, and steps of the length for batches carry the loss away."""
    hidden = keras.layers.Dense(24, "relu", kernel_initializer=keras.initializers.GlorotUniform(seed=0))
    model = network(NaturalGradient(seed=1), hidden)
    start = model.evaluate(X, LABELS, verbose=0)
    model.fit(X, LABELS, batch_size=1, epochs=4, verbose=0)
    assert model.evaluate(X, LABELS, verbose=0) < 0.6 * start


def test_a_damping_at_its_largest_comes_down_again():
    """However many steps were taken back before, and in the units of the loss."""
    no, one = tf.constant(False), tf.constant(1.0, tf.float64)
    judgement = Judgement(no, no, no, one, one, no, no, no, past=None)
    policy, curvature = Cautious(), type("Known", (), {"averages_batches": True, "weight": 1e6})
    adaptive = AdaptiveDamping(policy, False, NaturalGradient().add_variable)
    for _ in range(60):
        adaptive.after_rejection(curvature)
    assert float(adaptive.variable) == pytest.approx(policy.maximum * curvature.weight)
    for _ in range(400):
        adaptive.after_step(
            judgement, [], list, curvature, examples=16, surprise=tf.constant(0.0, tf.float64)
        )
    assert float(adaptive.variable) == pytest.approx(policy.initial * curvature.weight, rel=1e-3)
