"""The promises of a step that needs no tuning: bounded, judged on the next batch, taken back, and said."""

import itertools
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import EAGER, network, weights

import kfisher
from kfisher._common.vectors import flatten, unflatten
from kfisher.curvature import EKFAC, KFAC, Diagonal
from kfisher.damping import LevenbergMarquardt
from kfisher.optimizers import EmpiricalNaturalGradient, ImprovedEmpiricalFisher, NaturalGradient

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 3))
LABELS = (X @ RNG.normal(size=(3, 3))).argmax(1)
TARGETS = X @ RNG.normal(size=(3, 2)) + 0.1 * RNG.normal(size=(64, 2))


def state(optimizer):
    return {v.path: v.numpy() for v in optimizer.variables}


def spoil(model):
    """Weights as after a step that went wrong; no step is that long."""
    for layer in (model.layers[0], model.layers[-1]):
        layer.kernel.assign(-100.0 * layer.kernel)


# --- no update leaves the trust region ------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "curvature, fisher, momentum",
    [
        *((curvature, "exact", m) for curvature in ("dense", "gram", "matrix_free") for m in (0.0, 0.9)),
        ("gram", "sampled", 0.9),
        ("gram", "empirical", 0.0),
        ("matrix_free", "empirical", 0.9),
    ],
)
def test_no_update_exceeds_its_trust_region_whatever_makes_it(curvature, fisher, momentum):
    """A Normal with a mean that is linear in the weights, where KL(p || p') is |f - f'|^2 / C."""
    c = 0.01
    options = {"curvature": curvature, "damping": 1e-6, "momentum": momentum, "trust_region": c}
    optimizer = NaturalGradient(64.0, fisher, seed=0, **options)
    model = network(optimizer, keras.layers.Identity(), loss="mse", outputs=2)
    found = []
    for n in range(12):
        batch = slice(8 * (n % 4), 8 * (n % 4) + 8)
        before = model(X[batch]).numpy()
        model.train_on_batch(X[batch], TARGETS[batch])
        found.append(np.mean(np.sum((model(X[batch]).numpy() - before) ** 2, 1)) / 2)
    assert max(found) <= c * (1 + 1e-9)
    assert max(found) > 0.5 * c
    assert int(model.optimizer.rejected_steps) == 0


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("curvature", [KFAC, EKFAC, Diagonal])
def test_the_trust_region_holds_in_the_running_curvature(curvature, momentum):
    """v^T (F + damping I) v / 2 of the whole update, by the matrix that the curvature solves with."""
    every = {"invert_every": 1} if curvature is KFAC else {"basis_every": 1} if curvature is EKFAC else {}
    running = curvature(update_every=1, **every)
    options = {"curvature": running, "damping": 1e-3, "momentum": momentum, "trust_region": 0.02}
    optimizer = NaturalGradient(8.0, seed=0, **options)
    model = network(optimizer, **EAGER)
    lengths, solve = [], solver(optimizer, model)
    for _ in range(4):
        before = weights(model)
        model.train_on_batch(X, LABELS)
        change = weights(model) - before
        inverse = np.stack([flatten(solve(v)).numpy() for v in tf.eye(len(change), dtype=tf.float64)], 1)
        lengths.append(change @ np.linalg.solve(inverse, change) / 2)
    assert 0.019 < max(lengths) <= 0.02 * (1 + 1e-9)


def solver(optimizer, model):
    """(F + damping I)^{-1} v, as the curvature of the last step has it."""
    start, batch = [w.value for w in model.trainable_variables], types.SimpleNamespace(xla=False)
    return tf.function(lambda v: optimizer.curvature.solve(batch, unflatten(v, start), optimizer.damping))


@pytest.mark.usefixtures("float64")
def test_the_region_is_a_share_of_the_loss_by_default(monkeypatch):
    monkeypatch.setattr("kfisher.optimizers._step_size._CLOSE", 1e9)  # by the region alone
    model = network(NaturalGradient(64.0, "exact", "dense", damping=1e-12), **EAGER)
    first = model.evaluate(X, LABELS, verbose=0)
    for _ in range(2):
        matrix, before = kfisher.FisherOperator(model, X).to_dense().numpy(), weights(model)
        model.train_on_batch(X, LABELS)
        change = weights(model) - before
        assert change @ matrix @ change / 2 == pytest.approx(0.003 * first, rel=1e-4)


