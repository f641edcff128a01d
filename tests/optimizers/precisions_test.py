"""Layers in single and in double precision in one model: all is as in double precision."""

import keras
import numpy as np
import pytest

import kfisher
from kfisher.diagnosis import limits, rows
from kfisher.diagnosis.meter import Meter, examples
from kfisher.optimizers import ImprovedEmpiricalFisher, NaturalGradient, SophiaG

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 5)), RNG.normal(size=(24, 1))
CURVATURES = ("kfac", "ekfac", "diagonal", "gram", "dense", "matrix_free")
OPTIMIZERS = {
    **{name: lambda name=name: NaturalGradient(0.3, "exact", name, damping=0.1) for name in CURVATURES},
    "textbook": lambda: NaturalGradient(0.1, "exact", damping=0.1, trust_region=None),
    "improved": lambda: ImprovedEmpiricalFisher(0.1, damping=0.1),
    "sophia": lambda: SophiaG(0.01, seed=0),
}


def network(*dtypes):
    keras.utils.set_random_seed(0)
    dense = [keras.layers.Dense(n, "tanh", dtype=dtype) for n, dtype in zip((4, 3), dtypes)]
    model = kfisher.Sequential([keras.Input((5,)), *dense, keras.layers.Dense(1, dtype=dtypes[-1])])
    model.set_weights([np.random.default_rng(i).normal(size=w.shape) for i, w in enumerate(model.weights)])
    return model


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_in_two_precisions_are_those_in_double(name):
    found = []
    for dtypes in (("float32", "float64", "float32"), ("float64",) * 3):
        model = network(*dtypes)
        model.compile(OPTIMIZERS[name](), "mse", run_eagerly=dtypes[0] == "float64")
        before = model.get_weights()
        model.fit(np.tile(X, (3, 1)), np.tile(Y, (3, 1)), batch_size=24, shuffle=False, verbose=0)
        assert int(model.optimizer.skipped_steps) == int(model.optimizer.rejected_steps) == 0
        found.append([a - b for a, b in zip(model.get_weights(), before)])
    for mixed, double in zip(*found):
        assert np.abs(double).max() > 1e-4
        np.testing.assert_allclose(mixed, double, rtol=1e-3, atol=1e-3 * np.abs(double).max())


def test_matrices_in_two_precisions_are_those_in_double():
    matrices = []
    for dtypes in (("float32", "float64", "float32"), ("float64",) * 3):
        model = network(*dtypes)
        model.compile(loss="mse")
        fisher = kfisher.FisherOperator(model, X)
        assert fisher.dtype == "float64"
        matrices.append(fisher.to_dense().numpy())
        np.testing.assert_allclose(fisher.trace(), np.trace(matrices[-1]))
        vector = np.linspace(-1, 1, len(matrices[-1]))
        product = matrices[-1] @ vector
        np.testing.assert_allclose(fisher.matvec(vector), product, atol=1e-5 * np.abs(product).max())
    np.testing.assert_allclose(*matrices, atol=1e-5 * np.abs(matrices[1]).max())


def test_measurements_in_two_precisions_are_those_in_double(monkeypatch):
    for small in (1024, 0):  # by rows, by their Gram matrix
        monkeypatch.setattr(limits, "SMALL", small)
        monkeypatch.setattr(rows, "SMALL", small)
        found = []
        for dtypes in (("float32", "float64", "float32"), ("float64",) * 3):
            model = network(*dtypes)
            model.compile(loss="mse")
            measured, _ = Meter(model, 2, 0)(*examples((X, Y, None), None), damping=0.1)
            found.append([measured.cosine["empirical"], measured.spectra["exact"].trace])
        assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_matrices_of_a_model_in_half_precision_are_in_single(dtype):
    model = network(dtype, dtype, dtype)
    model.compile(loss="mse")
    fisher = kfisher.FisherOperator(model, X)
    matrix, vector = fisher.to_dense().numpy(), np.ones(fisher.shape[0], "float32")
    assert fisher.dtype == matrix.dtype == "float32"
    np.testing.assert_allclose(fisher.trace(), np.trace(matrix), rtol=1e-5)
    product = matrix @ vector
    np.testing.assert_allclose(fisher.matvec(vector), product, atol=0.02 * np.abs(product).max())
