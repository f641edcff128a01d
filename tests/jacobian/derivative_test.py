"""Outputs that hold derivatives in the inputs: F is that of automatic differentiation, for every curvature.

In float64, where two ways of computing the same products differ by rounding: 1e-10 relative to the largest
entry leaves four digits' room.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import oracle
from keras import layers

import kfisher

pytestmark = pytest.mark.usefixtures("float64")
TOLERANCE = 1e-10
X = np.random.default_rng(3).uniform(size=(5, 2))
Y = np.ones((5, 1))


class Potential(kfisher.FisherMixin, keras.Model):
    """u(x), with what subclasses make of it."""

    def __init__(self):
        super().__init__()
        self.hidden, self.last = layers.Dense(4, "tanh", name="hidden"), layers.Dense(1, name="last")

    def u(self, x):
        return self.last(self.hidden(x))


class Gradient(Potential):
    def call(self, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            u = self.u(x)
        return u + tf.reduce_sum(tape.gradient(u, x), -1, keepdims=True)


class Laplacian(Potential):
    """Two tapes, one in the other, and a Jacobian of each example."""

    def call(self, x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                u = self.u(x)
            slope = inner.gradient(sources=x, target=u)
        return tf.linalg.trace(outer.batch_jacobian(slope, x))[:, tf.newaxis]


class Forward(Potential):
    def call(self, x):
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            u = self.u(x)
        return u * accumulator.jvp(u)


class Slope(layers.Layer):
    """A layer inside a model that takes the derivative of a layer of its own."""

    def __init__(self):
        super().__init__(name="slope")
        self.inner = layers.Dense(2, "tanh", name="inner")

    def call(self, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            u = self.inner(x)
        return tape.gradient(u, x) + u


def stacked():
    inputs = keras.Input((2,))
    outputs = layers.Dense(1, name="last")(Slope()(layers.Dense(2, "tanh", name="hidden")(inputs)))
    return kfisher.Model(inputs, outputs)


def made(make, optimizer=None):
    model = make()
    model(X)
    model.compile(optimizer, loss="mse")
    return model


def assert_close(actual, expected):
    assert oracle.distance(actual, expected) < TOLERANCE


@pytest.mark.parametrize(
    "make, graph", [(Gradient, True), (Laplacian, False), (Forward, False), (stacked, False)]
)
def test_products_with_f_are_those_of_autodiff(make, graph):
    model = made(make)
    expected = oracle.gauss_newton(model, X, Y)
    v = np.random.default_rng(0).normal(size=len(expected))

    def products():
        operator = kfisher.FisherOperator(model, X)
        gram = operator.root.gram([tf.ones((), v.dtype) for v in model.trainable_variables])
        return operator.to_dense(), operator.matvec(v), tf.linalg.trace(gram)

    dense, product, trace = (tf.function(products, autograph=False) if graph else products)()
    assert_close(dense, expected)
    assert_close(product, expected @ v)
    assert_close(trace, np.trace(expected))


@pytest.mark.parametrize("curvature", ["gram", "dense"])
def test_a_step_solves_with_the_matrix_of_autodiff(curvature):
    damping = 1e-3
    options = {"trust_region": None, "damping": damping, "fisher": "exact"}
    model = made(Laplacian, kfisher.optimizers.NaturalGradient(1.0, curvature=curvature, **options))
    fisher = oracle.gauss_newton(model, X, Y)
    gradient = oracle.gradient(model, lambda: model.compute_loss(X, Y, model(X)))
    before = np.concatenate([np.ravel(v) for v in model.trainable_variables])
    model.train_on_batch(X, Y)
    after = np.concatenate([np.ravel(v) for v in model.trainable_variables])
    step = np.linalg.solve(fisher + damping * np.eye(len(fisher)), gradient)
    assert oracle.distance(before - after, step) < 1e-8


def test_the_model_or_the_layer_that_takes_the_derivative_is_one_block():
    rules = {(row.layer.split("_")[0], row.rule) for row in kfisher.coverage(made(Gradient), x=X)}
    assert rules == {("gradient", "per example")}
    rules = [(row.layer.split("/")[-1], row.rule) for row in kfisher.coverage(made(stacked))]
    assert rules == [("hidden", "dense"), ("slope", "per example"), ("last", "dense")]


def test_blocks_of_a_running_curvature_learn():
    model = made(Gradient, kfisher.optimizers.NaturalGradient(0.2, "exact", "kfac", 1e-2))
    loss = model.fit(X, Y, epochs=20, verbose=0).history["loss"]
    assert loss[-1] < 0.2 * loss[0]


def test_normalisation_by_the_batch_inside_of_a_derivative_is_refused():
    class Normalised(Gradient):
        def __init__(self):
            super().__init__()
            self.norm = layers.BatchNormalization()

        def u(self, x):
            return self.norm(super().u(x))

    with pytest.raises(ValueError, match="or takes their derivatives, and contains a BatchNormalization"):
        kfisher.FisherOperator(made(Normalised), X)
