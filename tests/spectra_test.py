"""kfisher.spectra: eigenvalues against dense float64 matrices, densities against spectra that are known."""

import keras
import numpy as np
import pytest
import scipy.integrate
import tensorflow as tf
from helpers import oracle

import kfisher
from kfisher.spectra import density, eigenvalues

pytestmark = pytest.mark.usefixtures("float64_module")

P = 3 * 4 + 4 + 4 * 3 + 3


def network(regularizer=None):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(4, "tanh", bias_initializer="normal", kernel_regularizer=regularizer),
        keras.layers.Dense(3, bias_initializer="normal"),
    ]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def data(examples):
    rng = np.random.default_rng(1)
    return rng.normal(size=(examples, 3)), rng.integers(0, 3, examples)


def dense(operator, fisher, model, x, y):
    """The matrix, by autodiff of the compiled loss; with drawn labels, from the products of the operator."""
    if fisher == "exact":
        return oracle.gauss_newton(model, x, y)
    if fisher == "empirical":
        of_one = lambda n: model.compute_loss(x[n : n + 1], y[n : n + 1], model(x[n : n + 1]))
        return oracle.outer_products(model, of_one, np.full(len(x), 1 / len(x)))
    return np.stack([operator.matvec(tf.constant(row)).numpy() for row in np.eye(P)])


@pytest.fixture(
    scope="module", params=[("exact", 4), ("exact", 20), ("sampled", 20), ("empirical", 20)], ids=str
)
def case(request, float64_module):
    """An operator and the eigenvalues of the dense matrix, descending; with fewer and more rows than P."""
    fisher, examples = request.param
    model, (x, y) = network(), data(examples)
    operator = kfisher.FisherOperator(model, x, y, fisher=fisher)
    return operator, np.linalg.eigvalsh(dense(operator, fisher, model, x, y))[::-1]


def test_all_eigenvalues_are_those_of_the_dense_matrix(case):
    operator, expected = case
    found = eigenvalues(operator)
    # LAPACK finds eigenvalues to some 1e-16 of the largest.
    assert np.allclose(found, expected[: len(found)], rtol=0, atol=1e-13 * expected[0])
    assert np.all(np.abs(expected[len(found) :]) < 1e-13 * expected[0])  # and the rest is zero
    assert found.dtype == np.float64 and np.all(np.diff(found) <= 0)


@pytest.mark.parametrize("k", [1, np.int64(5)])
def test_the_largest_eigenvalues_come_from_products_alone(case, k):
    operator, expected = case
    # ARPACK goes on until the residual is rounding.
    assert np.allclose(eigenvalues(operator, k=k), expected[:k], rtol=0, atol=1e-12 * expected[0])


def test_a_regulariser_is_in_the_spectrum_as_it_is_in_the_matrix():
    model, (x, y) = network(keras.regularizers.L2(0.125)), data(2)  # 0.1 passes through float32 in Keras
    expected = np.linalg.eigvalsh(oracle.gauss_newton(model, x, y))[::-1]
    found = eigenvalues(kfisher.FisherOperator(model, x, y))
    assert np.allclose(found, expected[: len(found)], rtol=0, atol=1e-13 * expected[0])
    assert len(found) >= 12  # the kernel, on each of whose weights the regulariser acts


def test_a_matrix_of_zeros_has_no_eigenvalues():
    assert eigenvalues(planted(np.zeros(5))).shape == (0,)


# --- density -------------------------------------------------------------------------------------

CLUSTERS = [(0.1, 240), (1.0, 120), (5.0, 40)]  # centre, number of eigenvalues; each 1 % wide
PLANTED = np.concatenate([centre * np.linspace(0.99, 1.01, count) for centre, count in CLUSTERS])


def planted(values=PLANTED):
    return tf.linalg.LinearOperatorDiag(tf.constant(values, tf.float64))


def test_the_density_integrates_to_one():
    phi = density(planted(), num_vectors=3, num_steps=20)
    assert phi.weights.sum() == pytest.approx(1)
    assert np.all(phi.weights >= 0)
    points = np.linspace(-1, 7, 20_001)  # twenty standard deviations beyond the spectrum
    assert scipy.integrate.trapezoid(phi(points, width=0.05), points) == pytest.approx(1, abs=1e-9)


def test_the_density_finds_planted_clusters_and_their_masses():
    phi = density(planted(), num_vectors=32, num_steps=40)
    for centre, count in CLUSTERS:
        near = np.abs(phi.nodes - centre) < 0.02 * centre
        share, error = phi.mean(lambda t: (np.abs(t - centre) < 0.02 * centre).astype(float))
        m = count / len(PLANTED)
        # The mass of one start vector is Beta distributed, with the variance 2 m (1 - m) / (P + 2).
        deviation = np.sqrt(2 * m * (1 - m) / (len(PLANTED) + 2) / 32)
        assert phi.weights[near].sum() == pytest.approx(share)
        assert abs(share - m) < 4 * deviation
        assert deviation / 2 < error < 2 * deviation  # from 32 values: known to an eighth
    outside = np.min([np.abs(phi.nodes - centre) / centre for centre, _ in CLUSTERS], 0) > 0.02
    # Quadrature may leave mass between clusters while it resolves them, but by 40 steps none to speak of.
    assert phi.weights[outside].sum() < 1e-6


