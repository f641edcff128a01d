"""Batches out of all proportion: bad labels now and then, or another problem."""

import numpy as np
from helpers.models import network

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
