"""Batches out of all proportion: bad labels now and then, or another problem."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import EAGER, network

import kfisher
from kfisher.curvature import KFAC
from kfisher.optimizers import NaturalGradient

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 3))
TARGETS = X @ RNG.normal(size=(3, 2))


def test_bad_batches_that_come_in_a_row_by_accident_are_no_new_problem():
    """One batch in three is bad, as where one label in twenty is: there are rows of them, at any time."""
    optimizer = NaturalGradient(seed=0)
    model = network(optimizer, loss="mse", outputs=2)
    for _ in range(4):
        model.train_on_batch(X, TARGETS)
    for row in (6, 1, 2, 9):
        for _ in range(row):
            model.train_on_batch(X, TARGETS + 1e4)
        model.train_on_batch(X, TARGETS)
    assert int(optimizer.skipped_steps) == 18 and model.evaluate(X, TARGETS, verbose=0) < 10
    # One twice as long is no accident.
    for _ in range(19):
        model.train_on_batch(X, TARGETS + 1e4)
    assert int(optimizer.skipped_steps) == 18 + 18


def test_ten_bad_batches_before_an_ordinary_one_are_an_accident():
    """Nothing has begun anew: what the loss is compared with stays, and the next ten are left out, too."""
    optimizer = NaturalGradient(seed=0)
    model = network(optimizer, loss="mse", outputs=2)
    for _ in range(30):
        model.train_on_batch(X, TARGETS)
    start = float(optimizer.guard.memory.read().start)
    for times in (1, 2):
        for _ in range(10):
            model.train_on_batch(X, TARGETS + 1e4)
        model.train_on_batch(X, TARGETS)
        past = optimizer.guard.memory.read()
        assert int(optimizer.skipped_steps) == 10 * times
        assert float(past.start) == start and float(past.judged) == 30 + times and float(past.accident) == 10
    for _ in range(21):  # twice as many and one
        model.train_on_batch(X, TARGETS + 1e4)
    past = optimizer.guard.memory.read()
    assert float(past.judged) == 1 and float(past.start) > 1e6


@pytest.mark.parametrize("bad", [0, 1])
def test_an_outlier_in_any_part_of_a_step_has_it_left_out(bad):
    """The loss is that of both parts, and F, too, takes in none of the step."""
    curvature = KFAC(update_every=1)
    optimizer = NaturalGradient(curvature=curvature, gradient_accumulation_steps=2, seed=0)
    model = network(optimizer, loss="mse", outputs=2, **EAGER)
    for _ in range(60):
        model.train_on_batch(X, TARGETS)
    kept = [*model.trainable_variables, *(v for pair in curvature.averages for v in pair)]
    before = [v.numpy() for v in kept]
    for part in range(2):
        model.train_on_batch(X * (1e4 if part == bad else 1), TARGETS + (1e4 if part == bad else 0))
    assert int(optimizer.skipped_steps) == 1
    assert all(np.array_equal(v, b) for v, b in zip(kept, before))


def test_other_data_whose_losses_are_no_outliers_are_a_new_problem():
    """Steps went by the best loss of the old one, and were the shorter the more the new one was above it: of
    1.4, after 0.02, was left 1.3 after fifty steps."""
    keras.utils.set_random_seed(1)
    x = RNG.normal(size=(320, 6))
    y = np.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    hidden = [keras.layers.Dense(16, "tanh") for _ in range(2)]
    model = kfisher.Sequential([keras.Input((6,)), *hidden, keras.layers.Dense(1)])
    model.compile(NaturalGradient(seed=0), "mse")
    model.fit(x, y, batch_size=32, epochs=15, verbose=0)
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, 0 * y, batch_size=32, epochs=5, verbose=0)
    assert before < 0.1 and model.evaluate(x, 0 * y, verbose=0) < 0.1
    assert int(model.optimizer.skipped_steps) == int(model.optimizer.rejected_steps) == 0
    assert float(model.optimizer.guard.memory.read().judged) < 50  # since then


@pytest.mark.parametrize("blamed", [True, False])
def test_a_loss_that_the_steps_have_raised_is_none(blamed):
    """Seven batches far above the average, of which each step has made a part, or none."""
    optimizer = NaturalGradient(seed=0)
    model = network(optimizer, loss="mse", outputs=2, **EAGER)
    for _ in range(4):
        model.train_on_batch(X, TARGETS)
    guard, judged = optimizer.guard, []
    level = float(guard.memory.read().level)
    for _ in range(8):
        guard.memory.change(level=level, spread=0.0, best_size=level, best=level)
        loss = tf.constant(3 * level, tf.float64)
        guard._loss_with = lambda weights, batch, asked: loss - (0.05 if blamed else 0.01) * 2 * level
        judgement = guard.judge(None, loss, loss, False)
        judged.append(bool(judgement.anew))
        assert not judgement.rejected and not judgement.outlier
        guard.accept(judgement)
    assert judged == [not blamed and n == 6 for n in range(8)]
