"""Every curvature solves the same system: against numpy.linalg.solve in float64."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import flat

import kfisher
from kfisher import fisher as fishers
from kfisher._common import memory
from kfisher.curvature._factorisation import cholesky_solve
from kfisher.jacobian.batch import Batch
from kfisher.optimizers import NaturalGradient

pytestmark = pytest.mark.usefixtures("float64")

RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(12, 3)), RNG.integers(0, 3, size=12)


def network(regularizer=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, "tanh", kernel_regularizer=regularizer),
            keras.layers.Dense(3, bias_regularizer=regularizer),
        ]
    )
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def system(model, fisher, size=None):
    """The batch, the dense Fisher with its regularisers, and the gradient of the loss Keras minimises."""
    x, labels = X[:size], LABELS[:size]
    data = tf.constant(x), tf.constant(labels), None
    batch = Batch(model, *data, fishers.get(fisher), tf.constant([0, 0]))
    with tf.GradientTape() as tape:
        loss = model.compute_loss(y=labels, y_pred=model(x))
    matrix = kfisher.FisherOperator(model, x, labels, fisher=fisher).to_dense().numpy()
    return batch, matrix, tape.gradient(loss, model.trainable_variables)


CURVATURES = [kfisher.curvature.Dense(), kfisher.curvature.Gram()]


@pytest.mark.parametrize("curvature", CURVATURES, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("fisher", ["exact", "sampled", "empirical"])
@pytest.mark.parametrize("regularizer", [None, "l2", keras.regularizers.L1L2(0.02, 0.03)])
def test_solve_equals_the_dense_float64_solve(curvature, fisher, regularizer):
    batch, matrix, gradient = system(network(regularizer), fisher)
    for damping in (1.0, 1e-3):
        x = flat(curvature.solve(batch, gradient, tf.constant(damping, tf.float64)))
        expected = np.linalg.solve(matrix + damping * np.eye(31), flat(gradient))
        # K has a condition of about 1 / damping.
        assert np.linalg.norm(x - expected) < 1e-11 / damping * np.linalg.norm(expected)


@pytest.mark.parametrize("fisher", ["exact", "empirical"])
def test_gram_keeps_the_solution_as_damping_goes_to_zero(fisher):
    """In float32, where the textbook form of Woodbury's identity has a single correct digit left."""
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    batch, _, gradient = system(network(), fisher, size=5)
    root = batch.square_root
    a, c = root.rows().numpy().astype("float64"), root.coordinates.numpy().ravel()
    u = np.linalg.solve(a @ a.T + 1e-8 * np.eye(len(a)), c)
    expected = a.T @ u

    def error():
        x = flat(kfisher.curvature.Gram().solve(batch, gradient, tf.constant(1e-8)))
        return np.linalg.norm(x - expected) / np.linalg.norm(expected)

    # Rounding of the kernel in float32 turns the solution by epsilon times its condition, the least damping
    # by twice that.
    rounding = 2**-23 * np.linalg.cond(a @ a.T + 1e-8 * np.eye(len(a)))
    ours = error()
    root.coordinates = None  # the textbook form
    assert ours < 3 * rounding < 0.05 and error() > 100 * ours


@pytest.mark.parametrize(
    "curvature, spread",
    [("gram", "offset"), ("gram", "mixed"), ("dense", "offset"), ("kfac", "mixed"), ("ekfac", "offset")],
)
def test_raw_inputs_in_single_precision_skip_no_step(curvature, spread):
    """The Gram matrix of a batch had eigenvalues below -damping, by rounding: most steps were skipped."""
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 20))
    x = 100 + z if spread == "offset" else z * 10.0 ** rng.uniform(-3, 4, 20)
    model = kfisher.Sequential([keras.Input((20,)), keras.layers.Dense(1)])
    model.compile(NaturalGradient(curvature=curvature, fisher="exact", seed=0), "mse")
    y = z @ rng.normal(size=(20, 1))
    losses = model.fit(x, y, epochs=8, verbose=0).history["loss"]
    assert int(model.optimizer.skipped_steps) == int(model.optimizer.rejected_steps) == 0
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("fisher, regularizer", [("sampled", None), ("exact", "l2")])
def test_gram_solves_for_one_damping_where_rounding_asks_for_more(fisher, regularizer):
    """All terms of Woodbury's identity take the same: the solution is that of the dense system with it."""
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    model = kfisher.Sequential([keras.Input((40,)), keras.layers.Dense(1, kernel_regularizer=regularizer)])
    model.compile(loss="mse")
    x, y = (300 + RNG.normal(size=(16, 40))).astype("float32"), np.ones((16, 1), "float32")
    batch = Batch(model, tf.constant(x), tf.constant(y), None, fishers.get(fisher), tf.constant([0, 0]))
    with tf.GradientTape() as tape:
        loss = model.compute_loss(y=y, y_pred=model(x))
    root, gradient = batch.square_root, tape.gradient(loss, model.trainable_variables)
    a, ridge = root.rows().numpy().astype("float64"), np.repeat(root.ridge, [40, 1])
    asked = 1e-3
    s = asked / (asked + ridge)
    least = 2 * 2**-23 * np.linalg.norm((a * s) @ a.T)
    assert least > 2 * asked
    expected = np.linalg.solve(a.T @ a + np.diag(least / s), flat(gradient))
    x = flat(kfisher.curvature.Gram().solve(batch, gradient, tf.constant(asked)))
    assert np.linalg.norm(x - expected) < 0.1 * np.linalg.norm(expected)


