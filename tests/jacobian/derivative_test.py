"""Outputs that hold derivatives in the inputs: F is that of automatic differentiation, for every curvature.

In float64, where two ways of computing the same products differ by rounding: 1e-10 relative to the largest
entry leaves four digits' room.
"""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import oracle
from helpers.models import EAGER
from keras import layers

import kfisher
from kfisher.jacobian.batch import Batch

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


class SecondDerivative(Potential):
    """u_xx + u_yy - u² by gradients of gradients, in one tape that is asked twice."""

    def call(self, x):
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                u = self.u(x)
            slopes = tf.unstack(inner.gradient(u, x), axis=-1)
        second = [outer.gradient(slope, x)[:, i] for i, slope in enumerate(slopes)]
        return tf.add_n(second)[:, tf.newaxis] - u**2


class Convolution(Gradient):
    """A convolution and a normalisation inside of the tape."""

    def __init__(self):
        super().__init__()
        self.convolution = layers.Conv1D(3, 2, activation="tanh", padding="same", name="convolution")
        self.normalisation = layers.LayerNormalization(name="normalisation")

    def u(self, x):
        wide = self.normalisation(self.convolution(x[:, :, tf.newaxis]))
        return self.last(tf.reshape(self.hidden(wide), [-1, 8]))


class EnergyAndForces(Potential):
    def call(self, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            u = self.u(x)
        return {"energy": u, "forces": -tape.gradient(u, x)}


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


def made(make, optimizer=None, **options):
    model = make()
    several = isinstance(model(X), dict)
    loss = {"energy": "mse", "forces": "mse"} if several else "mse"
    weights = {"energy": 1.0, "forces": 0.3} if several else None
    model.compile(optimizer, loss, loss_weights=weights, **options)
    return model


def labels(model):
    return keras.tree.map_structure(lambda f: tf.ones_like(f), model(X))


def assert_close(actual, expected, tolerance=TOLERANCE):
    assert oracle.distance(actual, expected) < tolerance


MODELS = [Gradient, Laplacian, SecondDerivative, Forward, Convolution, EnergyAndForces, stacked]


@pytest.mark.parametrize("make", MODELS)
def test_products_with_f_are_those_of_autodiff(make):
    model = made(make)
    expected = oracle.gauss_newton(model, X, labels(model))
    v = np.random.default_rng(0).normal(size=len(expected))

    def products():
        operator = kfisher.FisherOperator(model, X)
        gram = operator.root.gram([tf.ones((), v.dtype) for v in model.trainable_variables])
        return operator.to_dense(), operator.matvec(v), tf.linalg.trace(gram)

    in_graph = make is Gradient
    dense, product, trace = (tf.function(products, autograph=False) if in_graph else products)()
    assert_close(dense, expected)
    assert_close(product, expected @ v)
    assert_close(trace, np.trace(expected))


@pytest.mark.parametrize("make", MODELS)
def test_what_running_curvatures_average_is_that_of_autodiff(make):
    """Of each variable on its own: squares of all entries, and row and column moments of the matrices."""
    model = made(make)
    y = labels(model)
    hessian = oracle.output_hessian(model, X, y)
    rows = np.sqrt(np.diag(hessian))[:, np.newaxis] * oracle.jacobian(model, X)
    batch = Batch(model, tf.constant(X), y, None, kfisher.Exact(), tf.constant([0, 0]), training=False)
    found = [pair for rule in batch.square_root.rules for pair in rule.outer_products()]
    ends = np.cumsum([v.shape.num_elements() for v in model.trainable_variables])
    own = {id(v): part for v, part in zip(model.trainable_variables, np.split(rows, ends[:-1], 1))}
    assert sum(len(block.pieces) for block, _ in found) == len(own)
    for block, products in found:
        if block.form != "formed":  # a layer outside of the derivative
            continue
        m = np.reshape(own[id(block.variables[0])], [len(rows), block.inputs, block.outputs])
        if not m.any():  # a bias that no derivative sees
            assert not np.any(products.squares())
            continue
        assert_close(products.squares()[0], np.sum(m**2, 0))
        a, b = products.factors(None, "expand", (False, False), {})
        assert_close(np.trace(a[0]) * b[0], np.einsum("nio,nip->op", m, m))
        if block.inputs > 1:
            assert_close(a[0], np.einsum("nio,njo->ij", m, m) / np.sum(m**2))


# In a graph the first one; the others are eager, as one step is sooner taken than traced.
STEPS = [(Laplacian, "gram"), (Laplacian, "dense"), (EnergyAndForces, "matrix_free"), (Convolution, "gram")]
MORE = [pair for pair in itertools.product(MODELS, ["gram", "dense", "matrix_free"]) if pair not in STEPS]


BY_HAND = [pytest.mark.slow, pytest.mark.by_hand]


@pytest.mark.parametrize("make, curvature", STEPS + [pytest.param(*pair, marks=BY_HAND) for pair in MORE])
def test_a_step_solves_with_the_matrix_of_autodiff(make, curvature):
    how = EAGER if (make, curvature) in STEPS[1:] else {}
    damping = 1e-2
    if curvature == "matrix_free":
        curvature = kfisher.curvature.MatrixFree(200, tolerance=1e-10)
    options = {"trust_region": None, "damping": damping, "fisher": "exact"}
    model = made(make, kfisher.optimizers.NaturalGradient(1.0, curvature=curvature, **options), **how)
    y = labels(model)
    fisher = oracle.gauss_newton(model, X, y)
    gradient = oracle.gradient(model, lambda: model.compute_loss(X, y, model(X)))
    before = np.concatenate([np.ravel(v) for v in model.trainable_variables])
    model.train_on_batch(X, y)
    after = np.concatenate([np.ravel(v) for v in model.trainable_variables])
    step = np.linalg.solve(fisher + damping * np.eye(len(fisher)), gradient)
    assert_close(before - after, step, 1e-8)


def test_the_model_or_the_layer_that_takes_the_derivative_is_one_block():
    rules = {(row.layer.split("_")[0], row.rule) for row in kfisher.coverage(made(Gradient), x=X)}
    assert rules == {("gradient", "per example")}
    rules = [(row.layer.split("/")[-1], row.rule) for row in kfisher.coverage(made(stacked))]
    assert rules == [("hidden", "dense"), ("slope", "per example"), ("last", "dense")]


def test_blocks_of_a_running_curvature_learn():
    model = made(Gradient, kfisher.optimizers.NaturalGradient(0.2, "exact", "kfac", 1e-2), **EAGER)
    loss = model.fit(X, Y, epochs=20, verbose=0).history["loss"]
    assert loss[-1] < 0.2 * loss[0]


def test_normalisation_by_the_batch_inside_of_a_derivative_is_refused():
    class Normalised(Gradient):
        def __init__(self):
            super().__init__()
            self.norm = layers.BatchNormalization()

        def u(self, x):
            return self.norm(super().u(x))

    message = "takes their derivatives, .* and contains a BatchNormalization"
    with pytest.raises(ValueError, match=message):
        kfisher.FisherOperator(made(Normalised), X)
