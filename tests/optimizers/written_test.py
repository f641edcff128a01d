"""Variables that Keras overwrites with their gradient: the scales of float8 layers."""

import keras
import numpy as np
import pytest

from kfisher import Sequential
from kfisher.optimizers import NaturalGradient, SophiaG

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 4)).astype("float32")
Y = X @ RNG.normal(size=(4, 2)).astype("float32")


def trained(optimizer):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)]
    model = Sequential(layers)
    for layer in model.layers:
        layer.quantize("float8")
    model.compile(optimizer, "mse")
    model.train_on_batch(X, Y)
    written = [v for v in model.trainable_variables if v.overwrite_with_gradient]
    return [v.numpy() for v in written]


@pytest.mark.parametrize("make", [NaturalGradient, SophiaG])
def test_layers_that_are_quantized_are_refused_where_their_calls_are_recorded(make):
    with pytest.raises(ValueError, match="quantized.*Received: layers dense"):
        trained(make())


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}, {"step": "quadratic_model", "fisher": "exact"}])
def test_scales_of_float8_are_written_and_not_trained(options):
    """At a rate of nearly nothing the weights stay, so that the scales are those of any optimizer."""
    ours = trained(NaturalGradient(1e-12, curvature="matrix_free", seed=0, **options))
    theirs = trained(keras.optimizers.SGD(1e-12))
    assert len(ours) == len(theirs) > 0 and any(np.any(v != 1) for v in theirs)
    for a, b in zip(ours, theirs):
        assert np.allclose(a, b, rtol=1e-4)
