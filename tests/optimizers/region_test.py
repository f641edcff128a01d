"""The trust region: bounded by the loss, and wary of gradients that F knows nothing of."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import kfisher
from kfisher.fisher import Empirical, Exact
from kfisher.likelihoods.weighted import Weights
from kfisher.optimizers import EmpiricalNaturalGradient, NaturalGradient, _region
from kfisher.optimizers._guard import Guard
from kfisher.optimizers._past import Past
from kfisher.optimizers._region import TrustRegion

RNG = np.random.default_rng(0)


def region(fisher, weights=(1.0, 0.0, 1.0), level=2.0, radius="auto", usual=np.inf):
    """One, and a past in which the loss was `level` for long."""
    weights = Weights(*map(tf.constant, weights), roots=tf.constant(0.0))
    known = {"weights": weights, "usual_size": tf.constant(usual, tf.float64)}
    made = TrustRegion(radius, fisher, types.SimpleNamespace(averages_batches=True, **known))
    zero, one = tf.constant([0.0, 1.0], tf.float64)
    past = Past(*(zero for _ in Past._fields))._replace(confidence=one)
    for _ in range(3):
        past = made.taken_in(past, tf.constant(level, tf.float64), tf.constant(False))
    return made, past


@pytest.mark.parametrize(
    "fisher, weights, most",
    [
        (Exact(), (3.0, 0.0, 3.0), 2.0),  # s
        (Empirical(), (3.0, 0.0, 3.0), 3.0),  # W
        (Exact(), (3.0, 8.0, 0.0), 8.0),  # B
        (Exact(), (1.0, 1.0, 0.0), 1.0),  # absolute errors above 1
        (Exact(), (2.0, 1.0, 1.0), 2.0),  # the same beside other errors, of which F knows: D is s
        (Exact(), (2.0, 8.0, 1.0), 8.0),
    ],
)
@pytest.mark.parametrize("radius", ["auto", 0.01])
def test_a_surprise_is_forty_times_what_a_batch_explains_itself(fisher, weights, most, radius):
    found, past = region(fisher, weights, radius=radius)
    found = found.surprise(past, tf.constant(80.0, tf.float64), 1.0)
    assert float(found) == pytest.approx(80.0 / (40 * most))


@pytest.mark.parametrize(
    "fisher, weights, times",
    [
        (Exact(), (1.0, 0.0, 1.0), 1.0),
        (Empirical(), (0.5, 0.0, 0.5), 4.0),  # s / W
        (Empirical(), (3.0, 0.0, 3.0), 1.0),  # it makes no step shorter: c does
        (Exact(), (1.0, 0.5, 0.0), 4.0),  # s / B
        (Exact(), (2.0, 0.5, 1.0), 1.0),  # beside other errors
    ],
)
def test_where_f_takes_any_error_for_one_of_1_steps_reach_as_far_as_errors_are_large(fisher, weights, times):
    found, past = region(fisher, weights)
    assert float(found.reach(past)) == pytest.approx(times)
    assert region(fisher, weights, radius=0.1)[0].reach(past) == 1.0  # c is in the units of the loss


@pytest.mark.parametrize(
    "fisher, weights, share",
    [
        (Exact(), (3.0, 0.0, 3.0), 0.5**0.5),  # D is s
        (Exact(), (1.0, 0.5, 0.0), 0.5),  # s² / B
        (Empirical(), (0.5, 0.0, 0.5), 0.5),  # s² / W
    ],
)
def test_a_step_of_full_length_is_short_beside_a_loss_that_has_spread(fisher, weights, share):
    """c goes by the best size, 2, and how far the weights have moved by what the loss of 4 would allow."""
    found, past = region(fisher, weights)
    past = past._replace(spread=tf.constant(4.0, tf.float64))
    assert float(found.length(past, tf.constant(3.0, tf.float64))) == pytest.approx(share)


@pytest.mark.parametrize("usual, size", [(0.1, 0.3), (1.0, 2.0)])
def test_no_step_goes_by_more_than_three_times_the_usual_size_of_absolute_errors(usual, size):
    found, past = region(Exact(), (1.0, 0.25, 0.0), usual=usual)
    assert float(found.radius(past)) == pytest.approx(0.003 * size**2 / 0.25)
    assert float(found.reach(past)) == pytest.approx(size / 0.25)


@pytest.mark.parametrize("behind, times", [(False, 1.0), (True, 0.0)])
def test_a_step_that_is_for_what_was_left_behind_is_no_surprise(behind, times):
    """It is one where F knows nothing, and has to be taken all the same."""
    guard = Guard("auto", Exact(), None)
    guard.region, past = region(Exact(), level=2.0)
    loss = tf.constant(1.0, tf.float64)
    judgement = types.SimpleNamespace(behind=tf.constant(behind), loss=loss, past=past)
    found = guard.surprise(tf.constant(160.0, tf.float64), judgement)
    assert float(found) == pytest.approx(2.0 * times)


def test_a_batch_with_a_larger_loss_may_have_a_larger_gradient():
    squared = tf.constant(80.0, tf.float64)
    for level, loss, expected in ((2.0, 4.0, 0.5), (0.0, 0.0, 0.0)):  # a loss of zero has no gradient
        found, past = region(Exact(), level=level)
        assert float(found.surprise(past, squared, loss)) == pytest.approx(expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("inputs, hidden", [(3, 2), (40, 5)])
@pytest.mark.parametrize(
    "loss, fisher, most", [("mse", "exact", 2), ("mse", "empirical", 1), ("mae", "exact", 2)]
)
def test_no_batch_surprises_itself_under_squared_and_absolute_errors(loss, fisher, most, inputs, hidden):
    """mᵀ (F + damping I)⁻¹ m of the F of the batch is no more than 2 s, W or B, here 2."""
    x, y = RNG.normal(size=(12, inputs)), RNG.normal(size=(12, 2))
    layers = [keras.layers.Dense(hidden, "tanh"), keras.layers.Dense(2)]
    model = kfisher.Sequential([keras.Input((inputs,)), *layers])
    model.compile(keras.optimizers.SGD(), loss)
    kind = {"exact": Exact(), "empirical": Empirical()}[fisher]
    with tf.GradientTape() as tape:
        value = model.compute_loss(x, y, model(x))
    gradient = np.concatenate([g.numpy().ravel() for g in tape.gradient(value, model.trainable_variables)])
    matrix = kfisher.FisherOperator(model, x, y, fisher=kind).to_dense().numpy()
    norm = gradient @ np.linalg.solve(matrix + 1e-9 * np.eye(len(matrix)), gradient)
    limit = {"mse": float(value), "mae": 1.0}[loss] if fisher == "exact" else 1.0
    assert 0.01 * limit < norm <= most * limit * (1 + 1e-6)


@pytest.mark.parametrize("label, surprises", [(1.0, False), (0.0, True)])
def test_a_label_that_the_model_is_sure_not_to_see_is_a_surprise(label, surprises):
    """Under a cross-entropy the 1 / p of a label has no bound, whatever F is of."""
    model = kfisher.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[12 / 300]])  # the odds of 1 are e¹² for x = 300
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(NaturalGradient(fisher="exact", seed=0), loss, run_eagerly=True)
    model.train_on_batch(np.full((16, 1), 300.0), np.where(np.arange(16)[:, None] == 0, label, 1.0))
    assert (float(model.optimizer._adaptive.caution.numpy()) > 1.0) == surprises


@pytest.mark.parametrize("curvature", ["kfac", "ekfac", "diagonal"])
def test_a_surprise_shortens_the_step_by_its_square_root(curvature, monkeypatch):
    x, y = RNG.normal(size=(16, 5)), RNG.normal(size=(16, 1))
    rates = []
    for explained in (1e6, 1e-2):
        monkeypatch.setattr(_region, "_EXPLAINED", explained)
        keras.utils.set_random_seed(0)
        model = kfisher.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
        model.compile(NaturalGradient(30.0, curvature=curvature, seed=0), "mse")
        size = model.train_on_batch(x, y)
        rates.append(float(model.optimizer.rate_in_use))
    squared = 2 * 0.003 * size / rates[0] ** 2  # mᵀ (F + damping I)⁻¹ m, of a step of length c
    assert rates[1] == pytest.approx(rates[0] / np.sqrt(squared / (1e-2 * size)), rel=1e-4)


@pytest.mark.parametrize("curvature", ["kfac", "matrix_free"])
@pytest.mark.parametrize("found", [-1.0, 0.0])
def test_a_length_that_is_rounding_bounds_no_less_than_the_damping_does(found, curvature, monkeypatch):
    """xᵀ (F + damping I) x came out as negative, for zero, and the step had no bound at all."""
    kind = {"kfac": kfisher.curvature.KFAC, "matrix_free": kfisher.curvature.MatrixFree}[curvature]
    monkeypatch.setattr(kind, "squared_length", lambda *a: tf.constant(found, tf.float64))
    model = kfisher.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    settings = {"fisher": "exact", "curvature": curvature, "damping": 0.01, "trust_region": 0.02}
    model.compile(NaturalGradient(1e6, seed=0, **settings), "mse")
    before = model.get_weights()
    model.train_on_batch(RNG.normal(size=(16, 5)), RNG.normal(size=(16, 1)))
    moved = sum(np.square(a - b).sum() for a, b in zip(model.get_weights(), before))
    assert 0.01 * moved == pytest.approx(2 * 0.02, rel=1e-4)


# --- many inputs, few examples --------------------------------------------------------------------------


def dense(*widths, activation="relu"):
    *hidden, outputs = widths
    return lambda: [*(keras.layers.Dense(n, activation) for n in hidden), keras.layers.Dense(outputs)]


# By name: inputs, layers, examples, batch. Each ended above its start, most of them far above.
WIDE = {
    "one layer": (400, dense(1), 128, 16),
    "two": (200, dense(150, 1), 128, 16),
    "saturated": (300, dense(280, 1, activation="tanh"), 256, 16),
    "batches of four": (100, dense(100, 1), 64, 4),
    "batches of one": (30, dense(30, 1), 64, 1),
}
MAKE = {
    "kfac": lambda: NaturalGradient(seed=0),
    "ekfac": lambda: NaturalGradient(curvature="ekfac", seed=0),
    "empirical": lambda: EmpiricalNaturalGradient(seed=0),
    "constant damping": lambda: NaturalGradient(damping=5e-3, seed=0),
}
CASES = [("kfac", name) for name in WIDE] + [(kind, "batches of four") for kind in MAKE if kind != "kfac"]


@pytest.mark.parametrize("kind, name", CASES)
def test_more_inputs_than_examples_are_learnt(kind, name):
    inputs, layers, examples, batch = WIDE[name]
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(1).normal(size=(examples, inputs)).astype("float32")
    model = kfisher.Sequential([keras.Input((inputs,)), *layers()])
    model.compile(MAKE[kind](), "mse")
    start = model.evaluate(x, x[:, :1], verbose=0)
    model.fit(x, x[:, :1], batch_size=batch, epochs=12, verbose=0)
    # A constant damping does not grow: there only the steps are shorter.
    assert model.evaluate(x, x[:, :1], verbose=0) < (start if kind == "constant damping" else start / 4)
    assert int(model.optimizer.rejected_steps) <= 1


def test_a_wide_linear_model_does_not_rise_far_before_it_learns():
    """It was at eight times its start after three epochs; seeds differ from 1.2 to 2.4."""
    x = np.random.default_rng(0).normal(size=(60, 2000)).astype("float32")
    y = np.random.default_rng(1).normal(size=(60, 1))
    model = kfisher.Sequential([keras.Input((2000,)), keras.layers.Dense(1)])
    model.compile(NaturalGradient(seed=0), "mse")
    losses = [model.evaluate(x, y, verbose=0)]
    for _ in range(10):
        model.fit(x, y, batch_size=16, verbose=0)
        losses.append(model.evaluate(x, y, verbose=0))
    assert max(losses) < 4 * losses[0] and losses[-1] < losses[0]


@pytest.mark.parametrize("inputs, grows", [(200, True), (3, False)])
def test_caution_grows_with_more_inputs_than_examples_and_else_not(inputs, grows):
    x = np.random.default_rng(1).normal(size=(128, inputs)).astype("float32")
    model = kfisher.Sequential([keras.Input((inputs,)), *dense(20, 1)()])
    model.compile(NaturalGradient(seed=0), "mse")
    cautions = []
    read = keras.callbacks.LambdaCallback()
    read.on_train_batch_end = lambda batch, logs: cautions.append(float(model.optimizer._adaptive.caution))
    model.fit(x, x[:, :1], batch_size=16, epochs=4, verbose=0, callbacks=[read])
    assert max(cautions) > 10 if grows else max(cautions) == 1.0