def test_moments_up_to_twice_the_steps_are_those_of_the_start_vectors():
    """Gauss quadrature: m steps integrate t^j exactly for j < 2 m, over the spectral measure of v."""
    values = np.linspace(0.5, 2, 50)
    phi = density(planted(values), num_vectors=1, num_steps=4, seed=3)
    v = np.random.default_rng(3).normal(size=50)
    for j in range(8):
        expected = np.sum(v**2 * values**j) / np.sum(v**2)
        assert np.sum(phi.weights * phi.nodes**j) == pytest.approx(expected, rel=1e-12)
    assert np.sum(phi.weights * phi.nodes**8) != pytest.approx(expected, rel=1e-6)


def test_with_as_many_steps_as_parameters_the_nodes_are_the_eigenvalues():
    values = np.geomspace(1e-3, 1, 12)
    phi = density(planted(values), num_vectors=2, num_steps=100)
    assert phi.nodes.shape == (2, 12)
    assert np.allclose(np.sort(phi.nodes, 1), values, rtol=1e-9)
    mean, _ = phi.mean(lambda t: t / (t + 0.1))
    assert phi.size * mean == pytest.approx(np.sum(phi.weights * phi.nodes / (phi.nodes + 0.1)) * 12)


def test_an_exhausted_krylov_space_ends_lanczos():
    """A Fisher of rank r has r + 1 different eigenvalues, all of which are found after r + 1 steps."""
    model, (x, y) = network(), data(2)
    operator = kfisher.FisherOperator(model, x, y, fisher="empirical")
    expected = eigenvalues(operator)
    phi = density(operator, num_vectors=2, num_steps=20)
    heavy = phi.weights > 1e-8
    assert phi.weights.sum() == pytest.approx(1)
    assert len(expected) == 2 and np.all(heavy.sum(1) == 3)
    for nodes, kept in zip(phi.nodes, heavy):
        assert np.allclose(np.sort(nodes[kept])[::-1], [*expected, 0], rtol=0, atol=1e-10 * expected[0])


def test_the_mean_is_an_estimate_of_the_trace_with_its_error():
    phi = density(planted(), num_vectors=32, num_steps=20)
    mean, error = phi.mean(lambda t: t)
    # v^T D v / v^T v for Gaussian v has the variance 2 var(D) / (P + 2).
    deviation = np.sqrt(2 * PLANTED.var() / (len(PLANTED) + 2) / 32)
    assert abs(mean - PLANTED.mean()) < 4 * deviation
    assert deviation / 2 < error < 2 * deviation
    assert np.isnan(density(planted(), num_vectors=1, num_steps=4).mean(lambda t: t)[1])


def test_the_seed_decides():
    one, same, other = (density(planted(), 1, 5, seed) for seed in (0, 0, 1))
    assert np.array_equal(one.nodes, same.nodes) and not np.array_equal(one.nodes, other.nodes)
    assert np.array_equal(eigenvalues(planted(), k=3), eigenvalues(planted(), k=3))


# --- wrong arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, 400, 1.5, True, "all"])
def test_k_must_be_a_positive_integer_below_the_size(k):
    with pytest.raises(ValueError, match=f"smaller than the size of the operator, 400. Received: k={k!r}"):
        eigenvalues(planted(), k=k)


def test_all_of_too_many_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match="`k`.*spectra.density.*Received: k=None, operator of shape .3000, "):
        eigenvalues(planted(np.ones(3000)))
    assert np.allclose(eigenvalues(planted(np.arange(3000.0)), k=2), [2999, 2998])


@pytest.mark.parametrize(
    "operator",
    [
        pytest.param(lambda: np.eye(3), id="array"),
        pytest.param(lambda: tf.linalg.LinearOperatorFullMatrix(tf.ones([2, 3])), id="not square"),
        pytest.param(lambda: tf.linalg.LinearOperatorDiag(tf.ones([2, 3])), id="batch"),
    ],
)
@pytest.mark.parametrize("function", [eigenvalues, density], ids=lambda f: f.__name__)
def test_the_operator_must_be_a_square_linear_operator(function, operator):
    with pytest.raises(ValueError, match="square tf.linalg.LinearOperator.*Received: "):
        function(operator())


@pytest.mark.parametrize("name", ["num_vectors", "num_steps"])
@pytest.mark.parametrize("value", [0, 2.0, True])
def test_numbers_of_the_density_must_be_positive_integers(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer. Received: {name}={value}"):
        density(planted(), **{name: value})
