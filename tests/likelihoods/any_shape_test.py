"""Scores and roots of likelihoods for coordinates of any shape and size."""

import numpy as np
import tensorflow as tf
from helpers import oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from kfisher.likelihoods import Bernoulli, Categorical, Laplace, Normal, Poisson

FAMILIES = {
    "normal": lambda scale: Normal(scale),
    "laplace": lambda scale: Laplace(scale),
    "bernoulli": lambda scale: Bernoulli(from_logits=True),
    "categorical": lambda scale: Categorical(from_logits=True),
    "poisson": lambda scale: Poisson(),
}


def label(name, rng, shape):
    if name == "categorical":
        return np.eye(shape[-1])[rng.integers(0, shape[-1], shape[:-1])]
    return rng.normal(size=shape) if name in ("normal", "laplace") else rng.integers(0, 2, shape) * 1.0


@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    name=st.sampled_from(sorted(FAMILIES)),
    scale=st.floats(0.1, 10),
    positions=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    size=st.integers(2, 5),
    spread=st.floats(0.01, 5),
    seed=st.integers(0, 99),
)
def test_score_root_product_and_whitening_agree(name, scale, positions, size, spread, seed):
    rng, likelihood = np.random.default_rng(seed), FAMILIES[name](scale)
    shape = (*positions, size)
    eta = tf.constant(rng.normal(0, spread, shape))
    y = tf.constant(label(name, rng, shape))
    with tf.GradientTape() as tape:
        tape.watch(eta)
        log_prob = tf.reduce_sum(likelihood.distribution(eta).log_prob(y))
    score, root = likelihood.score(eta, y), likelihood.fisher_root(eta)
    assert root.shape[:-1] == shape
    assert oracle.distance(score, tape.gradient(log_prob, eta)) < 1e-10
    assert oracle.distance(tf.linalg.matvec(root, likelihood.whiten(eta, score)), score) < 1e-10
    u = tf.constant(rng.normal(size=shape))
    by_root = tf.linalg.matvec(root, tf.linalg.matvec(root, u, transpose_a=True))
    assert oracle.distance(likelihood.fisher_product(eta, u), by_root) < 1e-10


@settings(derandomize=True, deadline=None, max_examples=20)
@given(
    size=st.integers(2, 6),
    count=st.integers(1, 6),
    bad=st.sampled_from([-1.0, 0.5, np.inf, 1e9, None]),
    place=st.integers(0, 5),
)
def test_sparse_labels_are_one_hot_or_refused(size, count, bad, place):
    likelihood, eta = Categorical(from_logits=True, sparse=True), tf.zeros((count, size), tf.float64)
    y = np.arange(count) % size * 1.0
    if bad is None:
        assert np.array_equal(likelihood.labels(tf.constant(y), eta), np.eye(size)[y.astype(int)])
        assert not likelihood.spoilt(tf.constant(y), eta)
        return
    y[place % count] = bad
    for check in (likelihood.labels, likelihood.spoilt):
        try:
            check(tf.constant(y), eta)
        except tf.errors.InvalidArgumentError as error:
            assert f"whole numbers from 0 to {size - 1}" in str(error)
        else:
            raise AssertionError(f"{bad} was accepted")
