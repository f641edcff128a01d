"""The verdict on outputs with positions: examples are the sample, not their positions."""

import keras
import numpy as np
import pytest

from kfisher.diagnosis import chance
from kfisher.diagnosis.basis import curved_directions
from kfisher.diagnosis.meter import Meter, examples
from kfisher.diagnosis.specification import specification
from kfisher.diagnosis.thresholds import Thresholds

RNG = np.random.default_rng(0)
TRUE = np.array([[0.5], [-1.0], [0.25]])


def frame_of(x, y, weights=None, kernel=0.0):
    """The frame of a linear model with these weights under mean squared error."""
    layer = keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.compile("sgd", "mse")
    layer.kernel.assign(kernel + 0 * layer.kernel)
    found = tuple(t if t is None else t.astype("float32") for t in (x, y, weights))
    return Meter(model, 2, 0)(*examples(found, None), damping=1e-6)[1]


def data(*shape):
    """Labels of the model itself, whose loss has noise of variance 1/2."""
    x = RNG.normal(size=(*shape, 3))
    return x, x @ TRUE + RNG.normal(size=(*shape, 1)) / np.sqrt(2)


@pytest.mark.parametrize("kernel", [0.0, TRUE])
def test_copies_of_an_example_are_no_more_examples(kernel):
    x, y = data(60)
    one = frame_of(x, y, kernel=kernel)
    many = frame_of(np.repeat(x[:, None], 16, 1), np.repeat(y[:, None], 16, 1), kernel=kernel)
    found = [chance.gradient_over_noise(f, curved_directions(f), 0.95) for f in (one, many)]
    assert found[0].found == pytest.approx(found[1].found, rel=1e-3)
    assert found[0].within_noise == found[1].within_noise


def test_an_untrained_model_is_at_no_minimum():
    x, y = data(256, 64)
    found = specification(frame_of(x, y), Thresholds())
    assert found.level == "unknown" and found.text.startswith("No minimum")


def test_a_right_model_at_its_minimum_is_not_accused():
    for _ in range(5):
        x, y = data(256, 8)
        best = np.linalg.lstsq(x.reshape(-1, 3), y.reshape(-1, 1), rcond=None)[0]
        found = specification(frame_of(x, y, kernel=best), Thresholds())
        assert "At a minimum" in found.text and found.level != "bad"


def test_a_minimum_of_the_wrong_noise_is_accused():
    x, y = data(256, 8)
    y = x @ TRUE + 2 * (y - x @ TRUE)
    best = np.linalg.lstsq(x.reshape(-1, 3), y.reshape(-1, 1), rcond=None)[0]
    assert specification(frame_of(x, y, kernel=best), Thresholds()).level == "bad"


def test_intervals_over_examples_are_there_for_positions_too():
    x, y = data(64, 4)
    cosine, length = chance.over_examples(frame_of(x, y), 0.9, 0.5, 0.9)
    assert np.all(np.isfinite([*cosine, *length]))


def test_positions_that_weigh_differently_show_no_minimum():
    x, y = data(256, 4)
    weights = np.broadcast_to([0.1, 1.0, 2.0, 4.0], (256, 4)).copy()
    frame = frame_of(x, y, weights)
    assert not chance.holds_gradients(frame, rounding=1e-4)
    found = specification(frame, Thresholds())
    assert found.level == "unknown" and "weigh differently" in found.text
