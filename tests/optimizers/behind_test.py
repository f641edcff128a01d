"""An example that was ordinary at the start, and is far behind the others: it is learnt, and no outlier."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import EAGER, flat, network

import kfisher
from kfisher import curvature, fisher
from kfisher.optimizers import NaturalGradient
from kfisher.optimizers._past import Past
from kfisher.optimizers._region import TrustRegion

RNG = np.random.default_rng(0)
X = np.pad(RNG.normal(size=(16, 3)), [(0, 0), (0, 1)])
Y = X[:, :3] @ RNG.normal(size=(3, 1))
RARE = X.copy()
RARE[0, 3] = 1.0  # of which batches of X say nothing


@pytest.fixture
def model():
    return fitted(NaturalGradient(seed=0))


def fitted(optimizer):
    """A linear model, fitted to X, whose weight of the last input has gone astray."""
    model = kfisher.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", **EAGER)
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
    before, weights = [v.numpy() for v in kept], model.get_weights()
    optimizer.guard.memory.change(can_return=0)
    past = optimizer.guard.memory.read()
    size = float(past.size)
    model.train_on_batch(RARE, Y)  # and can be taken back
    assert all(np.array_equal(v, b) for v, b in zip(kept, before))
    now = optimizer.guard.memory.read()
    assert float(now.rare) == pytest.approx(size)  # far more, and s is doubled at most
    past = past._replace(rare=now.rare, outliers=1, can_return=1)
    assert list(map(float, now)) == list(map(float, past))
    assert not np.array_equal(model.get_weights()[0], weights[0])


@pytest.mark.parametrize("momentum", ["auto", 0.0])
def test_squares_of_its_gradient_do_not_overflow(momentum):
    """And the step is taken: too short to be seen beside such a weight, but none that is left out."""
    model = fitted(NaturalGradient(momentum=momentum, seed=0))
    kernel = model.layers[0].kernel
    kernel.assign(np.where(np.arange(4)[:, None] == 3, 1e18, kernel.numpy()))
    model.train_on_batch(X, Y)
    model.optimizer.curvature.moved(0.0)
    model.train_on_batch(RARE, Y)
    assert int(model.optimizer.skipped_steps) == 0
    assert float(model.optimizer.guard.memory.read().outliers) == 1
    assert np.isfinite(kernel.numpy()).all()


def test_spring_takes_no_notice_either():
    optimizer = NaturalGradient(curvature=curvature.Gram(0.9), seed=0)
    model = fitted(optimizer)
    optimizer.guard.memory.change(can_return=0)
    before = [v.numpy() for v in optimizer.curvature.remembered]
    model.train_on_batch(RARE, Y)
    assert float(optimizer.guard.memory.read().outliers) == 1
    assert all(np.array_equal(v, b) for v, b in zip(optimizer.curvature.remembered, before))
    model.train_on_batch(X, Y)
    assert not any(np.array_equal(v, b) for v, b in zip(optimizer.curvature.remembered, before))


def test_the_start_is_that_of_the_problem_that_is_trained_now():
    """Weights that knew nothing of either say nothing of what is ordinary in the second."""
    optimizer = NaturalGradient(seed=0)
    model = network(optimizer, loss="mse", outputs=1)
    x = X[:, :3]
    for _ in range(20):
        model.train_on_batch(x, Y)
    before = flat(model.get_weights())
    assert not np.array_equal(optimizer.guard._at_start[0], before)
    for _ in range(11):
        model.train_on_batch(x, Y + 1e4)
    assert int(optimizer.skipped_steps) == 10
    assert np.array_equal(optimizer.guard._at_start[0], before)
    assert float(optimizer.guard.memory.read().judged) == 1


def test_a_bad_label_is_still_left_out(model):
    kernel, start = model.layers[0].kernel, model.optimizer.guard._at_start[0].numpy()
    kernel.assign(start[: math.prod(kernel.shape)].reshape(kernel.shape))
    model.optimizer.guard.memory.change(can_return=0)
    before = model.get_weights()
    model.train_on_batch(X, np.where(np.arange(16)[:, None] == 2, 1e4, Y))
    assert int(model.optimizer.skipped_steps) == 1
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before))


def test_it_counts_by_its_share_of_the_loss():
    """As the mean over all steps, once it is no more than s; and is forgotten over a thousand."""
    region = TrustRegion("auto", fisher.get("sampled"), curvature.get("kfac"))
    numbers = {"judged": 200, "level": 0.1, "best": 0.1, "best_size": 0.1, "confidence": 1}
    past = Past(*(np.float64(numbers.get(name, 0)) for name in Past._fields))
    past = region.with_rare(past, np.float64(6.1))
    assert float(past.rare) == pytest.approx(6 / 201)
    assert float(past.size) == float(past.size_at_best) == pytest.approx(0.1 + 6 / 201)
    assert float(region.radius(past)) == pytest.approx(0.003 * float(past.size))
    for _ in range(1000):
        past = region.taken_in(past, tf.constant(0.1, tf.float64), tf.constant(False))
    assert float(past.rare) == pytest.approx(6 / 201 * 200 / 1000 * 0.999**200)


def classifier(inputs, units):
    hidden = [keras.layers.Dense(units, "relu"), keras.layers.Dense(units, "relu")]
    model = kfisher.Sequential([keras.Input((inputs,)), *hidden, keras.layers.Dense(1, "sigmoid")])
    model.compile(NaturalGradient(seed=0), "binary_crossentropy")
    return model


def test_what_few_batches_know_of_is_learnt_where_the_others_have_no_loss():
    """All but forty examples weigh nothing. Of the last one the loss grew for ever: its step was no longer
    than the loss of the others allowed, which was nothing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 10)).astype("float32")
    y, weights = x[:, :1] + x[:, 1:2] ** 2 > 2.5, rng.random(2000) < 0.02
    model = classifier(10, 32)
    model.fit(x, y, sample_weight=weights, epochs=20, verbose=0)
    assert model.evaluate(x[weights], y[weights], verbose=0) < 0.05
    assert int(model.optimizer.skipped_steps) == 0


def test_all_labels_changed_are_a_new_problem():
    """Each of them was ordinary at the start, too, so that none was an outlier: and F never saw them."""
    sides = np.sign(RNG.normal(size=(1024, 1)))
    points = np.concatenate([sides * RNG.uniform(0.5, 2, size=(1024, 1)), RNG.normal(size=(1024, 1))], 1)
    model, labels = classifier(2, 16), (sides > 0).astype("float32")
    model.fit(points, labels, batch_size=16, epochs=6, verbose=0)
    assert model.evaluate(points, labels, verbose=0) < 1e-3
    model.fit(points, 1 - labels, batch_size=16, epochs=6, verbose=0)
    assert model.evaluate(points, 1 - labels, verbose=0) < 1e-2


def test_where_its_share_is_far_above_the_start_that_is_said(model):
    guard = model.optimizer.guard
    assert model.optimizer.trouble() is None
    guard.memory.change(rare=20 * float(guard.memory.read().start))
    assert "diverges" in model.optimizer.trouble()


def test_in_a_row_are_those_that_were_left_out_or_stepped_for(model):
    optimizer = model.optimizer
    optimizer.guard.memory.change(can_return=0)
    model.train_on_batch(RARE, Y)
    assert float(optimizer.guard.memory.read().outliers) == 1
    optimizer.guard.memory.change(can_return=0)
    model.train_on_batch(RARE, Y)
    assert float(optimizer.guard.memory.read().outliers) == 2
    optimizer.guard.take_back()
    assert float(optimizer.guard.memory.read().outliers) == 1