def test_a_gradient_from_elsewhere_is_not_ignored():
    """Gram knows the coordinates of the likelihood's gradient, and must still solve for another one."""
    batch, matrix, gradient = system(network(), "exact")
    other = [g + tf.random.stateless_normal(g.shape, [1, i], dtype=g.dtype) for i, g in enumerate(gradient)]
    x = flat(kfisher.curvature.Gram().solve(batch, other, tf.constant(0.1, tf.float64)))
    assert np.allclose(x, np.linalg.solve(matrix + 0.1 * np.eye(31), flat(other)), rtol=1e-9)


@pytest.mark.parametrize("size", [5, 600])  # on either side of where LAPACK takes over
@pytest.mark.parametrize("xla", [False, True])
def test_cholesky_solve_is_numpys_and_nan_where_there_is_no_solution(size, xla):
    a = RNG.normal(size=(size, size))
    matrix, right = a @ a.T + np.eye(size), RNG.normal(size=size)
    solve = tf.function(lambda m, b: cholesky_solve(m, b, xla), jit_compile=xla and size < 100)
    x = solve(tf.constant(matrix), tf.constant(right)).numpy()
    assert np.allclose(x, np.linalg.solve(matrix, right), rtol=1e-8, atol=1e-10)
    matrix[1, 1] = np.nan
    assert np.isnan(solve(tf.constant(matrix), tf.constant(right))).all()


@pytest.mark.parametrize("name", ["dense", "gram"])
def test_names_configs_and_instances_give_the_same_curvature(name):
    curvature = kfisher.curvature.get(name)
    assert kfisher.curvature.get(curvature) is curvature
    assert type(kfisher.curvature.get(keras.saving.serialize_keras_object(curvature))) is type(curvature)


@pytest.mark.parametrize("curvature", ["dense", "gram"])
def test_a_matrix_that_does_not_fit_into_memory_is_refused_before_it_is_made(curvature, monkeypatch):
    model = kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    model.compile(NaturalGradient(curvature=curvature), "mse")
    before = model.get_weights()
    monkeypatch.setattr(memory, "available", lambda: 500.0)
    message = "matrix.*(would take|would not fit).*available.*kfac.*matrix_free"
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
        model.fit(np.ones((8, 3)), np.ones((8, 4)), batch_size=8, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


@pytest.mark.parametrize("missing", [0, 1])
def test_the_dense_matrix_asks_for_its_bytes_and_those_of_its_damped_copy(missing, monkeypatch):
    model = kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    model.compile(NaturalGradient(curvature="dense"), "mse")
    monkeypatch.setattr(memory, "available", lambda: 2 * 8 * 16**2 - missing)
    with pytest.raises(ValueError, match="would take") if missing else contextlib.nullcontext():
        model.optimizer.build(model.trainable_variables)


@pytest.mark.parametrize("curvature", ["dense", "gram", "matrix_free", "diagonal", "kfac"])
def test_a_batch_in_which_no_example_counts_leaves_what_the_loss_weighs(curvature):
    """Else a damping in units of the loss would be none at all until the next batch."""
    model = kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(NaturalGradient(curvature=curvature, seed=0), "mae", run_eagerly=True)
    model.train_on_batch(X, X[:, :2])
    weighs = [float(model.optimizer.curvature.weight), float(model.optimizer.curvature.weights[1])]
    assert weighs == pytest.approx([1, 2])
    model.train_on_batch(X, X[:, :2], sample_weight=np.zeros(12))
    assert [float(model.optimizer.curvature.weight), float(model.optimizer.curvature.weights[1])] == weighs
