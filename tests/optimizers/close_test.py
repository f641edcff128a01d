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


def length_of(arrays):
    return np.sqrt(sum(np.square(a, dtype="float64").sum() for a in arrays))


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
    losses = model.fit(x, y, batch_size=256, epochs=26, verbose=0).history["loss"]  # before each step
    assert max(losses) < 10 * losses[0]
    assert curvature == "gram" or losses[-1] < 0.5 * losses[0]


def test_a_single_layer_is_no_product():
    assert float(close(tf.constant(1e3, tf.float64), [keras.Variable([[1.0]]), keras.Variable([1.0])])) == 1


def test_squares_that_overflow_stop_no_step():
    """Of steps of 1e20 in single precision the sum of squares is infinite."""
    optimizer = kfisher.optimizers.NaturalGradient(1.0, momentum=0.0, damping=1e-7, seed=0)
    model, x, y = network(1e17, optimizer)
    before, size = model.get_weights(), length_of(model.get_weights())
    model.train_on_batch(x, y)
    moved = length_of([a - b for a, b in zip(model.get_weights(), before)])
    assert 0.01 < moved < 0.501 * size


def test_of_a_quadratic_model_its_own_update_is_bounded():
    """It has a rate of its own, and is no multiple of the learning rate."""
    optimizer = kfisher.optimizers.NaturalGradient(step="quadratic_model", trust_region=1e15, seed=0)
    model, x, y = network(1e6, optimizer)
    for _ in range(3):
        before, size = model.get_weights(), length_of(model.get_weights())
        model.train_on_batch(x, y)
        moved = length_of([a - b for a, b in zip(model.get_weights(), before)])
        assert 0.4 * size < moved < 0.501 * size