def test_the_scale_of_the_target_changes_nothing():
    """Nor does that of the loss: two runs, one with labels and outputs in other units, end alike."""
    found = []
    for scale in (1.0, 1024.0):
        last = keras.layers.Dense(2, kernel_initializer="zeros")
        model = kfisher.Sequential([keras.Input((3,)), last])
        model.compile(NaturalGradient(0.5, "exact", "dense", damping=1e-12), "mse")
        losses = [model.train_on_batch(X, scale * TARGETS) for _ in range(20)]
        found.append(np.array(losses) / scale**2)
    assert np.allclose(*found, rtol=1e-3)
    assert found[0][-1] < found[0][0]


# --- what went wrong is taken back ------------------------------------------------------------------------


MODES = {"graph": {}, "eager": EAGER, "xla": {"jit_compile": True}}
# Under XLA weights that are not finite are taken back quickly, in robustness_test.
SLOW = {("gram", "graph"): [pytest.mark.slow]}
SLOW |= {(curvature, "xla"): [pytest.mark.slow, pytest.mark.by_hand] for curvature in ("kfac", "gram")}


@pytest.mark.parametrize(
    "curvature, mode",
    [pytest.param(*pair, marks=SLOW.get(pair, [])) for pair in itertools.product(["kfac", "gram"], MODES)],
)
def test_a_rejected_step_leaves_no_trace(curvature, mode):
    normalisation = keras.layers.BatchNormalization()
    optimizer = NaturalGradient(fisher="exact", curvature=curvature, momentum=0.5, use_ema=True, seed=0)
    model = network(optimizer, keras.layers.Dense(4, "tanh"), normalisation, **MODES[mode])
    for _ in range(3):
        model.train_on_batch(X, LABELS)
    before, own = [v.numpy() for v in model.trainable_variables], state(optimizer)
    model.train_on_batch(X, LABELS)
    spoil(model)
    rejected = int(optimizer.rejected_steps)
    statistics = normalisation.moving_mean.numpy()  # of a good batch with good weights
    model.train_on_batch(X, LABELS)
    assert int(optimizer.rejected_steps) == rejected + 1 and int(optimizer.iterations) == 5
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, model.trainable_variables))
    assert np.array_equal(normalisation.moving_mean.numpy(), statistics)
    after = state(optimizer)
    for name, value in own.items():
        if ("momentum" in name or "average" in name.rpartition("/")[2]) and not name.endswith("previous"):
            assert np.array_equal(after[name], value), name
    model.train_on_batch(X, LABELS)
    assert int(optimizer.rejected_steps) == rejected + 1 and np.isfinite(weights(model)).all()


def test_after_a_rejection_steps_are_shorter_and_damping_is_larger():
    optimizer = NaturalGradient(seed=0)
    model = network(optimizer)
    for _ in range(2):
        model.train_on_batch(X, LABELS)
    before = float(optimizer.damping)
    spoil(model)
    model.train_on_batch(X, LABELS)
    assert float(optimizer.damping) == pytest.approx(10 * before)
    assert float(optimizer.guard.memory.read().confidence) == pytest.approx(0.25)
    for _ in range(140):
        model.train_on_batch(X, LABELS)
    # That of the policy for as many examples as the averages hold.
    assert float(optimizer.damping) == pytest.approx(16 * 5e-3 / float(optimizer.curvature.examples))
    assert float(optimizer.guard.memory.read().confidence) == pytest.approx(1.0)


