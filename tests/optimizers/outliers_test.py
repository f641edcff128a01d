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
