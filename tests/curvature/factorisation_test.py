"""Inverses of ill-conditioned factors; stacks of tiny ones in one call; and what is wrong with one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kfisher
from kfisher.curvature import _factorisation
from kfisher.curvature._damped_inverse import compute, damped_inverse

RNG = np.random.default_rng(3)


def stack(dtype, count=40, size=9):
    """Positive semidefinite matrices of rank 6."""
    rows = RNG.normal(size=(count, size, 6))
    return (rows @ rows.swapaxes(1, 2)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("what", ["inverses", "eigensystems"])
def test_all_of_a_stack_are_those_of_each_alone(what, dtype, monkeypatch):
    m, shifts = stack(dtype), RNG.uniform(0.1, 1, 40).astype(dtype)

    def found(m, shifts):
        if what == "inverses":
            return _factorisation.inverses([tf.constant(m)], [tf.constant(shifts)], False)[0].numpy()
        values, vectors = (t.numpy() for t in _factorisation.eigensystems([tf.constant(m)], False)[0])
        return np.einsum("gij,gj,gkj->gik", vectors, values, vectors)

    alone = np.concatenate([found(m[i : i + 1], shifts[i : i + 1]) for i in range(len(m))])
    calls = []  # of what is called for each matrix alone
    for name in ("positive_inverse", "_symmetric_eigensystem"):
        monkeypatch.setattr(_factorisation, name, lambda *a: calls.append(a))
    together = found(m, shifts)
    np.testing.assert_allclose(together, alone, rtol=1e-4 if dtype == "float32" else 1e-9, atol=1e-6)
    assert not calls and together.dtype == dtype
    # Half of each crosses replicas.
    assert what != "inverses" or (together == together.swapaxes(1, 2)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -100.0])
def test_one_that_has_no_inverse_takes_none_of_the_others_along(bad):
    m = stack("float32")
    m[7, 2, 2] = bad
    inverse = _factorisation.inverses([tf.constant(m)], [tf.fill([40], 0.1)], False)[0].numpy()
    is_nan = np.isnan(inverse).all((1, 2))
    assert is_nan.tolist() == [i == 7 for i in range(40)] and np.isfinite(inverse[~is_nan]).all()
    values = _factorisation.eigensystems([tf.constant(m)], False)[0][0].numpy()
    assert np.isnan(values).all(1).tolist() == [i == 7 and not np.isfinite(bad) for i in range(40)]


@pytest.mark.parametrize("make", [kfisher.curvature.KFAC, kfisher.curvature.EKFAC])
def test_a_model_with_one_factor_alone_trains_where_each_operation_runs_at_once(make):
    """The other is a diagonal. TensorFlow returns no list there for a list of one."""
    model = kfisher.Sequential([keras.Input((10,)), keras.layers.Dense(3, use_bias=False)])
    optimizer = kfisher.optimizers.NaturalGradient(curvature=make(max_factor_size=5), seed=0)
    model.compile(optimizer, "mse", run_eagerly=True)
    x = RNG.normal(size=(16, 10)).astype("float32")
    model.fit(x, x[:, :3], verbose=0)
    assert int(optimizer.curvature.factorisations) == 1 and not int(optimizer.skipped_steps)


# --- in single precision -----------------------------------------------------------------------------


def of_one_sign(count, size):
    """M of inputs of one sign that lie close to 12 directions, as spectra do, and its condition."""
    rng = np.random.default_rng(0)
    x = rng.gamma(2, 1, (count, 12)) @ rng.gamma(2, 1, (12, size)) + 0.01 * rng.normal(size=(count, size))
    return x.T @ x / count


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("size", [64, 300, 700])
def test_inverses_are_right_along_leading_eigenvectors_whatever_the_damping(size, xla):
    """They were rounding: of another sign, and hundreds of times as long as they should be."""
    exact, shift = of_one_sign(4 * size, size), 1e-9
    values, vectors = np.linalg.eigh(exact)
    factor = keras.Variable(exact[np.newaxis].astype("float32"))
    kind = damped_inverse(lambda shape, dtype, name: keras.Variable(tf.zeros(shape, dtype)), factor, 1.0)
    found = compute([kind], [factor.value], [tf.constant([shift])], 1.0, xla)
    for variable, value in zip(kind.variables, found):
        variable.assign(value)
    m = vectors[:, -12:] @ (np.sqrt(values[-12:]) * RNG.normal(size=12))  # as gradients are
    x = kind.times(tf.constant(m[:, np.newaxis], tf.float32), xla).numpy()[:, 0]
    assert m @ x > 0
    change = exact @ x  # of the outputs, which is m where F describes them
    assert np.linalg.norm(change - m) < 0.1 * np.linalg.norm(m)


@pytest.mark.parametrize("xla", [False, True])
def test_rows_of_any_size_are_inverted_beside_each_other(xla):
    """What is large in one says nothing of the rounding in another: units of columns of a table differ."""
    sizes = 10.0 ** np.linspace(-6, 6, 40)
    x = RNG.normal(size=(200, 40))
    m = (x.T @ x / 200 * sizes * sizes[:, np.newaxis])[np.newaxis]
    found = _factorisation.inverses([tf.constant(m, tf.float32)], [tf.constant([1e-14])], xla)[0].numpy()[0]
    scaled = found * sizes * sizes[:, np.newaxis]
    exact = np.linalg.inv((m[0] + 1e-14 * np.eye(40)) / sizes / sizes[:, np.newaxis])
    assert np.abs(scaled - exact).max() < 1e-3 * np.abs(exact).max()


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("dtype, size", [("float32", 1e25), ("float32", 1e-30), ("float64", 1e170)])
def test_a_factor_whose_squares_overflow_has_an_inverse(dtype, size, xla):
    m = (stack("float64", 2, 300) * size).astype(dtype)
    inverse = _factorisation.inverses([tf.constant(m)], [tf.fill([2], m[0, 0, 0])], xla)[0].numpy()
    assert np.isfinite(inverse).all() and (np.einsum("gii->gi", inverse) > 0).all()


@pytest.mark.parametrize("curvature, damping", [("kfac", "auto"), ("ekfac", 1e-8)])
def test_raw_spectra_are_fitted_without_a_step_back(curvature, damping):
    """700 channels of one sign: the loss rose fourfold, and was at a tenth of it after thirty epochs."""
    rng = np.random.default_rng(1)
    channel = np.linspace(0, 1, 700)
    peaks = np.exp(-(((channel - rng.uniform(size=(12, 1))) / rng.uniform(0.02, 0.2, (12, 1))) ** 2))
    amounts = rng.gamma(2, 1, size=(80, 12))
    x = amounts @ peaks + 0.01 * rng.normal(size=(80, 700))
    y = 20 * amounts[:, :1] + rng.normal(size=(80, 1))
    keras.utils.set_random_seed(1)
    model = kfisher.Sequential([keras.Input((700,)), keras.layers.Dense(1)])
    model.compile(kfisher.optimizers.NaturalGradient(curvature=curvature, damping=damping, seed=0), "mse")
    start, losses = model.evaluate(x, y, verbose=0), []
    for _ in range(12):
        model.fit(x, y, batch_size=16, verbose=0)
        losses.append(model.evaluate(x, y, verbose=0))
    assert max(losses) < start and losses[-1] < start / 100
    assert int(model.optimizer.rejected_steps) == 0


@pytest.mark.parametrize("curvature", ["kfac", "ekfac"])
def test_what_is_not_mixed_is_not_damped_by_what_is_large_beside_it(curvature):
    """Channels of a depthwise convolution, and factors that are kept as their diagonals."""
    x = RNG.normal(size=(64, 1, 1, 2)) * [1e4, 1e-1]
    y = x * [1e-4, 10.0]
    keras.utils.set_random_seed(0)
    channels = keras.layers.DepthwiseConv2D(1, use_bias=False)
    make = {"kfac": kfisher.curvature.KFAC, "ekfac": kfisher.curvature.EKFAC}[curvature]
    settings = {"damping": 1e-6, "trust_region": None, "momentum": 0.0, "fisher": "exact"}
    for layer, own, inputs, labels in (
        (channels, make(), x, y),
        (keras.layers.Dense(1, use_bias=False), make(max_factor_size=1), x[:, 0, 0], y[:, 0, 0].sum(-1)),
    ):
        model = kfisher.Sequential([keras.Input(inputs.shape[1:]), layer])
        model.compile(kfisher.optimizers.NaturalGradient(0.5, curvature=own, seed=0, **settings), "mse")
        model.fit(inputs, labels, epochs=15, verbose=0)
        assert layer.get_weights()[0].ravel() == pytest.approx([1e-4, 10.0], rel=1e-2)
