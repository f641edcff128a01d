"""Scores of drawn labels in the coordinates of the rows of F, family by family."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from kfisher_scripts.common.half_squared_error import HalfSquaredError

import kfisher
from kfisher.diagnosis import chance
from kfisher.diagnosis.drawn_scores import DrawnScores, in_rows
from kfisher.diagnosis.meter import Meter, examples
from kfisher.likelihoods import Bernoulli, Categorical, DistributionLikelihood, Laplace, Normal, Poisson

SEED = tf.constant([0, 3])
FAMILIES = {
    "normal": Normal(),
    "laplace": Laplace(),
    "bernoulli": Bernoulli(from_logits=True),
    "categorical": Categorical(from_logits=True),
    "poisson": Poisson(),
    "distribution": DistributionLikelihood(lambda f: tfp.distributions.Normal(f[..., 0], tf.exp(f[..., 1]))),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_coordinates_are_those_of_labels_of_the_model(name):
    """Their covariance is the identity, and with the root they make scores of the family."""
    likelihood, outputs = FAMILIES[name], 2 if name == "distribution" else 3
    eta = tf.constant(np.random.default_rng(0).uniform(0.3, 0.9, size=(4, outputs)), tf.float32)
    a = DrawnScores([likelihood], [eta], SEED)(3000, 0)
    assert a.dtype == np.float64 and a.shape == (3000, likelihood.fisher_root(eta).shape[-1], 4)
    covariance = np.einsum("drn,dsn->nrs", a, a) / len(a)
    assert np.allclose(covariance, np.eye(a.shape[1]), atol=0.25)
    assert np.allclose(a.mean(0), 0, atol=0.12)
    if name in ("bernoulli", "categorical"):  # of few labels each has its score
        scores = np.einsum("ncr,drn->dnc", likelihood.fisher_root(eta), a)
        p = tf.sigmoid(eta) if name == "bernoulli" else tf.nn.softmax(eta)
        labels = scores + p.numpy()
        assert np.allclose(labels, labels.round(), atol=1e-3)


def test_draws_go_on_and_come_again():
    eta = tf.zeros([5, 2])
    draw = DrawnScores([Normal(), Poisson()], [eta, eta], SEED)
    assert draw(2, 0).shape == (2, 4, 5)
    assert np.array_equal(draw(2, 0), draw(2, 0)) and not np.allclose(draw(2, 0), draw(2, 2))


def test_of_positions_each_has_its_own():
    """In the order of the rows of F: with them, drawn labels make F on average."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 2)), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4, 2)), rng.integers(3, size=(30, 4))
    _, frame = Meter(model, 2, 0)(*examples((x, y), None))
    found = chance.of_drawn_labels(frame, 4, False, 400)
    assert np.allclose(found.mean(0), np.eye(4), atol=0.05)


def test_labels_are_of_the_model_as_it_was_measured():
    """Whatever has become of its weights."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    x, y = np.ones((8, 2)), np.ones((8, 1))
    _, frame = Meter(model, 2, 0)(*examples((x, y), None))
    before = frame.draw(3, 0)
    model.set_weights([w + 5 for w in model.get_weights()])
    assert np.array_equal(frame.draw(3, 0), before)


def test_a_fisher_from_drawn_labels_is_not_what_ef_is_judged_by_at_a_minimum(monkeypatch):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", HalfSquaredError())
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 1))
    model.set_weights([np.zeros((1, 1)), np.zeros(1)])
    y = 3 * rng.normal(size=(200, 1))
    y -= np.c_[x, np.ones(200)] @ np.linalg.lstsq(np.c_[x, np.ones(200)], y)[0]
    assert kfisher.diagnose(model, x, y).verdict == "misspecified"
    monkeypatch.setattr("kfisher.diagnosis.rows.labels_for_exact", lambda *given: 8)
    verdict = kfisher.diagnose(model, x, y)
    assert verdict.verdict == "unknown" and "itself estimated" in verdict.findings[3].text


def test_scores_of_outputs_with_scales_far_apart_are_whole():
    """In single precision the smaller would be below the rounding of the larger."""
    scales = [1e-5, 1e5]
    likelihood = DistributionLikelihood(lambda f: tfp.distributions.MultivariateNormalDiag(f, scales))
    eta = tf.zeros([3, 2])
    labels = likelihood.sample(eta, 4, SEED)
    a = in_rows(likelihood, eta, labels).numpy()
    made = np.einsum("ncr,drn->dnc", likelihood.fisher_root(eta), a)
    assert np.allclose(made, [likelihood.score(eta, y) for y in labels], rtol=1e-5)
