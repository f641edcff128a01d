"""Numbers and statements of Kunstner, Balles, Hennig 2019, with kfisher's own optimizers on Keras models.

The tables and grids of its experiments are those of scripts/reproduce.py: see reproduce_test.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import EAGER
from helpers.versions import ROUNDS

import kfisher
from kfisher.optimizers import EmpiricalNaturalGradient, NaturalGradient

pytestmark = pytest.mark.usefixtures("float64")
# The updates of the paper: no step is bounded, judged or taken back.
natural = functools.partial(NaturalGradient, trust_region=None)
empirical_natural = functools.partial(EmpiricalNaturalGradient, trust_region=None)


def linear_model(features, outputs=1, loss="mse", optimizer=None, **options):
    """A linear model at zero; its parameters are the weights and then the bias."""
    layer = keras.layers.Dense(outputs, kernel_initializer="zeros")
    model = kfisher.Sequential([keras.Input((features,)), layer])
    model.compile(optimizer or "sgd", loss, **options)
    return model


def logistic():
    return keras.losses.BinaryCrossentropy(from_logits=True)


def train(model, x, y, steps):
    """Full-batch steps; the loss before each and after the last."""
    history = model.fit(x, y, batch_size=len(x), epochs=steps, verbose=0).history["loss"]
    return np.array([*history, model.evaluate(x, y, batch_size=len(x), verbose=0)])


def parameters(model):
    return np.concatenate([w.ravel() for w in model.get_weights()])


@pytest.mark.parametrize("curvature, fisher", [("dense", "exact"), ("gram", "exact"), ("dense", "sampled")])
def test_linear_regression_is_solved_in_one_step(curvature, fisher):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)) * [1, 3, 0.2, 1]
    y = x @ [[1.0, -2], [0.5, 0], [3, 1], [0, 0.1]] + 2 + 0.1 * rng.normal(size=(200, 2))
    expected = np.linalg.lstsq(np.c_[x, np.ones(200)], y, rcond=None)[0].ravel()
    if fisher == "sampled":  # many labels: the mean of the samples is the Fisher
        fisher = kfisher.Sampled(num_samples=2000)
    optimizer = natural(1.0, fisher, curvature, damping=1e-8, seed=0)
    model = linear_model(4, 2, optimizer=optimizer)
    train(model, x, y, 1)
    tolerance = 1e-6 if fisher == "exact" else 0.05
    assert np.allclose(parameters(model), expected, rtol=tolerance, atol=tolerance)


def test_logistic_regression_follows_newton():
    """For a natural parameter the Fisher is the Hessian: each step is one of IRLS."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 3)) * [1, 5, 0.3] + [0, 2, 0]
    y = (rng.uniform(size=300) < 1 / (1 + np.exp(-(x @ [0.5, -0.3, 2] + 0.2)))).astype(float)
    a, theta, expected = np.c_[x, np.ones(300)], np.zeros(4), []
    for _ in range(21):
        z = a @ theta
        expected.append(np.mean(np.logaddexp(0, z) - y * z))
        p = 1 / (1 + np.exp(-z))
        hessian = a.T @ (a * (p * (1 - p))[:, None]) / 300 + 1e-10 * np.eye(4)
        theta -= np.linalg.solve(hessian, a.T @ (p - y) / 300)
    model = linear_model(3, loss=logistic(), optimizer=natural(1.0, "exact", "dense", damping=1e-10))
    assert np.allclose(train(model, x, y[:, None], 20), expected, rtol=1e-9)


def newton(x, y, step, damping, empirical):
    """Loss of logistic regression after 100 damped steps with F or EF, in plain NumPy."""
    a, theta = np.c_[x, np.ones(len(x))], np.zeros(x.shape[1] + 1)
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(a @ theta, -700, 700)))
        weights = (p - y) ** 2 if empirical else p * (1 - p)
        matrix = a.T @ (a * weights[:, None]) / len(x) + damping * np.eye(len(theta))
        theta -= step * np.linalg.solve(matrix, a.T @ (p - y) / len(x))
    return np.mean(np.logaddexp(0, a @ theta) - y * (a @ theta))