DEFAULTS = {
    "kfac": lambda: NaturalGradient(seed=0),
    "ekfac": lambda: NaturalGradient(curvature="ekfac", seed=0),
    "diagonal": lambda: NaturalGradient(curvature="diagonal", seed=0),
    "gram": lambda: NaturalGradient(curvature="gram", seed=0),
    "empirical": lambda: EmpiricalNaturalGradient(seed=0),
    "improved": lambda: ImprovedEmpiricalFisher(seed=0),
    "momentum": lambda: NaturalGradient(momentum=0.9, seed=0),
    "quadratic model": lambda: NaturalGradient(step="quadratic_model", damping=LevenbergMarquardt(), seed=0),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_poisoned_batch_costs_at_most_its_own_step(name):
    """Labels of another problem, a million times as large: neither weights nor curvature take it in."""
    optimizer = DEFAULTS[name]()
    model = network(optimizer, loss="mse", outputs=2)
    for _ in range(16):  # the next one refreshes the factors, too
        model.train_on_batch(X, TARGETS)
    before, own = weights(model), state(optimizer)
    model.train_on_batch(X, 1e6 * RNG.normal(size=TARGETS.shape))
    assert np.array_equal(before, weights(model)) and int(optimizer.skipped_steps) == 1
    after = state(optimizer)
    changed = [name for name in own if not np.array_equal(own[name], after[name])]
    changed = [name for name in changed if not name.endswith("inverse")]  # of the same averages
    taken_in = ("input_factor", "output_factor", "/diagonal", "eigenvalues", "momentum", "loss_", "updates")
    assert not [name for name in changed if any(word in name for word in taken_in)]
    losses = [model.train_on_batch(X, TARGETS) for _ in range(10)]
    assert losses[-1] < losses[0] and int(optimizer.skipped_steps) == 1


def test_a_problem_that_changes_for_good_is_followed():
    optimizer = NaturalGradient(seed=0)
    model = network(optimizer, keras.layers.Identity(), loss="mse", outputs=2)
    for _ in range(10):
        model.train_on_batch(X, TARGETS)
    losses = [model.train_on_batch(X, 1e4 * TARGETS) for _ in range(30)]
    assert int(optimizer.skipped_steps) == 10 and losses[-1] < losses[10]


@pytest.mark.parametrize("name", ["kfac", "gram", "quadratic model"])
def test_a_resumed_run_repeats_rejections_and_adaptations_bit_for_bit(name, tmp_path):
    model = network(DEFAULTS[name](), **EAGER)

    def train(model, steps):
        for n in range(*steps):
            batch = slice(16 * (n % 4), 16 * (n % 4) + 16)
            if n in (3, 8):
                spoil(model)
            model.train_on_batch(X[batch], LABELS[batch])

    train(model, (0, 6))
    assert int(model.optimizer.rejected_steps) == 1
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for m in (model, loaded):
        train(m, (6, 12))
    assert int(model.optimizer.rejected_steps) == 2
    assert np.array_equal(weights(model), weights(loaded))
    pairs = zip(model.optimizer.variables, loaded.optimizer.variables)
    assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs)


# --- divergence is said at once -----------------------------------------------------------------------------


class Notes(keras.callbacks.Callback):
    """The step at which each warning was given."""

    def __init__(self, caught):
        super().__init__()
        self.caught, self.seen = caught, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(len([w for w in self.caught if "NaturalGradient" in str(w.message)]))


@pytest.mark.parametrize(
    "attached, mode, step",
    [
        (False, "graph", 8),
        (True, "eager", 8),
        (True, "xla", 9),
        pytest.param(True, "graph", 8, marks=pytest.mark.slow),
        pytest.param(False, "xla", 9, marks=[pytest.mark.slow, pytest.mark.by_hand]),
    ],
)
def test_divergence_is_said_in_the_middle_of_fit_once_with_what_was_seen(attached, mode, step):
    x = X.copy()
    x[16:] = np.nan
    model = whole = network(NaturalGradient(), keras.layers.Identity())
    if attached:
        model = kfisher.attach(keras.Sequential(whole.layers))
    optimizer = NaturalGradient(0.125, curvature="gram", damping=0.5, seed=0)
    model.compile(optimizer, whole.loss, **MODES[mode])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        notes = Notes(caught)
        model.fit(x, LABELS, batch_size=4, shuffle=False, verbose=0, callbacks=[notes])
    # Four good steps, then the fifth bad one in a row; under XLA every tenth step is looked at.
    assert notes.seen.index(1) == step
    assert notes.seen[-1] == 1
    (message,) = [str(w.message) for w in caught if "not getting on" in str(w.message)]
    bad = f"{step - 3} were skipped (in {step - 3}, the inputs were not finite)"
    assert bad in message and "Look at the data" in message
    assert "learning_rate" not in message  # no setting is to blame


