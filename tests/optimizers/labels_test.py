"""Labels and weights that the loss has no meaning for are refused at every step, and change no weight."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kfisher
from kfisher.optimizers import NaturalGradient, SophiaG

N = 8
LOSSES = {
    "binary": "binary_crossentropy",
    "count": "poisson",
    "sparse": "sparse_categorical_crossentropy",
    "classes": "categorical_crossentropy",
    "number": "mse",
}
OPTIMIZERS = {
    "kfac": lambda: NaturalGradient(0.01, seed=0),
    "diagonal": lambda: NaturalGradient(0.01, curvature="diagonal", trust_region=None, seed=0),
    "sophia": lambda: SophiaG(1e-3, seed=0),
}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3)).astype("float32")
GOOD = {
    "binary": RNG.integers(0, 2, (N, 1)).astype("float32"),
    "count": RNG.poisson(2.0, (N, 1)).astype("float32"),
    "sparse": RNG.integers(0, 3, (N, 1)).astype("float32"),
    "classes": np.eye(3, dtype="float32")[RNG.integers(0, 3, N)],
    "number": RNG.normal(size=(N, 1)).astype("float32"),
}
ONES = {name: np.ones(N, "float32") for name in GOOD}
# What is put in place of the first label, and what is said of it.
BAD = {
    "binary": (2.0, r"must be in \[0, 1\]"),
    "count": (-1.0, "must not be negative"),
    "sparse": (0.5, "whole numbers from 0 to 2"),
    "classes": (0.5, "sum to 1"),
}


def network(optimizer, mode):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    h = keras.layers.BatchNormalization()(keras.layers.Dense(3, "tanh")(inputs))
    activations = {"binary": "sigmoid", "count": "exponential", "sparse": "softmax", "classes": "softmax"}
    outputs = {
        name: keras.layers.Dense(y.shape[-1] if name != "sparse" else 3, activations.get(name), name=name)(h)
        for name, y in GOOD.items()
    }
    model = kfisher.Model(inputs, outputs)
    model.compile(OPTIMIZERS[optimizer](), LOSSES, run_eagerly=mode == "eager", jit_compile=mode == "xla")
    return model


def spoilt():
    """Labels, weights and what is to be said, one at a time."""
    for name, (value, said) in BAD.items():
        label = GOOD[name].copy()
        label[0] = value
        yield {**GOOD, name: label}, ONES, said
    weights = ONES["number"].copy()
    weights[-1] = -1.0
    yield GOOD, {**ONES, "number": weights}, "weights must not be negative"


@pytest.mark.parametrize(
    "optimizer, mode",
    [
        ("kfac", "eager"),
        ("diagonal", "graph"),
        ("sophia", "eager"),
        pytest.param("kfac", "graph", marks=[pytest.mark.slow, pytest.mark.by_hand]),
        pytest.param("sophia", "xla", marks=[pytest.mark.slow, pytest.mark.by_hand]),
    ],
)
def test_bad_labels_and_weights_are_refused_between_updates_of_the_curvature(optimizer, mode):
    model = network(optimizer, mode)
    model.optimizer.learning_rate = 1e-3
    for _ in range(9):  # the factors are due at steps 0, 1, 2, 4, 8 and 10
        model.train_on_batch(X, GOOD, ONES)
    for y, weights, said in spoilt():
        model.optimizer.iterations.assign(11)
        # In a graph statistics of the forward pass may be there before the check stops it.
        variables = model.trainable_variables if mode == "graph" else model.variables
        before = [v.numpy() for v in variables]
        skipped = int(model.optimizer.skipped_steps)
        if mode == "xla":
            model.train_on_batch(X, y, weights)
            assert int(model.optimizer.skipped_steps) == skipped + 1
        else:
            with pytest.raises(tf.errors.InvalidArgumentError, match=said):
                model.train_on_batch(X, y, weights)
            assert int(model.optimizer.iterations) == 11
        assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, variables))
    before = model.get_weights()
    model.optimizer.iterations.assign(11)
    model.train_on_batch(X, GOOD, ONES)  # good ones are still taken
    assert any((a != b).any() for a, b in zip(before, model.get_weights()))


def test_a_loop_of_ones_own_refuses_them_too():
    model = network("kfac", "eager")
    optimizer = model.optimizer

    def step(y):
        optimizer.observe(model, X, y)
        with tf.GradientTape() as tape:
            loss = model.compute_loss(X, y, model(X, training=True))
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        )

    step(GOOD)
    optimizer.iterations.assign(11)
    bad, _, said = next(spoilt())
    before = [v.numpy() for v in model.trainable_variables]
    with pytest.raises(tf.errors.InvalidArgumentError, match=said):
        step(bad)
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, model.trainable_variables))


def test_no_metric_and_no_evaluation_is_checked():
    """A loss among the metrics is no likelihood that is trained."""
    model = kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(1, "sigmoid")])
    model.compile(NaturalGradient(0.01, seed=0), "binary_crossentropy", metrics=[keras.losses.Huber()])
    model.train_on_batch(X, GOOD["binary"])
    assert np.isfinite(model.evaluate(X, 2 * GOOD["binary"], verbose=0)).all()
