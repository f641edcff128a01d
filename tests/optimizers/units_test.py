"""A loss in other units: weights of a thousandth, or of a thousand, for all examples alike."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import EAGER, flat, network

import kfisher
from kfisher.jacobian.batch import Batch
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
    assert float(model.optimizer.curvature.weights[1]) == pytest.approx(outputs)
    assert model.evaluate(X, y, verbose=0) < start


@pytest.mark.parametrize(
    "kind, loss, curvature",
    [
        (NaturalGradient, "mae", "kfac"),
        (EmpiricalNaturalGradient, "mse", "gram"),
        pytest.param(NaturalGradient, "mae", "gram", marks=pytest.mark.by_hand),
        pytest.param(EmpiricalNaturalGradient, "mse", "kfac", marks=pytest.mark.by_hand),
    ],
)
def test_errors_in_large_units_are_followed_as_small_ones_are(kind, loss, curvature):
    """As prices are. F, or EF, took them for errors of 1, and the loss did not move."""
    y = np.exp(0.3 * X[:, :1])
    optimizer, hidden = kind(curvature=curvature, seed=0), keras.layers.Dense(16, "relu")
    model = network(optimizer, hidden, loss=loss, outputs=1)
    optimizer.build(model.trainable_variables)
    state = [(v, v.numpy()) for v in model.variables + optimizer.variables]
    shares = []
    for unit in (1.0, 3e5):
        for variable, value in state:
            variable.assign(value)
        start = model.evaluate(X, unit * y, verbose=0)
        model.fit(np.tile(X, (20, 1)), unit * np.tile(y, (20, 1)), batch_size=16, verbose=0)
        shares.append(model.evaluate(X, unit * y, verbose=0) / start)
    assert shares[0] < 0.7 and shares[1] < 0.7


@pytest.mark.parametrize(
    "kind, curvature, far",
    [
        (NaturalGradient, "kfac", 1e6),
        (EmpiricalNaturalGradient, "gram", 1e2),
        pytest.param(NaturalGradient, "gram", 1e4, marks=pytest.mark.by_hand),
        pytest.param(EmpiricalNaturalGradient, "kfac", 1e4, marks=pytest.mark.by_hand),
    ],
)
def test_a_few_outliers_do_not_set_the_pace_of_absolute_errors(kind, curvature, far):
    """They are what people take them for. With steps as long as the mean error the others grew tenfold."""
    y = X[:, :1] * X[:, 1:2] + X[:, 2:]
    is_ordinary = np.arange(len(X)) % 32 > 0
    model = network(kind(curvature=curvature, seed=0), keras.layers.Dense(16, "relu"), loss="mae", outputs=1)
    start = model.evaluate(X[is_ordinary], y[is_ordinary], verbose=0)
    bad = np.where(is_ordinary[:, None], y, y + far)
    model.fit(np.tile(X, (30, 1)), np.tile(bad, (30, 1)), batch_size=16, verbose=0)
    assert model.evaluate(X[is_ordinary], y[is_ordinary], verbose=0) < 0.5 * start


def test_the_usual_size_of_errors_is_that_of_most():
    """Whatever they weigh; outputs that are exact say nothing; where nothing is known it is infinite."""
    model = network(NaturalGradient(seed=0), keras.layers.Identity(), loss="mae", outputs=2, **EAGER)
    model.optimizer.build(model.trainable_variables)
    assert np.isinf(float(model.optimizer.curvature.usual_size))
    model.train_on_batch(X, np.full((64, 2), np.nan))
    assert np.isinf(float(model.optimizer.curvature.usual_size))
    for v in model.trainable_variables:
        v.assign(0 * v)
    errors = np.ones((64, 2))
    errors[::32], errors[1::4] = 1e4, 0
    model.train_on_batch(X, errors, sample_weight=np.full(64, 3.0))
    assert float(model.optimizer.curvature.usual_size) == pytest.approx(3, rel=1e-4)
    other = network(NaturalGradient(seed=0), keras.layers.Identity(), loss="mse", outputs=2, **EAGER)
    other.train_on_batch(X, errors)
    assert np.isinf(float(other.optimizer.curvature.usual_size))


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


class WithConstant(keras.losses.Loss):
    """Poisson's loss with the constant that Keras leaves out, so that it is 0 where f = y."""

    def call(self, y_true, y_pred):
        least = y_true - y_true * keras.ops.log(keras.ops.maximum(y_true, 1))
        return keras.losses.poisson(y_true, y_pred) - keras.ops.mean(least, -1)