def test_a_loss_that_is_not_finite_from_the_start_is_put_down_to_the_model():
    model = kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(1, "exponential")])
    model.compile(NaturalGradient(seed=0), "poisson")
    with pytest.warns(UserWarning, match="not getting on.*activation of the last layer.*No setting"):
        model.fit(1e4 * X, np.ones((64, 1)), batch_size=4, verbose=0)


def test_a_scale_of_the_loss_that_has_to_come_down_first_is_no_trouble():
    """As it does in half precision: each overflow halves it."""
    inner = NaturalGradient(seed=0)
    model = network(keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**127))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, LABELS, batch_size=4, epochs=2, sample_weight=np.full(64, 1e3), verbose=0)
    assert int(inner.skipped_steps) > 5 and int(inner.failed_steps) == 0
    assert not [w for w in caught if "not getting on" in str(w.message)]


def test_settings_are_named_where_the_data_are_not_to_blame():
    optimizer = NaturalGradient(0.125, curvature="gram", damping=0.5, seed=0)
    model = network(optimizer)
    optimizer.learning_rate.assign(np.nan)
    with pytest.warns(UserWarning, match="not getting on") as caught:
        model.fit(X, LABELS, batch_size=4, verbose=0)
    (message,) = [str(w.message) for w in caught if "not getting on" in str(w.message)]
    named = ("(in 5, the update was not finite", "learning_rate=nan", "damping=0.5", "trust_region='auto'")
    assert all(words in message for words in named)


def test_other_data_than_before_are_said_to_be_some_and_then_followed():
    """Shorter steps would be the opposite of what is needed."""
    model = network(NaturalGradient(seed=0), loss="mse", outputs=1)
    y = X[:, :1]
    model.fit(np.tile(X, (10, 1)), np.tile(y, (10, 1)), batch_size=16, verbose=0)
    far = 1e4 + 1e3 * y
    start = model.evaluate(X, far, verbose=0)
    with pytest.warns(UserWarning, match="not getting on") as caught:
        model.fit(np.tile(X, (30, 1)), np.tile(far, (30, 1)), batch_size=16, verbose=0)
    (message,) = [str(w.message) for w in caught if "not getting on" in str(w.message)]
    assert "If these are other data than before" in message and "learning_rate" not in message
    assert int(model.optimizer.skipped_steps) == 10
    assert model.evaluate(X, far, verbose=0) < 0.5 * start


