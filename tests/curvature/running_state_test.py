"""Running curvature over many steps: accumulation, failures, saving, and what each variable gets."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import models
from helpers.models import flat
from keras import layers

import kfisher
from kfisher.curvature import EKFAC, KFAC, Dense, Diagonal, Gram, MatrixFree, _factorisation, kfac
from kfisher.damping import LevenbergMarquardt
from kfisher.optimizers import NaturalGradient, SophiaG

pytestmark = pytest.mark.usefixtures("float64")
RNG = np.random.default_rng(0)
X, LABELS, WEIGHTS = RNG.normal(size=(48, 3)), RNG.integers(0, 3, size=48), RNG.uniform(0.2, 2.0, size=48)


def perceptron(optimizer, **options):
    hidden = layers.Dense(4, "tanh", kernel_regularizer=keras.regularizers.L2(0.03))
    return models.eager([hidden, layers.Dense(3)], optimizer=optimizer, **options)


def arrays(variables):
    return [np.array(v) for v in variables]


def train(model, batches, size, weighted=False):
    """Some batches, by their numbers."""
    for i in batches:
        part = slice(size * i, size * (i + 1))
        model.train_on_batch(X[part], LABELS[part], WEIGHTS[part] if weighted else None)
    return flat(model.get_weights())


# --- gradient accumulation ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fisher, weighted",
    [pytest.param("exact", False, marks=pytest.mark.slow), ("exact", True), ("empirical", True)],
)
@pytest.mark.parametrize("make", [KFAC, Diagonal, lambda: KFAC(sharing="reduce", update_every=2)])
def test_steps_in_parts_are_those_on_the_whole_batch(make, fisher, weighted):
    options = {"fisher": fisher, "damping": 0.05, "momentum": 0.5, "trust_region": 0.1}
    parts = perceptron(NaturalGradient(0.5, curvature=make(), gradient_accumulation_steps=4, **options))
    whole = perceptron(NaturalGradient(0.5, curvature=make(), **options))
    found, expected = train(parts, range(12), 4, weighted), train(whole, range(3), 16, weighted)
    assert np.linalg.norm(expected - flat(perceptron(None).get_weights())) > 0.1
    assert np.max(np.abs(found - expected)) < 1e-9
    assert int(parts.optimizer.iterations) == 3


@pytest.mark.parametrize("weighted", [False, True])
def test_steps_in_parts_are_those_on_the_whole_batch_without_any_argument(weighted):
    """Also by how many examples F is known, and what the values of the loss weigh."""
    parts = perceptron(NaturalGradient(fisher="exact", gradient_accumulation_steps=4))
    whole = perceptron(NaturalGradient(fisher="exact"))
    found, expected = train(parts, range(12), 4, weighted), train(whole, range(3), 16, weighted)
    assert np.linalg.norm(expected - flat(perceptron(None).get_weights())) > 0.03
    assert np.max(np.abs(found - expected)) < 1e-6
    both = [float(m.optimizer.damping) for m in (parts, whole)]
    assert both[0] == pytest.approx(both[1], rel=1e-6)


def test_a_last_part_that_weighs_nothing_leaves_the_others_their_say():
    curvature = KFAC()
    model = perceptron(NaturalGradient(curvature=curvature, gradient_accumulation_steps=2))
    model.train_on_batch(X[:16], LABELS[:16])
    model.train_on_batch(X[16:32], LABELS[16:32], np.zeros(16))
    assert int(curvature.updates) == 1 and float(curvature.examples) == pytest.approx(16, rel=1e-6)


@pytest.mark.parametrize("curvature", [KFAC(), Diagonal()])
def test_examples_of_little_weight_hardly_count(curvature):
    """F is known as well as from (Σ w)² / Σ w² examples of the same weight."""
    model = perceptron(NaturalGradient(curvature=curvature))
    model.train_on_batch(X[:16], LABELS[:16], WEIGHTS[:16])
    expected = WEIGHTS[:16].sum() ** 2 / np.square(WEIGHTS[:16]).sum()
    assert float(curvature.examples) == pytest.approx(expected, rel=1e-6)
    model.train_on_batch(X[16:32], LABELS[16:32], np.eye(16)[3])
    assert float(curvature.examples) == pytest.approx(curvature.decay * expected + 1, rel=1e-6)


@pytest.mark.parametrize("curvature", [Gram(), Dense(), MatrixFree()])
def test_examples_of_little_weight_hardly_count_in_one_batch_either(curvature):
    model = perceptron(NaturalGradient(curvature=curvature))
    for weights in (WEIGHTS[:16], 1e-3 * WEIGHTS[:16], 0.5 * np.eye(16)[3]):
        model.train_on_batch(X[:16], LABELS[:16], weights)
        expected = weights.sum() ** 2 / np.square(weights).sum()
        assert float(curvature.examples) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("curvature", ["gram", "dense", "ekfac", "matrix_free"])
def test_curvature_of_one_batch_refuses_steps_in_parts(curvature):
    model = perceptron(NaturalGradient(0.5, curvature=curvature, gradient_accumulation_steps=2))
    with pytest.raises(ValueError, match="Received: gradient_accumulation_steps=2"):
        train(model, [0], 4)


# --- failures -----------------------------------------------------------------------------------------


def spoil(monkeypatch, calls):
    """NaN as the result of some factorisations, by their numbers; returns the damping of each."""
    damping, seen, count = kfac.factored_damping, [], iter(range(1000))
    eigensystems = _factorisation._lapack_eigensystems

    def spoilt(each):
        def results(*arrays):
            found, bad = each(*arrays), next(count) in calls
            if not bad:
                return found
            kept = each is eigensystems  # LAPACK's eigenvectors are then those of the identity
            return [
                np.tile(np.eye(v.shape[-1]), (len(v), 1, 1)) if kept and v.ndim == 3 else v * np.nan
                for v in found
            ]

        return results

    for name in ("_lapack_inverses", "_lapack_eigensystems"):
        monkeypatch.setattr(_factorisation, name, spoilt(getattr(_factorisation, name)))

    def recorded(blocks, pairs, dampings):
        seen.extend(float(lam) for lam in dampings)
        return damping(blocks, pairs, dampings)

    monkeypatch.setattr(kfac, "factored_damping", recorded)
    return seen


def held(curvature):
    """What a factorisation gives: all state but averages and counts."""
    if isinstance(curvature, EKFAC):
        return [q for pair in curvature.bases for q in arrays(pair)]
    return [np.array(v) for pair in curvature.inverses for kind in pair for v in kind.variables]


@pytest.mark.parametrize("make", [KFAC, EKFAC])
def test_a_failed_factorisation_leaves_the_last_good_one_and_raises_the_damping(make, monkeypatch):
    seen = spoil(monkeypatch, [1, 2])
    curvature = make(0.95, 1, 1)
    model = perceptron(NaturalGradient(0.5, "exact", curvature, damping=0.05))
    states, boosts = [], []
    for i in range(5):
        train(model, [i], 8)
        states.append(held(curvature))
        boosts.append(float(curvature.boosted(tf.constant(1.0, tf.float64))))
    same = [all(map(np.array_equal, a, b)) for a, b in zip(states, states[1:])]
    assert same == [True, True, False, False]
    assert int(curvature.failures) == 2 and boosts == [1, 10, 100, 1, 1]
    if isinstance(curvature, KFAC):
        # Of the last layer, which has no ridge: raised until a factorisation succeeds.
        assert np.allclose(seen[1::2], [0.05, 0.05, 0.5, 5.0, 0.05])
    assert np.isfinite(flat(model.get_weights())).all() and int(model.optimizer.skipped_steps) == 0


def test_fit_warns_once_of_failed_factorisations(monkeypatch, recwarn):
    spoil(monkeypatch, [1])
    model = perceptron(NaturalGradient(0.5, curvature=KFAC(invert_every=1), damping=0.05))
    for _ in range(2):
        model.fit(X, LABELS, batch_size=16, verbose=0)
    messages = [str(w.message) for w in recwarn if "factorisations" in str(w.message)]
    assert len(messages) == 1 and "1 factorisations of KFAC failed" in messages[0]


def test_a_step_without_any_factorisation_yet_is_skipped_and_the_next_one_tries_again(monkeypatch):
    spoil(monkeypatch, [0])
    model = perceptron(NaturalGradient(0.5, curvature=KFAC(invert_every=100), damping=0.05))
    start = flat(model.get_weights())
    assert np.array_equal(train(model, [0], 8), start)
    assert not np.array_equal(train(model, [1], 8), start)
    assert int(model.optimizer.skipped_steps) == 1


MODES = {
    "eager": {},
    "graph": {"run_eagerly": False},
    "xla": {"run_eagerly": False, "jit_compile": True},
}
RUNNING = ["kfac", "ekfac", "diagonal"]
# One of each mode is quick, and all of them eagerly; XLA compiles what the graph is, seconds each.
QUICK = [*((curvature, "eager") for curvature in RUNNING), ("ekfac", "graph"), ("kfac", "xla")]
MARKS = {pair: [pytest.mark.slow] for pair in itertools.product(RUNNING, MODES) if pair not in QUICK}
MARKS |= {(curvature, "xla"): [pytest.mark.slow, pytest.mark.by_hand] for curvature in ("ekfac", "diagonal")}


@pytest.mark.parametrize(
    "curvature, mode",
    [pytest.param(*pair, marks=MARKS.get(pair, [])) for pair in itertools.product(RUNNING, MODES)],
)
def test_a_batch_that_is_not_finite_leaves_all_averages_alone(curvature, mode):
    curvature = {"kfac": KFAC, "ekfac": EKFAC, "diagonal": Diagonal}[curvature](update_every=1)
    model = perceptron(NaturalGradient(0.5, "exact", curvature, damping=0.05, momentum=0.9), **MODES[mode])
    train(model, [0, 1], 8)
    counts = "iteration", "skipped_steps", "failed_steps_in_a_row", "past", "skipped_by_cause"
    counts += "factorisations", "path_since_factorisation"  # of averages that are the same
    own = [v for v in model.optimizer.variables if v.path.rpartition("/")[2] not in counts]
    before = arrays(own + model.weights)
    model.train_on_batch(np.where(np.arange(8)[:, None] == 3, np.nan, X[:8]), LABELS[:8])
    after = arrays(own + model.weights)
    assert all(map(np.array_equal, before, after))
    assert int(model.optimizer.skipped_steps) == 1
    assert np.isfinite(train(model, [2], 8)).all()


# --- saving and restoring -----------------------------------------------------------------------------


def natural(**kwargs):
    def make():
        optimizer = NaturalGradient(0.5, **{"damping": 0.05, "seed": 1, **kwargs})
        return NaturalGradient.from_config(optimizer.get_config())  # with a curvature of its own

    return make


OPTIMIZERS = {
    "kfac": natural(curvature=KFAC(0.9, 2, 4), momentum=0.9),
    "textbook": natural(curvature=KFAC(0.9, 2, 4), momentum=0.9, trust_region=None),
    "ekfac": natural(curvature=EKFAC(0.9, 2, 4)),
    "diagonal": natural(curvature=Diagonal(0.9)),
    "matrix free": natural(curvature=MatrixFree(3), fisher="exact"),
    "spring": natural(curvature=Gram(momentum=0.9)),
    "policy": natural(damping=LevenbergMarquardt(0.05, every=2)),
    "quadratic model": natural(step="quadratic_model", trust_region=1.0),
    "parts": natural(gradient_accumulation_steps=2, momentum=0.9),
    "sophia": lambda: SophiaG(0.125, seed=1, update_every=2),
}


ALIKE = {name: [pytest.mark.slow, pytest.mark.by_hand] for name in ("textbook", "matrix free")}


@pytest.mark.parametrize("name", [pytest.param(name, marks=ALIKE.get(name, ())) for name in OPTIMIZERS])
def test_a_run_that_is_stopped_in_the_middle_repeats_itself_exactly(name, tmp_path):
    """Saved and loaded; and as `BackupAndRestore` does it: built, and all variables assigned, then on."""
    whole, fresh = (perceptron(OPTIMIZERS[name]()) for _ in range(2))
    train(whole, range(3), 8)  # in parts: in the middle of a step
    whole.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    fresh.optimizer.build(fresh.trainable_variables)
    fresh.set_weights(whole.get_weights())
    assert [v.shape for v in fresh.optimizer.variables] == [v.shape for v in whole.optimizer.variables]
    for variable, value in zip(fresh.optimizer.variables, arrays(whole.optimizer.variables)):
        variable.assign(value)
    expected = train(whole, range(3, 6), 8)
    for model in (loaded, fresh):
        assert np.array_equal(train(model, range(3, 6), 8), expected)
        assert all(map(np.array_equal, arrays(model.optimizer.variables), arrays(whole.optimizer.variables)))


@pytest.mark.parametrize(
    "name",
    [
        "ekfac",
        "policy",
        "parts",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("kfac", "quadratic model")),
    ],
)
def test_graphs_repeat_what_is_done_eagerly(name):
    eager, graph = perceptron(OPTIMIZERS[name]()), perceptron(OPTIMIZERS[name](), run_eagerly=False)
    # Other orders of summation; a few steps enlarge them.
    assert np.allclose(train(eager, range(4), 8), train(graph, range(4), 8), rtol=1e-9, atol=1e-11)


# --- what each variable gets --------------------------------------------------------------------------


def zoo():
    pictures, ids = keras.Input((6, 6, 2)), keras.Input((4,), dtype="int32")
    h = layers.Conv2D(4, 3, groups=2, activation="tanh")(pictures)
    h = layers.SeparableConv2D(3, 2, activation="tanh")(h)
    h = layers.Dense(2)(layers.LayerNormalization()(layers.Flatten()(h)))
    words = layers.LSTM(2, unroll=True)(layers.Embedding(7, 3)(ids))
    return kfisher.Model([pictures, ids], layers.Dense(3)(layers.Concatenate()([h, words])))


@pytest.mark.parametrize("curvature", ["kfac", "ekfac", "diagonal", "gram", "dense", "matrix_free"])
def test_coverage_lists_every_variable_once_with_its_curvature(curvature):
    model = zoo()
    rows = kfisher.coverage(model, curvature)
    found = sorted(f"{row.layer}/{name}" for row in rows for name in row.variables)
    assert found == sorted(v.path for v in model.trainable_variables)
    assert all(row.curvature for row in rows) and "curvature" in str(rows)


def solved(curvature, number, gradient, damping):
    """The solution for a block in NumPy, from the factors that are held, with diagonals as matrices."""
    sides = ([np.diag(m) if m.ndim == 1 else m for m in np.array(v)] for v in curvature.averages[number])
    found = []
    for group, (a, b, g) in enumerate(zip(*sides, gradient)):
        one, two = np.eye(len(a)), np.eye(len(b))
        if isinstance(curvature, EKFAC):
            left, right = curvature.bases[number]
            left = one if left is None else np.array(left)[group]
            right = two if right is None else np.array(right)[group]
            s = np.array(curvature.eigenvalues[number])[group]
            found.append(left @ (left.T @ g @ right / (s + damping)) @ right.T)
        else:
            pi = np.sqrt(np.trace(a) / len(a) / (np.trace(b) / len(b)))
            left, right = pi * np.sqrt(damping), np.sqrt(damping) / pi
            if len(a) == 1:  # a number: all the damping goes to the other one
                left, right = 0, damping / a[0, 0]
            elif len(b) == 1:
                left, right = damping / b[0, 0], 0
            found.append(np.linalg.inv(a + left * one) @ g @ np.linalg.inv(b + right * two))
    return np.stack(found)


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_factors_too_large_are_diagonal_and_agree_with_what_coverage_says(kind):
    model = zoo()
    rows = kfisher.coverage(model, kind(max_factor_size=8))
    by_layer = {row.layer.rstrip("_0123456789"): row.curvature for row in rows}
    # 3 x 3 x 1 inputs and a bias for 2 outputs in each group; 27 flat values; 2 + 2 values and a bias.
    assert by_layer["conv2d"] == "diagonal 10 x 2, 2 groups"
    assert by_layer["embedding"] == "diagonal 7 x 3"
    assert [row.curvature for row in rows if row.layer.startswith("dense")] == ["diagonal 28 x 2", "5 x 3"]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    curvature = kind(max_factor_size=8)
    model.compile(NaturalGradient(0.1, "exact", curvature, damping=0.05), loss, run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    for block, (a, b) in zip(curvature.blocks, curvature.averages):
        assert (len(a.shape) == 3) == (block.inputs <= 8 and block.form != "lookup")
        assert (len(b.shape) == 3) == (block.outputs <= 8)
    before = arrays(model.trainable_variables)
    model.train_on_batch([RNG.normal(size=(5, 6, 6, 2)), RNG.integers(0, 7, size=(5, 4))], LABELS[:5])
    assert not any(map(np.array_equal, arrays(model.trainable_variables), before))
    for number, block in enumerate(curvature.blocks):
        g = RNG.normal(size=(block.groups, block.inputs, block.outputs))
        found = curvature.solve_block(number, tf.constant(g), tf.constant(0.05, g.dtype), False)
        assert np.allclose(found, solved(curvature, number, g, 0.05), rtol=1e-9, atol=1e-9)