def breast_cancer_after_100_steps(empirical, step):
    """The loss by kfisher, and by NumPy."""
    x, y = kfisher.datasets.breast_cancer()
    fisher = "empirical" if empirical else "exact"
    model = linear_model(30, loss=logistic(), optimizer=natural(step, fisher, "dense", damping=1e-10))
    batches = tf.data.Dataset.from_tensors((x, y[:, None])).repeat(100)
    model.fit(batches, shuffle=False, verbose=0)
    return model.evaluate(x, y[:, None], batch_size=len(x), verbose=0), newton(x, y, step, 1e-10, empirical)


@ROUNDS
def test_breast_cancer_by_empirical_fisher_ends_as_published():
    loss, by_numpy = breast_cancer_after_100_steps(True, 10**-1.25)
    # The system has a condition of 1e15, so that EF's path, 100 steps long, keeps few of its digits.
    assert loss == pytest.approx(by_numpy, rel=1e-2)
    assert f"{loss:.1e}" == "1.0e-02"


def test_breast_cancer_by_natural_gradient_ends_as_in_numpy():
    loss, by_numpy = breast_cancer_after_100_steps(False, 10**0.125)
    assert loss == pytest.approx(by_numpy, rel=1e-6)
    assert f"{loss:.3e}" == "5.038e-04"


@pytest.mark.xfail(strict=True, reason="every stable float64 solver ends at 5.038e-4, kfisher and NumPy")
def test_breast_cancer_by_natural_gradient_ends_as_published():
    x, y = kfisher.datasets.breast_cancer()
    assert f"{newton(x, y, 10**0.125, 1e-10, empirical=False):.1e}" == "5.2e-04"


@pytest.mark.parametrize("method", ["natural", "gradient", "empirical"])
def test_only_the_natural_gradient_path_is_invariant_to_a_linear_change_of_the_features(method):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(150, 3))
    y = (rng.uniform(size=150) < 1 / (1 + np.exp(-x @ [1.0, -1, 0.5]))).astype(float)[:, None]
    change = np.array([[2.0, 0.3, 0], [0, 0.5, 1], [1, 0, 1.5]])
    path = []
    for features in (x, x @ change):
        optimizer = {
            "natural": lambda: natural(0.5, "exact", "dense", damping=1e-12),
            "gradient": lambda: keras.optimizers.SGD(0.5),
            "empirical": lambda: empirical_natural(0.5, "dense", damping=1e-2),
        }[method]()
        model = linear_model(3, loss=logistic(), optimizer=optimizer, **EAGER)
        outputs = []
        for _ in range(4):
            train(model, features, y, 1)
            outputs.append(model(features).numpy())
        path.append(np.stack(outputs))
    distance = np.abs(path[0] - path[1]).max()
    if method == "natural":
        assert distance < 1e-8
    else:
        assert distance > 1e-2


def distance_at_the_minimum(x, y, loss, use_bias):
    """||EF - F|| / ||F|| at the maximum-likelihood point."""
    model = kfisher.Sequential([keras.Input((x.shape[1],)), keras.layers.Dense(1, use_bias=use_bias)])
    model.compile(natural(1.0, "exact", "dense", damping=1e-12), loss)
    model.set_weights([0 * w for w in model.get_weights()])
    train(model, x, y, 15)
    f, ef = (kfisher.FisherOperator(model, x, y, fisher=k).to_dense().numpy() for k in ("exact", "empirical"))
    return np.linalg.norm(ef - f) / np.linalg.norm(f)


def test_well_specified_with_much_data_the_empirical_fisher_is_the_fisher():
    rng = np.random.default_rng(3)
    n = 100_000
    x = np.concatenate([rng.normal(size=(n // 2, 2)) * 2 + m for m in (1, -1)])
    y = np.repeat([0.0, 1.0], n // 2)[:, None]
    assert distance_at_the_minimum(x, y, logistic(), False) < 0.02
    # Noise of the variance that Keras' squared error stands for, 1/2.
    x = rng.normal(size=(n, 1))
    y = 1 + x + np.sqrt(0.5) * rng.normal(size=(n, 1))
    assert distance_at_the_minimum(x, y, "mse", True) < 0.02
