"""Training: Kronecker-factored steps against dense Gauss-Newton steps and against Adam."""

import keras
import pytest

import kfisher

pytestmark = [pytest.mark.slow, pytest.mark.by_hand]

STEPS = 30


def loss_after(optimizer):
    """Mean squared error of a two-layer tanh autoencoder on 32 digits after full-batch steps."""
    x = (kfisher.datasets.digits()[0][:32] / 16).astype("float32")
    keras.utils.set_random_seed(0)
    model = kfisher.Sequential(
        [keras.Input((64,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(64)]
    )
    model.compile(optimizer, "mse")
    model.fit(x, x, batch_size=len(x), epochs=STEPS, shuffle=False, verbose=0)
    return model.evaluate(x, x, batch_size=len(x), verbose=0)


def natural(curvature, fisher):
    damping = kfisher.damping.LevenbergMarquardt(1e-3)
    options = {"damping": damping, "step": "quadratic_model", "trust_region": None, "seed": 0}
    return kfisher.optimizers.NaturalGradient(fisher=fisher, curvature=curvature, **options)


@pytest.fixture(scope="module")
def dense():
    return loss_after(natural("dense", "exact"))


@pytest.fixture(scope="module")
def adam():
    return min(loss_after(keras.optimizers.Adam(rate)) for rate in (3e-3, 1e-2, 3e-2, 1e-1))


@pytest.mark.parametrize("fisher", ["exact", "sampled"])
@pytest.mark.parametrize("curvature", ["kfac", "ekfac"])
def test_kronecker_steps_keep_up_with_dense_ones_and_outrun_adam(curvature, fisher, dense, adam):
    found = loss_after(natural(curvature, fisher))
    assert found < 1.2 * dense
    assert found < adam
