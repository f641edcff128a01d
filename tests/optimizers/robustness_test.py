"""What running curvature does with bad batches, odd models and wrong uses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import EAGER, crossentropy, network, weights

import kfisher
from kfisher.curvature import EKFAC, KFAC, Gram, MatrixFree
from kfisher.damping import LevenbergMarquardt
from kfisher.optimizers import ImprovedEmpiricalFisher, NaturalGradient

RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(8, 3)).astype("float32"), RNG.integers(0, 3, size=8)


def spoilt():
    x = X.copy()
    x[0, 0] = np.nan
    return x


@pytest.mark.parametrize(
    "curvature, mode",
    [
        *[(curvature, EAGER) for curvature in ("kfac", "ekfac", "diagonal", "dense")],
        *[(curvature, {}) for curvature in ("gram", "matrix_free")],  # running ones in graphs: running_state
    ],
)
def test_after_a_batch_that_is_not_finite_training_goes_on(curvature, mode):
    model = network(NaturalGradient(0.1, curvature=curvature, seed=0), **mode)
    model.train_on_batch(X, LABELS)
    before = weights(model)
    model.train_on_batch(spoilt(), LABELS)
    assert np.array_equal(before, weights(model)) and int(model.optimizer.skipped_steps) == 1
    model.train_on_batch(X, LABELS)
    assert np.isfinite(weights(model)).all() and not np.array_equal(before, weights(model))


MODES = {"graph": {}, "eager": EAGER, "xla": {"jit_compile": True}}
SLOW = {"graph": pytest.mark.slow}


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=SLOW.get(mode, ())) for mode in MODES])
def test_weights_that_are_not_finite_are_taken_back(mode):
    """The loss, too, is then NaN, and compares with nothing."""
    curvature = "gram" if mode == "xla" else "kfac"  # which is compiled sooner
    model = network(NaturalGradient(curvature=curvature, seed=0), **MODES[mode])
    for rejected, value in enumerate((np.nan, np.inf), 1):
        for _ in range(3):
            before = weights(model)
            model.train_on_batch(X, LABELS)
        model.layers[-1].kernel.assign(np.full((4, 3), value))
        model.train_on_batch(X, LABELS)
        assert int(model.optimizer.rejected_steps) == rejected, value
        assert int(model.optimizer.skipped_steps) == 0, value
        assert np.array_equal(weights(model), before), value


@pytest.mark.parametrize("curvature, mode", [("kfac", {}), ("diagonal", EAGER)])
def test_a_bad_part_of_a_step_spoils_that_step_alone(curvature, mode):
    normalization = keras.layers.BatchNormalization()
    optimizer = NaturalGradient(0.1, curvature=curvature, gradient_accumulation_steps=2, seed=0)
    model = network(optimizer, keras.layers.Dense(4, "tanh"), normalization, **mode)
    for skipped, bad in enumerate((0, 1), 1):  # the first or the last part
        for part in range(2):
            held = normalization.moving_mean.numpy()
            model.train_on_batch(spoilt() if part == bad else X, LABELS)
            assert part != bad or np.array_equal(held, normalization.moving_mean)
        assert int(optimizer.skipped_steps) == skipped, bad
        assert int(optimizer.curvature.updates.numpy()) == 0, bad
        assert np.isfinite(normalization.moving_mean.numpy()).all(), bad
    before = weights(model)
    for _ in range(6):  # up to the next step at which averages are due
        model.train_on_batch(X, LABELS)
    assert int(optimizer.skipped_steps) == 2 and int(optimizer.curvature.updates.numpy()) > 0
    assert np.isfinite(weights(model)).all() and not np.array_equal(before, weights(model))


def test_a_batch_in_which_no_example_counts_leaves_the_averages_alone():
    curvature = KFAC(update_every=1)
    model = network(NaturalGradient(0.1, curvature=curvature, seed=0), **EAGER)
    model.train_on_batch(X, LABELS)
    before = [v.numpy() for pair in curvature.averages for v in pair]
    model.train_on_batch(X, LABELS, sample_weight=np.zeros(8))
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, sum(curvature.averages, [])))


def test_rounding_makes_no_eigenvalue_of_ekfac_negative():
    """Eighty units on eight examples of large numbers: factors of low rank in float32."""
    curvature = EKFAC(update_every=1, basis_every=1)
    hidden = keras.layers.Dense(80, "relu")
    model = network(NaturalGradient(1e-3, curvature=curvature, seed=0), hidden, **EAGER)
    for _ in range(3):
        model.train_on_batch(255 * X, LABELS)
    assert min(float(tf.reduce_min(s.value)) for s in curvature.eigenvalues) >= 0


@pytest.mark.parametrize("curvature", ["kfac", "ekfac"])
def test_scale_and_shift_are_solved_exactly(curvature):
    """One block of 8, its damping included: they change by (F + lambda I)^{-1} g of the batch."""
    layer, damping = keras.layers.LayerNormalization(), 1e-3
    optimizer = NaturalGradient(1.0, "exact", curvature, damping=damping, trust_region=None)
    model = network(optimizer, keras.layers.Dense(4, "tanh"), layer, **EAGER)
    owned = {id(v) for v in layer.trainable_variables}
    own = [i for i, v in enumerate(model.trainable_variables) if id(v) in owned]
    where = np.concatenate([np.full(v.shape, i).ravel() for i, v in enumerate(model.trainable_variables)])
    rows = np.isin(where, own)
    matrix = kfisher.FisherOperator(model, X, training=True).to_dense().numpy()[np.ix_(rows, rows)]
    with tf.GradientTape() as tape:
        loss = crossentropy()(LABELS, model(X, training=True))
    gradient = tape.gradient(loss, [v.value for v in layer.trainable_variables])
    gradient = np.concatenate([g.numpy().ravel() for g in gradient])
    before = np.concatenate([v.numpy() for v in layer.trainable_variables])
    model.train_on_batch(X, LABELS)
    change = np.concatenate([v.numpy() for v in layer.trainable_variables]) - before
    expected = -np.linalg.solve(matrix + damping * np.eye(8), gradient)
    assert np.linalg.norm(change - expected) < 1e-2 * np.linalg.norm(expected)  # float32, condition 1e3


@pytest.mark.parametrize("kind", ["improved", "spring", "matrix_free"])
def test_the_trust_region_holds_where_the_step_is_no_solve_with_the_gradient(kind):
    radius, damping = 1e-3, 0.01
    curvature = {"improved": Gram(), "spring": Gram(0.9), "matrix_free": MatrixFree(2)}[kind]
    options = {"damping": damping, "trust_region": radius, "curvature": curvature}
    if kind == "improved":
        optimizer, fisher = ImprovedEmpiricalFisher(1.0, **options), "empirical"
    else:
        optimizer, fisher = NaturalGradient(1.0, "exact", **options), "exact"
    model = network(optimizer, **EAGER)
    for _ in range(4):
        matrix = kfisher.FisherOperator(model, X, LABELS, fisher=fisher).to_dense().numpy()
        before = weights(model)
        model.train_on_batch(X, LABELS)
        change = weights(model) - before
        assert (change @ matrix @ change + damping * change @ change) / 2 < 1.01 * radius
    assert int(optimizer.rejected_steps) == 0


def test_levenberg_marquardt_counts_losses_that_layers_add():
    """A step of almost nothing, in which the model of the whole loss is right: lambda falls."""
    policy = LevenbergMarquardt(1.0, every=1)
    hidden = keras.layers.Dense(4, "tanh", activity_regularizer=keras.regularizers.L2(30.0))
    model = network(NaturalGradient(1e-4, "exact", "dense", damping=policy), hidden, **EAGER)
    for _ in range(2):  # each step is judged at the next
        model.train_on_batch(X, LABELS)
    assert float(model.optimizer.damping) == pytest.approx(0.95)


@pytest.mark.parametrize("units, times, follow", [(4, 1.3, 0), (4, 2, 1), (300, 2, 0), (300, 4, 1)])
def test_inverses_follow_a_damping_that_moves(units, times, follow):
    """Those of small factors soon, of others, which take long, later."""
    curvature = KFAC(update_every=1, invert_every=1000)
    optimizer = NaturalGradient(1e-3, curvature=curvature, damping=1e-2, seed=0)
    model = network(optimizer, keras.layers.Dense(units, "tanh"), **EAGER)
    for _ in range(5):  # past the steps at which all is made anew
        model.train_on_batch(X, LABELS)
    made = int(curvature.factorisations.numpy())
    model.train_on_batch(X, LABELS)
    assert int(curvature.factorisations.numpy()) == made
    for damping in (1e-2 / times, 1e-2):
        model.optimizer.damping = damping
        model.train_on_batch(X, LABELS)
        made += follow
        assert int(curvature.factorisations.numpy()) == made


@pytest.mark.parametrize("curvature", ["kfac", Gram(0.5), "matrix_free"])
def test_state_is_not_lent_to_other_variables(curvature):
    model = network(NaturalGradient(0.1, curvature=curvature, seed=0), **EAGER)
    model.train_on_batch(X, LABELS)
    model.layers[0].trainable = False
    model.compile(model.optimizer, crossentropy())
    with pytest.raises(ValueError, match="trainable variables of the model are not those"):
        model.train_on_batch(X, LABELS)


def test_a_configuration_goes_with_another_model():
    first = network(NaturalGradient(0.1, seed=0), **EAGER)
    first.train_on_batch(X, LABELS)
    optimizer = NaturalGradient.from_config(first.optimizer.get_config())
    second = network(optimizer, keras.layers.Dense(5, "tanh"), keras.layers.Dense(2), **EAGER)
    second.train_on_batch(X, LABELS)
    assert [block.inputs for block in optimizer.curvature.blocks] == [4, 6, 3]


@pytest.mark.parametrize("option", [{"step": "quadratic_model"}, {"damping": LevenbergMarquardt()}])
def test_parts_of_a_step_are_refused_where_the_whole_batch_is_needed(option):
    model = network(NaturalGradient(gradient_accumulation_steps=2, **option))
    with pytest.raises(ValueError, match="gradient_accumulation_steps=2"):
        model.train_on_batch(X, LABELS)


@pytest.mark.parametrize(
    "policy", [pytest.param("float32", marks=[pytest.mark.slow, pytest.mark.by_hand]), "mixed_float16"]
)
def test_a_compiled_run_in_single_and_half_precision_repeats_itself_after_loading(policy, tmp_path):
    """With batch statistics and drawn labels, through `fit`. (Keras saves no seed of Dropout.)"""
    keras.config.set_dtype_policy(policy)
    try:
        hidden = [keras.layers.Dense(4, "tanh"), keras.layers.BatchNormalization()]
        model = network(NaturalGradient(0.05, damping=0.1, momentum=0.5, trust_region=0.1, seed=1), *hidden)
        model.fit(X, LABELS, batch_size=4, epochs=3, shuffle=False, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        for m in (model, loaded):
            m.fit(X, LABELS, batch_size=4, epochs=3, shuffle=False, verbose=0)
        assert np.array_equal(weights(model), weights(loaded)) and np.isfinite(weights(model)).all()
    finally:
        keras.config.set_dtype_policy("float32")


def test_strategies_with_a_single_replica():
    def trained(strategy):
        keras.utils.set_random_seed(1)
        with strategy.scope():
            model = network(NaturalGradient(0.1, seed=0), keras.layers.Identity())
        model.fit(X, LABELS, batch_size=8, epochs=2, verbose=0)
        assert model.optimizer.skipped_steps.numpy() == 0
        return weights(model)

    alone = trained(tf.distribute.OneDeviceStrategy("CPU:0"))
    assert np.array_equal(alone, trained(tf.distribute.MirroredStrategy(["CPU:0"])))
