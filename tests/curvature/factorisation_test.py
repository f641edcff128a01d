"""Stacks of tiny matrices, as a depthwise convolution has them, in one call; and what is wrong with one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kfisher
from kfisher.curvature import _factorisation

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