@pytest.mark.parametrize("curvature", ["kfac", "gram"])
def test_counts_are_trained_alike_with_and_without_the_constant_of_their_loss(curvature):
    """Of a large one the loss is far below 0: that is not how far it has to go."""
    x, y = RNG.normal(size=(3, 16, 3)), RNG.poisson(30 * np.exp(RNG.normal(size=(3, 16, 2)))).astype(float)
    weights, sizes, losses = [], [], []
    for loss, likelihood in (("poisson", None), (WithConstant(), kfisher.likelihoods.Poisson())):
        keras.utils.set_random_seed(0)
        bias = keras.initializers.Constant(np.log(30))
        model = kfisher.Sequential(
            [keras.Input((3,)), keras.layers.Dense(2, "exponential", bias_initializer=bias)]
        )
        optimizer = NaturalGradient(curvature=curvature, likelihood=likelihood, seed=0)
        model.compile(optimizer, loss, loss_weights=2.0, **EAGER)
        for n in range(6):
            model.train_on_batch(x[n % 3], y[n % 3], sample_weight=np.linspace(0.5, 1.5, 16))
        weights.append(flat(model.get_weights()))
        sizes.append(float(optimizer.guard.memory.read().size))
        losses.append(model.evaluate(x[0], y[0], verbose=0))
    assert losses[0] < -100
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-4) and sizes[0] > 0
    assert weights[0] == pytest.approx(weights[1], rel=1e-3)


def test_the_least_of_a_loss_has_all_its_weights():
    """Sample, class and loss weights, masks, and means over places; other losses count from 0."""
    first, second = keras.Input((4, 2)), keras.Input((3,))
    masked = keras.layers.Masking()(first)
    counts = keras.layers.Dense(2, "exponential", name="counts")(masked)
    model = kfisher.Model([first, second], [counts, keras.layers.Dense(1, name="other")(second)])
    model.compile("sgd", ["poisson", "mse"], loss_weights=[0.3, 2.0], **EAGER)
    x = [RNG.normal(size=(5, 4, 2)).astype("float32"), RNG.normal(size=(5, 3)).astype("float32")]
    x[0][2, 1:] = 0  # masked
    y = [RNG.poisson(9.0, (5, 4, 2)).astype("float32"), np.ones((5, 1), "float32")]
    weights = [np.linspace(0.1, 1, 20).reshape(5, 4).astype("float32"), np.ones(5, "float32")]
    x, y, weights = keras.tree.map_structure(tf.convert_to_tensor, (x, y, weights))
    batch = Batch(model, x, y, weights, kfisher.Sampled(), tf.constant([0, 0]))
    outputs = [tf.convert_to_tensor(y[0]), model(x)[1]]  # the least is where f = y
    outputs[0]._keras_mask = tf.reduce_any(x[0] != 0, -1)
    other = tf.reduce_mean(tf.square(outputs[1] - y[1])) * 2.0
    least = float(model.compute_loss(y=y, y_pred=outputs, sample_weight=weights) - other)
    loss = float(model.compute_loss(y=y, y_pred=model(x), sample_weight=weights))
    assert abs(least) > 0.1
    assert float(batch.loss_above_least()) == pytest.approx(loss - least, rel=1e-5)
    assert float(batch.square_root.loss.above_least) == pytest.approx(loss - least, rel=1e-5)
