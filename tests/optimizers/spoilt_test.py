"""An example that steps without it have spoilt: it is mended, where one with a bad label is left out."""

import math

import keras
import numpy as np
import pytest
from helpers.models import EAGER

import kfisher
from kfisher.optimizers import NaturalGradient

RNG = np.random.default_rng(0)
X = np.pad(RNG.normal(size=(16, 3)), [(0, 0), (0, 1)])
Y = X[:, :3] @ RNG.normal(size=(3, 1))
RARE = X.copy()
RARE[0, 3] = 1.0  # of which batches of X say nothing


@pytest.fixture
def model():
    """A linear one, fitted to X, whose weight of the last input has gone astray."""
    model = kfisher.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(NaturalGradient(seed=0), "mse", **EAGER)
    for _ in range(40):
        model.train_on_batch(X, Y)
    kernel = model.layers[0].kernel
    kernel.assign(np.where(np.arange(4)[:, None] == 3, 100.0, kernel.numpy()))
    model.train_on_batch(X, Y)  # so that the last step is not to blame
    assert model.evaluate(RARE, Y, verbose=0) > 200 * float(model.optimizer.guard.memory.read().size)
    return model


def test_it_is_mended(model):
    losses = [model.evaluate(RARE, Y, verbose=0)]
    for _ in range(40):
        for x in (X, RARE):
            model.train_on_batch(x, Y)
    losses.append(model.evaluate(RARE, Y, verbose=0))
    assert losses[1] < 0.1 * losses[0]
    assert int(model.optimizer.skipped_steps) == 0


def test_momentum_averages_and_the_running_loss_take_no_notice(model):
    optimizer = model.optimizer
    kept = [*optimizer._average.variables, *(v for pair in optimizer.curvature.averages for v in pair)]
    kept.append(optimizer.guard.memory.variable)
    before, weights = [v.numpy() for v in kept], model.get_weights()
    optimizer.guard.memory.change(can_return=0)
    model.train_on_batch(RARE, Y)  # and can be taken back
    assert all(np.array_equal(v, b) for v, b in zip(kept, before))
    assert not np.array_equal(model.get_weights()[0], weights[0])


def test_squares_of_its_gradient_do_not_overflow(model):
    kernel = model.layers[0].kernel
    kernel.assign(np.where(np.arange(4)[:, None] == 3, 1e18, kernel.numpy()))
    model.train_on_batch(X, Y)
    before = kernel.numpy()
    model.optimizer.curvature.moved(0.0)
    model.train_on_batch(RARE, Y)
    assert int(model.optimizer.skipped_steps) == 0
    assert np.isfinite(kernel.numpy()).all() and not np.array_equal(kernel.numpy(), before)


def test_a_bad_label_is_still_left_out(model):
    kernel, start = model.layers[0].kernel, model.optimizer.guard._at_start[0].numpy()
    kernel.assign(start[: math.prod(kernel.shape)].reshape(kernel.shape))
    model.optimizer.guard.memory.change(can_return=0)
    before = model.get_weights()
    model.train_on_batch(X, np.where(np.arange(16)[:, None] == 2, 1e4, Y))
    assert int(model.optimizer.skipped_steps) == 1
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before))