def test_fit_can_end_instead(capsys):
    x = X.copy()
    x[16:] = np.nan
    model = network(NaturalGradient(seed=0), **EAGER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stop = kfisher.callbacks.TerminateOnDivergence()
        model.fit(x, LABELS, batch_size=4, shuffle=False, verbose=0, callbacks=[stop])
    assert int(model.optimizer.iterations) == 9
    assert "Training ends at step 9" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_loss_far_above_its_start_is_said_in_the_middle_of_fit_once(mode):
    model = network(NaturalGradient(seed=0), **MODES[mode])
    model.train_on_batch(X, LABELS)
    memory = model.optimizer.guard.memory
    memory.change(judged=100, level=1000 * memory.read().start)
    with pytest.warns(UserWarning, match="diverges: the loss is .* on average, and began at") as caught:
        for _ in range(3):
            model.train_on_batch(X, LABELS)
    assert len([w for w in caught if "diverges" in str(w.message)]) == 1


def test_a_loss_far_above_its_start_is_said():
    """The textbook step without a guard says nothing; with a wide region, what no single step did is seen."""
    optimizer = NaturalGradient(1e-3, trust_region=1e4, seed=0)
    model = network(optimizer, **EAGER)
    model.train_on_batch(X, LABELS)
    assert optimizer.trouble() is None
    memory = optimizer.guard.memory
    memory.change(level=12 * memory.read().start)
    assert "diverges" in optimizer.trouble()
    memory.change(start=0.001)  # of a loss that is not positive: the start alone says nothing
    for level, said in ((0.9, False), (11.0, True)):
        memory.change(level=level * memory.read().best_size)
        assert bool(optimizer.trouble()) == said


# --- curvature as fresh as needed ------------------------------------------------------------------------


def test_factors_are_made_anew_where_the_weights_have_moved_far():
    counts, curvature = {}, KFAC(update_every=16, invert_every=16)
    model = network(NaturalGradient(1e-6, curvature=curvature, seed=0))
    model.optimizer.build(model.trainable_variables)
    start = [(v, v.numpy()) for v in model.variables + model.optimizer.variables]
    for rate in (1e-6, 64.0):
        for variable, value in start:
            variable.assign(value)
        model.optimizer.learning_rate = rate
        for _ in range(63):
            model.train_on_batch(X, LABELS)
        counts[rate] = int(curvature.updates.numpy()), int(curvature.factorisations.numpy())
    assert counts[1e-6] == (8, 8)  # steps 0, 1, 2, 4, 8, 16, 32, 48
    assert counts[64.0] == (11, 11)  # and 24, 40, 56


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_layer_with_one_output_is_solved_exactly(outputs):
    """Regression and binary heads: B is a number, and (A + lambda / b I) b is the block, damping included."""
    curvature, damping = KFAC(update_every=1, invert_every=1), 0.1
    optimizer = NaturalGradient(1.0, "exact", curvature, damping=damping, trust_region=None)
    model = network(optimizer, keras.layers.Identity(), loss="mse", outputs=outputs, **EAGER)
    matrix = kfisher.FisherOperator(model, X).to_dense().numpy()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(X) - TARGETS[:, :outputs]) ** 2)
    gradient = np.concatenate([np.ravel(g) for g in tape.gradient(loss, model.trainable_variables)])
    before = weights(model)
    model.train_on_batch(X, TARGETS[:, :outputs])
    expected = -np.linalg.solve(matrix + damping * np.eye(len(matrix)), gradient)
    error = np.linalg.norm(weights(model) - before - expected) / np.linalg.norm(expected)
    assert (error < 1e-8) == (outputs == 1)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("curvature", ["matrix_free", "gram", "dense"])
def test_lengths_are_those_of_the_matrix_that_is_solved_with(curvature):
    """x^T (F + damping I) x = x . v for x = (F + damping I)^{-1} v, for the same F."""
    optimizer = NaturalGradient(fisher="exact", curvature=curvature, damping=0.125, trust_region=None)
    model = network(optimizer, **EAGER)
    for _ in range(2):
        model.train_on_batch(X, LABELS)
    optimizer.observe(model, X, LABELS)
    seen = optimizer.batch
    with tf.GradientTape() as tape:
        loss = model.compute_loss(X, LABELS, model(X, training=True))
    v = tape.gradient(loss, [w.value for w in model.trainable_variables])
    damping = tf.constant(0.125, tf.float64)
    x = optimizer.curvature.solve(seen, v, damping)
    product = sum(float(tf.reduce_sum(a * b)) for a, b in zip(x, v))
    tolerance = 1e-3 if curvature == "matrix_free" else 1e-9  # of conjugate gradients
    found = optimizer.curvature.squared_length(seen, v, x, damping)
    assert float(found) == pytest.approx(product, rel=tolerance)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
def test_factors_of_a_large_batch_are_those_of_every_kth_example(reduction):
    """Four times as many examples as are wanted; where the loss is their sum, all are taken."""
    found = []
    for limit, rows in ((16, X), (None, X[::4]), (None, X)):
        curvature = KFAC(max_examples=limit)
        loss = keras.losses.MeanSquaredError(reduction=reduction)
        model = network(NaturalGradient(0.0, "exact", curvature), loss=loss, outputs=2, **EAGER)
        model.train_on_batch(rows, TARGETS[:: 64 // len(rows)])
        found.append(np.concatenate([v.numpy().ravel() for pair in curvature.averages for v in pair]))
    same, other = (1, 2) if reduction == "sum_over_batch_size" else (2, 1)
    assert np.allclose(found[0], found[same], rtol=1e-5)
    assert not np.allclose(found[0], found[other], rtol=1e-2)
