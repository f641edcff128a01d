"""A loss in other units: weights of a thousandth, or of a thousand, for all examples alike."""

import keras
import numpy as np
import pytest
from helpers.models import EAGER, network

import kfisher
from kfisher.optimizers import EmpiricalNaturalGradient, NaturalGradient

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 3))
LABELS = (X @ RNG.normal(size=(3, 3))).argmax(1)


@pytest.mark.parametrize(
    "kind, curvature",
    [(NaturalGradient, "kfac"), (EmpiricalNaturalGradient, "kfac"), (EmpiricalNaturalGradient, "gram")],
)
def test_weights_of_all_examples_alike_change_little(kind, curvature):
    """Gradient, F, its damping and the trust region are all in the units of the loss; but for the first step,
    which has no weight of a batch to go by yet."""
    losses, dampings, optimizer = [], [], kind(seed=0)
    model = network(optimizer)
    optimizer.build(model.trainable_variables)
    state = [(v, v.numpy()) for v in model.variables + optimizer.variables]
    start = float(model.loss(LABELS, model(X)))
    for weight in (1.0, 1e-3, 1e3):
        for variable, value in state:
            variable.assign(value)
        for _ in range(40):
            model.train_on_batch(X, LABELS, sample_weight=np.full(len(X), weight))
        losses.append(float(model.loss(LABELS, model(X))))
        dampings.append(float(optimizer.damping) / weight)
    assert dampings == pytest.approx([dampings[0]] * 3, rel=1e-4)
    assert losses[0] < 0.5 * start
    assert np.log(losses) == pytest.approx(np.log(losses[0]), abs=0.3)


@pytest.mark.parametrize("curvature, outputs", [("kfac", 2), ("gram", 1), ("matrix_free", 1)])
def test_absolute_errors_in_small_units_are_followed(curvature, outputs):
    """The Fisher of a Laplace distribution does not know how large the errors are; the loss does."""
    y = 1e-4 * np.sin(2 * X[:, :outputs])
    model = network(NaturalGradient(curvature=curvature, seed=0), loss="mae", outputs=outputs)
    model.layers[-1].kernel.assign(0 * model.layers[-1].kernel)
    start = model.evaluate(X, y, verbose=0)
    for n in range(40):
        batch = slice(16 * (n % 4), 16 * (n % 4) + 16)
        model.train_on_batch(X[batch], y[batch])
    assert float(model.optimizer.curvature.bounded) == pytest.approx(outputs)
    assert model.evaluate(X, y, verbose=0) < start


@pytest.mark.parametrize("loss", ["mse", "mae", "poisson", "binary_crossentropy"])
@pytest.mark.parametrize("shape", [(5,), (2, 5)])
def test_a_mean_over_outputs_and_places_weighs_1(loss, shape):
    """Whatever it is a mean of; else wide outputs would be damped a hundredth of what narrow ones are."""
    layers = [keras.Input((*shape[:-1], 3)), keras.layers.Dense(shape[-1], "sigmoid")]
    model = kfisher.Sequential(layers)
    model.compile(NaturalGradient(seed=0), loss, **EAGER)
    x, y = RNG.normal(size=(8, *shape[:-1], 3)), RNG.integers(0, 2, (8, *shape))
    for _ in range(2):
        model.train_on_batch(x, y)
    assert float(model.optimizer.curvature.weight) == pytest.approx(1, rel=1e-6)


def test_a_sum_weighs_its_examples():
    model = kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(5)])
    model.compile(NaturalGradient(seed=0), keras.losses.MeanSquaredError(reduction="sum"), **EAGER)
    model.train_on_batch(X, RNG.normal(size=(64, 5)))
    assert float(model.optimizer.curvature.weight) == pytest.approx(64, rel=1e-6)
