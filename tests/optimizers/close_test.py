"""Updates that stay close: within half of the length of the weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kfisher
from kfisher.optimizers._step_size import close

RNG = np.random.default_rng(190512558)


@pytest.mark.parametrize(
    "length, weights, share",
    [
        (3.0, [3.0, 4.0], 2.5 / 3),
        (2.0, [3.0, 4.0], 1.0),
        (4.0, [0.0, 0.0], 0.5 / 4),
        (0.0, [0.0, 0.0], 1.0),
        (1e300, [3.0, 4.0], 2.5e-300),
    ],
)
def test_the_longest_is_half_of_the_weights_and_of_1_where_these_are_shorter(length, weights, share):
    both = [keras.Variable([[w]]) for w in weights]
    found = close(tf.constant(length, tf.float64), both)
    assert float(found) == pytest.approx(share, rel=1e-12)


def network(scale, optimizer, layers=(32, 32)):
    x = RNG.normal(size=(256, 8)).astype("float32")
    y = scale * np.exp(0.3 * x @ RNG.normal(size=(8, 1))).astype("float32")
    stack = [keras.layers.Dense(n, "relu") for n in layers]
    model = kfisher.Sequential([keras.Input((8,)), *stack, keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model, x, y


@pytest.mark.slow
@pytest.mark.parametrize("curvature", ["kfac", "gram"])
def test_with_raw_targets_no_step_goes_far_too_far(curvature):
    """It rose by ten orders of magnitude and more, to be taken back by the next step if there was one."""
    optimizer = kfisher.optimizers.NaturalGradient(curvature=curvature, seed=0)
    model, x, y = network(2.5e5, optimizer)
    start, losses = model.evaluate(x, y, verbose=0), []
    for _ in range(25):
        model.fit(x, y, batch_size=256, verbose=0)
        losses.append(model.evaluate(x, y, verbose=0))
    assert max(losses) < 10 * start
    assert curvature == "gram" or losses[-1] < 0.5 * start


def test_squares_that_overflow_stop_no_step():
    """Of a step of 1e25 in single precision the sum of squares is infinite."""
    optimizer = kfisher.optimizers.NaturalGradient(seed=0)
    model, x, y = network(1e25, optimizer, layers=())
    model.set_weights([np.full((8, 1), 1e3, "float32"), np.zeros(1, "float32")])
    before = model.get_weights()[0]
    model.optimizer.learning_rate = 1e6
    model.fit(x, 1e12 * y / 1e25, batch_size=256, verbose=0)
    assert np.abs(model.get_weights()[0] - before).max() > 1
