"""FisherOperator: a linear operator that agrees with its dense matrix, and says so when it cannot be made."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import oracle

import kfisher
from kfisher import damped_operator
from kfisher._common import memory

pytestmark = pytest.mark.usefixtures("float64")
L = keras.losses
N, C = 5, 3
TIGHT = 1e-10  # float64 rounding, with room for its accumulation
BAD = (ValueError, tf.errors.InvalidArgumentError)


def network(loss=None, **options):
    """Layers of unequal sizes, P = 27, so that a transposed or misplaced block shows."""
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(4, activation="tanh", bias_initializer="normal", **options),
            keras.layers.Dense(C, bias_initializer="normal"),
        ]
    )
    model.compile(loss=loss or L.SparseCategoricalCrossentropy(from_logits=True))
    return model


def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, 2)), rng.integers(0, C, N), rng.uniform(0.1, 2, N)


# Fewer rows than parameters (N R = 10 < P), more rows than parameters, and a regulariser.
@pytest.fixture(params=["wide", "narrow", "regularised"])
def case(request):
    model = network()
    if request.param == "narrow":
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(C)])
        model.compile(loss=L.SparseCategoricalCrossentropy(from_logits=True))
    if request.param == "regularised":
        model = network(kernel_regularizer=keras.regularizers.L2(0.5))
    x, y, w = batch()
    return kfisher.FisherOperator(model, x, y, sample_weight=w), oracle.gauss_newton(model, x, y, w)


def test_every_product_agrees_with_the_gauss_newton_matrix(case):
    operator, matrix = case
    rng = np.random.default_rng(2)
    size = len(matrix)
    assert operator.shape == (size, size)
    assert operator.dtype == tf.float64
    assert oracle.distance(operator.to_dense(), matrix) < TIGHT
    v, several, stacked = rng.normal(size=size), rng.normal(size=(size, 3)), rng.normal(size=(2, size, 3))
    assert oracle.distance(operator.matvec(v), matrix @ v) < TIGHT
    assert oracle.distance(operator.matvec(v, adjoint=True), matrix @ v) < TIGHT
    assert oracle.distance(operator.matvec(several.T), several.T @ matrix) < TIGHT
    for adjoint in (False, True):
        assert oracle.distance(operator.matmul(several, adjoint=adjoint), matrix @ several) < TIGHT
        product = operator.matmul(several.T, adjoint=adjoint, adjoint_arg=True)
        assert oracle.distance(product, matrix @ several) < TIGHT
    assert oracle.distance(operator @ stacked, matrix @ stacked) < TIGHT
    assert oracle.distance(tf.linalg.matvec(operator.to_dense(), v), matrix @ v) < TIGHT


def test_diagonal_trace_and_eigenvalues_agree_with_the_gauss_newton_matrix(case):
    operator, matrix = case
    assert oracle.distance(operator.diag_part(), np.diag(matrix)) < TIGHT
    assert float(operator.trace()) == pytest.approx(np.trace(matrix), rel=TIGHT)
    # Both are ascending; rounding of eigenvalues is relative to the largest.
    assert oracle.distance(operator.eigvals(), np.linalg.eigvalsh(matrix)) < TIGHT


def test_eigenvalues_in_single_precision():
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    x, y, w = batch()
    model = network()
    operator = kfisher.FisherOperator(model, x.astype("float32"), sample_weight=w)
    expected = np.linalg.eigvalsh(operator.to_dense().numpy().astype(float))
    found = operator.eigvals().numpy()
    assert np.all(np.diff(found) >= 0)
    assert oracle.distance(found, expected) < 1e-5  # float32 products, some ten roundings


@pytest.mark.parametrize("side", ["any", "in the range of F"])
@pytest.mark.parametrize("offset, damping", [(0.0, 1e-4), (100.0, 1e-2), (100.0, 0.05)])
def test_a_solution_in_single_precision_is_right_or_refused(offset, damping, side):
    """It was zero, without a word, where the products with F are rounding."""
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    rng = np.random.default_rng(0)
    x, b = (offset + rng.normal(size=(16, 40))).astype("float32"), rng.normal(size=41).astype("float32")
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    operator = kfisher.FisherOperator(model, x)
    solver, b = operator.damped(damping), b if side == "any" else operator.matvec(b).numpy()
    if offset:
        for solve in (solver.solvevec, tf.function(solver.solvevec)):
            with pytest.raises(
                tf.errors.InvalidArgumentError, match="raise `damping`, or take a model in float64"
            ):
                solve(b)
        assert np.isnan(tf.function(solver.solvevec, jit_compile=True)(b)).all()  # XLA knows no errors
        return
    j = np.hstack([x, np.ones((16, 1))]).astype(float)
    expected = np.linalg.solve(2 * j.T @ j / 16 + damping * np.eye(41), b)
    assert np.linalg.norm(solver.solvevec(b) - expected) < 0.01 * np.linalg.norm(expected)
    assert np.isnan(solver.solvevec(np.inf * b)).all()
    assert not np.any(solver.solvevec(0 * b))


def test_parameters_are_ordered_as_the_trainable_variables_each_row_major():
    # With inputs e_i and squared error, the curvature of kernel[i, c] shows i and c in its place.
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model.compile(loss=L.MeanSquaredError(reduction="sum"))
    operator = kfisher.FisherOperator(model, np.array([[1.0, 10.0]]))
    # d2/dk[i, c]2 of (1/3) sum_c (y_c - f_c)^2 = 2/3 x_i^2
    assert operator.diag_part().numpy() == pytest.approx(np.array([1, 1, 1, 100, 100, 100, 1, 1, 1]) * 2 / 3)
    dense = operator.to_dense().numpy()
    assert dense[1, 4] == pytest.approx(10 * 2 / 3)  # kernel[0, 1] and kernel[1, 1] meet in output 1
    assert dense[1, 3] == 0  # kernel[0, 1] and kernel[1, 0] do not meet
    assert dense[2, 8] == pytest.approx(2 / 3)  # kernel[0, 2] and bias[2]


def test_the_seed_determines_the_drawn_labels():
    model, (x, _, _) = network(), batch()
    matrices = [
        kfisher.FisherOperator(model, x, fisher="sampled", seed=seed).to_dense().numpy() for seed in (3, 3, 4)
    ]
    assert np.array_equal(matrices[0], matrices[1])
    assert oracle.distance(matrices[0], matrices[2]) > 0.01


def test_the_three_fishers_differ():
    model, (x, y, _) = network(), batch()
    kinds = ("exact", "empirical", kfisher.Sampled(2))
    traces = {float(kfisher.FisherOperator(model, x, y, fisher=kind).trace()) for kind in kinds}
    assert len(traces) == 3


def test_it_leaves_the_model_as_it_was():
    inputs = keras.Input((2,))
    hidden = keras.layers.Dropout(0.5, seed=0)(keras.layers.BatchNormalization()(inputs))
    model = keras.Model(inputs, [keras.layers.Dense(1)(hidden), keras.layers.Dense(1)(hidden)])
    model.compile(loss=["mse", "mae"])
    x, _, _ = batch()
    y = [np.zeros((N, 1)), np.zeros((N, 1))]
    model.evaluate(x, y, verbose=0)
    before = [np.array(v) for v in (*model.variables, *model.metrics_variables)]
    kfisher.FisherOperator(model, x, y, training=True).trace()
    after = [np.array(v) for v in (*model.variables, *model.metrics_variables)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after))


def test_a_loss_of_its_own_replaces_that_of_the_model():
    x, y, w = batch()
    labels = np.eye(C)[y]
    other = network(loss=L.BinaryCrossentropy(from_logits=True, reduction="sum"))
    model = network(loss="mse")
    model.set_weights(other.get_weights())
    found = kfisher.FisherOperator(
        model, x, labels, sample_weight=w, loss=L.BinaryCrossentropy(from_logits=True, reduction="sum")
    )
    assert oracle.distance(found.to_dense(), oracle.gauss_newton(other, x, labels, w)) < TIGHT
    several = keras.Model(model.inputs, [model.outputs[0], model.outputs[0]])
    found = kfisher.FisherOperator(several, x, loss=["mse", "mse"])
    assert oracle.distance(found.to_dense(), 2 * oracle.gauss_newton(model, x, labels)) < TIGHT


# --- bad input ------------------------------------------------------------------------------------


def fisher(model, *args, **options):
    return kfisher.FisherOperator(model, *args, **options).to_dense()


MISTAKES = {
    "class out of range": (None, np.array([0, 1, 2, 3, 0]), None, "range|whole numbers"),
    "negative class": (None, np.array([0, 1, 2, -1, 0]), None, "range|whole numbers"),
    "float class": (None, np.array([0, 1, 2, 0.5, 0]), None, "whole numbers"),
    "one label too many": (None, np.zeros(N + 1, int), None, "same number of examples"),
    "wide labels": ("mse", np.zeros((N, C + 1)), None, "shape"),
    "labels that Keras would broadcast": ("mse", np.zeros((N, 1)), None, "shape of the model outputs"),
    "not one-hot": (L.CategoricalCrossentropy(from_logits=True), np.ones((N, C)), None, "sum to 1"),
    "binary out of range": (L.BinaryCrossentropy(True), np.full((N, C), 1.5), None, "in \\[0, 1\\]"),
    "negative weight": (None, np.zeros(N, int), np.array([1.0, -1, 1, 1, 1]), "must not be negative"),
    "weights of another batch": (None, np.zeros(N, int), np.ones(N - 1), "same number of examples"),
}


@pytest.mark.parametrize("kind", ["exact", "empirical"])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_batch_that_cannot_be_is_refused_eagerly_and_in_a_graph(name, kind):
    loss, y, w, message = MISTAKES[name]
    model, (x, _, _) = network(loss=loss), batch()
    with pytest.raises(BAD, match=message):
        fisher(model, x, y, fisher=kind, sample_weight=w)

    # With sizes known only while the graph runs.
    signature = [tf.TensorSpec((None, *t.shape[1:]), t.dtype) for t in (x, y, w) if t is not None]

    @tf.function(input_signature=signature)
    def in_graph(x, y, w=None):
        return fisher(model, x, y, fisher=kind, sample_weight=w)

    # Ours, each time: never that of an operation which is not held back until the check is done.
    for _ in range(10):
        with pytest.raises(BAD, match=message):
            in_graph(*(tf.constant(t) for t in (x, y, w) if t is not None))


def test_an_empty_batch_is_refused():
    model = network()
    for empty in (fisher, tf.function(fisher)):
        with pytest.raises(BAD, match="at least one"):
            empty(model, tf.zeros((0, 2), tf.float64), tf.zeros((0,), tf.int64))


def test_labels_that_broadcast_to_one_output_are_refused():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    x, _, _ = batch()
    for loss in ("mse", "mae", "poisson"):
        model.compile(loss=loss)
        with pytest.raises(ValueError, match="shape of the model outputs"):
            fisher(model, x, np.zeros((N, 3)))


def test_empirical_without_labels_is_refused():
    model, (x, _, _) = network(), batch()
    for attempt in (fisher, tf.function(fisher)):
        with pytest.raises(ValueError, match="labels of the data.*y=None"):
            attempt(model, x, fisher="empirical")


def test_a_model_without_a_loss_is_refused():
    x, _, _ = batch()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="not compiled with a loss"):
        fisher(model, x)
    model.compile("sgd")
    with pytest.raises(ValueError, match="not compiled with a loss"):
        fisher(model, x)


def test_a_loss_of_the_models_own_is_one():
    class Own(kfisher.FisherMixin, keras.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.losses.MeanSquaredError()(y, y_pred)

    model = Own([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd")
    x = np.random.default_rng(0).normal(size=(6, 2)).astype("float32")
    likelihood = kfisher.likelihoods.Normal()
    found = kfisher.FisherOperator(model, x, likelihood=likelihood).to_dense().numpy()
    model.compile("sgd", "mse")
    assert np.allclose(found, kfisher.FisherOperator(model, x, likelihood=likelihood).to_dense().numpy())


def test_a_loss_without_a_likelihood_is_refused_with_a_list_of_those_that_have_one():
    x, _, _ = batch()
    model = network(loss="huber")
    with pytest.raises(ValueError, match="huber.*Supported are binary_crossentropy"):
        fisher(model, x)


def test_a_model_without_trainable_variables_is_refused():
    x, _, _ = batch()
    model = network()
    model.trainable = False
    with pytest.raises(ValueError, match="no trainable variables"):
        fisher(model, x)


def test_outputs_without_an_axis_are_refused():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Flatten()(keras.layers.Dense(1)(inputs))[:, 0])
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="at least one more"):
        fisher(model, batch()[0])


def test_an_unknown_fisher_is_refused():
    with pytest.raises(ValueError, match="fisher='emprical'"):
        fisher(network(), batch()[0], fisher="emprical")


# --- F + lambda I ---------------------------------------------------------------------------------


@pytest.mark.parametrize("damping", [0.3, 1e-9])
def test_the_damped_operator_agrees_with_the_dense_matrix(case, damping):
    operator, matrix = case
    damped, size = operator.damped(damping), len(matrix)
    matrix = matrix + damping * np.eye(size)
    rng = np.random.default_rng(3)
    v, several, stacked = rng.normal(size=size), rng.normal(size=(size, 3)), rng.normal(size=(2, size, 3))
    assert damped.is_self_adjoint and damped.is_positive_definite and damped.is_non_singular
    assert oracle.distance(damped.to_dense(), matrix) < TIGHT
    assert oracle.distance(damped.matvec(v), matrix @ v) < TIGHT
    assert oracle.distance(damped.matmul(several), matrix @ several) < TIGHT
    assert oracle.distance(damped.matmul(several.T, adjoint_arg=True), matrix @ several) < TIGHT
    assert oracle.distance(damped.eigvals(), np.linalg.eigvalsh(matrix)) < TIGHT
    # A solution is right if its residual is: NumPy's own has errors of the condition number, up to 1e9.
    in_its_range = operator.matvec(v).numpy()
    for b in (v, in_its_range):
        x = damped.solvevec(b).numpy()
        assert np.linalg.norm(matrix @ x - b) < TIGHT * (np.linalg.norm(matrix) * np.linalg.norm(x))
        assert oracle.distance(x, np.linalg.solve(matrix, b)) < 1e-5
    assert oracle.distance(damped.solve(several), np.linalg.solve(matrix, several)) < 1e-6
    assert oracle.distance(damped.solve(several.T, adjoint_arg=True), damped.solve(several)) < TIGHT
    assert oracle.distance(damped.solve(stacked), np.linalg.solve(matrix, stacked)) < 1e-6
    assert oracle.distance(damped.inverse().matvec(v), damped.solvevec(v)) < TIGHT
    assert float(damped.log_abs_determinant()) == pytest.approx(np.linalg.slogdet(matrix)[1], rel=1e-7)
    assert float(damped.determinant()) == pytest.approx(np.linalg.det(matrix), rel=1e-5)


def test_the_damped_operator_works_in_conjugate_gradients_and_in_a_graph(case):
    operator, matrix = case
    damped, b = operator.damped(0.3), np.random.default_rng(3).normal(size=len(matrix))
    expected = np.linalg.solve(matrix + 0.3 * np.eye(len(b)), b)
    found = tf.linalg.experimental.conjugate_gradient(damped, tf.constant(b), tol=1e-12, max_iter=100)
    assert oracle.distance(found.x, expected) < TIGHT
    assert oracle.distance(tf.function(damped.solvevec, autograph=False)(b), expected) < TIGHT
    assert oracle.distance(damped.solvevec(b), expected) < TIGHT  # nothing of that graph is left


def test_what_is_too_large_for_a_factorisation_is_solved_by_products(case, monkeypatch):
    operator, matrix = case
    monkeypatch.setattr(damped_operator, "_DIRECT", 5)
    damped, b = operator.damped(0.1), np.random.default_rng(3).normal(size=len(matrix))
    assert oracle.distance(damped.solvevec(b), np.linalg.solve(matrix + 0.1 * np.eye(len(b)), b)) < 1e-6
    with pytest.raises(ValueError, match="density"):
        damped.log_abs_determinant()
    monkeypatch.setattr(damped_operator, "_ITERATIONS", 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not converged: raise `damping`"):
        damped.solvevec(b)


def test_what_has_no_meaning_on_a_singular_matrix_says_what_has(case):
    operator, matrix = case
    b = np.ones(len(matrix))
    attempts = {
        "solve": lambda: tf.linalg.solve(operator, b[:, None]),
        "solvevec": lambda: operator.solvevec(b),
        "inverse": lambda: tf.linalg.inv(operator),
        "determinant": lambda: tf.linalg.det(operator),
        "log_abs_determinant": lambda: operator.log_abs_determinant(),
        "cholesky": lambda: tf.linalg.cholesky(operator),
        "cond": lambda: operator.cond(),
        "assert_non_singular": lambda: operator.assert_non_singular(),
        "assert_positive_definite": lambda: operator.assert_positive_definite(),
    }
    for name, attempt in attempts.items():
        with pytest.raises(ValueError, match=rf"F\.damped\(damping\)\.{name}`"):
            attempt()
        assert callable(getattr(operator.damped(1.0), name))
    assert operator.is_self_adjoint and operator.adjoint() is operator


@pytest.mark.parametrize("damping", [0, -1.0, float("nan"), float("inf"), "large", None, True])
def test_a_damping_that_is_no_positive_number_is_refused(damping):
    operator = kfisher.FisherOperator(network(), batch()[0])
    with pytest.raises(ValueError, match="`damping` must be a positive float. Received: damping="):
        operator.damped(damping)


# --- memory ---------------------------------------------------------------------------------------


def test_what_does_not_fit_into_memory_is_refused_before_it_is_made(monkeypatch):
    x, y, _ = batch()
    operator = kfisher.FisherOperator(network(), x, y)
    v = tf.ones(operator.shape[-1], tf.float64)
    monkeypatch.setattr(memory, "available", lambda: 1000.0)
    for attempt in (operator.to_dense, operator.diag_part, operator.trace, operator.eigvals):
        with pytest.raises(ValueError, match="GiB or more, and .* are available.*(rows=10|parameters=27)"):
            attempt()
    with pytest.raises(ValueError, match="would take .* are available"):
        operator.damped(1.0).solvevec(v)
    with pytest.raises(ValueError, match="Take a smaller `num_steps`. Received: vectors=27, parameters=27"):
        kfisher.spectra.density(operator)
    with pytest.raises(ValueError, match="Take a smaller `k`. Received: vectors=20, parameters=27"):
        kfisher.spectra.eigenvalues(operator, k=2)
    operator.matvec(v)  # which needs next to nothing

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float64), tf.TensorSpec((None,), tf.int64)])
    def in_graph(x, y):
        return kfisher.FisherOperator(network_in_graph, x, y).diag_part()

    network_in_graph = network()
    with pytest.raises(tf.errors.InvalidArgumentError, match="would not fit into"):
        in_graph(x, y)
    monkeypatch.setattr(memory, "available", lambda: 1e9)
    assert operator.to_dense().shape == (27, 27)


def test_the_scope_of_a_strategy_with_replicas_changes_nothing(monkeypatch):
    model, (x, y, w) = network(), batch()
    alone = kfisher.FisherOperator(model, x, y, sample_weight=w).to_dense()
    monkeypatch.setattr(tf.distribute.OneDeviceStrategy, "num_replicas_in_sync", 2)  # as Keras asks for
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        inside = kfisher.FisherOperator(model, x, y, sample_weight=w).to_dense()
        assert tf.distribute.get_strategy().num_replicas_in_sync == 2
    np.testing.assert_array_equal(inside, alone)
