"""Truncated inverses of large factors: as close to the damped inverse as they promise."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kfisher.curvature._damped_inverse import (
    TruncatedInverse,
    _cheapest_of_shape,
    compute,
    damped_inverse,
)

N = 300
RNG = np.random.default_rng(0)
BASIS = np.linalg.qr(RNG.normal(size=(N, N)))[0]


def factor(values):
    return ((BASIS * values) @ BASIS.T).astype("float32")[np.newaxis]


def add(shape, dtype, name):
    return keras.Variable(tf.zeros(shape, dtype), dtype=dtype.name, trainable=False, name=name)


def inverse(matrix, shift, tail=0.1, xla=False):
    """The filled inverse, and its products with a matrix from both sides, in float64."""
    variable = keras.Variable(matrix, trainable=False)
    kind = damped_inverse(add, variable, tail)

    @tf.function(jit_compile=xla)
    def fill():
        values = compute([kind], [tf.convert_to_tensor(variable.value)], [tf.constant([shift])], tail, xla)
        for place, value in zip(kind.variables, values):
            place.assign(value)

    fill()
    x = tf.eye(matrix.shape[-1])[tf.newaxis]
    left, right = kind.times(x, xla)[0], kind.times_right(x, xla)[0]
    return kind, left.numpy().astype("float64"), right.numpy().astype("float64")


@pytest.mark.parametrize("decay", [5.0, 10.0])
def test_eigenvalues_of_a_truncated_inverse_are_off_by_little_more_than_the_tail(decay):
    matrix = factor(np.exp(-np.arange(N) / decay))
    shift = 1e-2
    kind, left, right = inverse(matrix, shift)
    assert 0 < int(kind.rank.numpy()) < 0.4 * N
    assert np.allclose(left, right, atol=1e-3 / shift)
    # 1 for each eigenvalue where it is exact; the incomplete factorisation adds its own remainder.
    ratios = np.linalg.eigvals(left @ (matrix[0] + shift * np.eye(N))).real
    assert 0.9 < ratios.min() and ratios.max() < 1.2


def test_a_smaller_tail_is_closer():
    matrix, shift = factor(np.exp(-np.arange(N) / 10)), 1e-2

    def error(tail):
        ratios = np.linalg.eigvals(inverse(matrix, shift, tail)[1] @ (matrix[0] + shift * np.eye(N)))
        return np.abs(ratios - 1).max()

    assert error(1e-3) < 0.1 * error(0.1)


def test_what_is_cut_off_has_its_mean():
    """30 large eigenvalues, 120 that are cut off at 0.36 times the damping, 150 zeros."""
    shift = 1e-2
    values = np.r_[np.ones(30), np.full(120, 0.36 * shift), np.zeros(150)]
    kind, left, _ = inverse(factor(values), shift, tail=0.4)
    assert int(kind.rank.numpy()) == 30
    on_tail = np.diag(BASIS.T @ left @ BASIS)[30:] * shift
    assert np.allclose(on_tail, 1 / (1 + 0.36 * 120 / 270), rtol=0.02)


@pytest.mark.parametrize("case", ["no decay", "tail 0", "small", "xla"])
def test_where_truncation_does_not_pay_the_inverse_is_formed(case):
    values = np.linspace(1, 2, N) if case == "no decay" else np.exp(-np.arange(N) / 10)
    matrix = factor(values)[:, :64, :64] if case == "small" else factor(values)
    shift = 0.1
    kind, left, _ = inverse(matrix, shift, tail=0.0 if case == "tail 0" else 0.1, xla=case == "xla")
    assert isinstance(kind, TruncatedInverse) == (case in ("no decay", "xla"))
    assert not isinstance(kind, TruncatedInverse) or int(kind.rank.numpy()) == 0
    expected = np.linalg.inv(matrix[0].astype("float64") + shift * np.eye(len(left)))
    assert np.allclose(left, expected, atol=1e-4 / shift)


def test_a_truncated_inverse_made_by_lapack_serves_xla():
    kind, left, right = inverse(factor(np.exp(-np.arange(N) / 10)), 1e-2)
    x = tf.eye(N)[tf.newaxis]
    assert np.allclose(tf.function(kind.times, jit_compile=True)(x, True)[0], left, atol=1e-3)
    assert np.allclose(tf.function(kind.times_right, jit_compile=True)(x, True)[0], right, atol=1e-3)


def test_a_factor_that_is_not_finite_gives_nan():
    assert np.isnan(inverse(factor(np.full(N, np.nan)), 1e-2)[1]).all()


def test_no_batch_at_all_gives_the_damping_alone():
    kind, left, _ = inverse(np.zeros((1, N, N), "float32"), 0.5)
    assert np.allclose(left, 2 * np.eye(N))


def noisy_diagonal(noise):
    """Variances from 1 to 4, and correlations of random signs; with the damped matrix in float64."""
    scale = np.sqrt(np.linspace(1, 4, N))
    correlations = np.eye(N) + noise * (BASIS * np.sign(np.arange(N) % 2 - 0.5)) @ BASIS.T
    matrix = (scale[:, np.newaxis] * correlations * scale).astype("float32")[np.newaxis]
    return matrix, matrix[0].astype("float64") + 0.1 * np.eye(N)


@pytest.mark.parametrize("noise, rank", [(0.4, -1), (0.7, 0)])
def test_close_to_its_diagonal_it_is_one_and_as_far_off_as_promised(noise, rank):
    matrix, damped = noisy_diagonal(noise)
    kind, left, right = inverse(matrix, 0.1, tail=1.0)
    assert int(kind.rank.numpy()) == rank
    assert np.array_equal(left, right) if rank else np.allclose(left, right, atol=1e-5)
    ratios = np.linalg.eigvals(left @ damped).real
    assert 0.5 < ratios.min() and ratios.max() < 2
    if rank == -1:
        assert np.allclose(left, np.diag(1 / np.diag(damped)), rtol=1e-6)
        x = tf.reshape(tf.range(2.0 * N), [1, N, 2])
        for product, expected in (
            (kind.times, left @ x[0].numpy()),
            (lambda x, xla: kind.times_right(tf.transpose(x, [0, 2, 1]), xla), x[0].numpy().T @ left),
        ):
            assert np.allclose(tf.function(product, jit_compile=True)(x, True)[0], expected, rtol=1e-5)


def test_products_in_one_shape_are_traced_once_and_are_those_of_an_eager_run():
    kinds = [inverse(factor(np.exp(-np.arange(N) / decay)), 1e-2)[0] for decay in (5.0, 10.0, 1e6)]
    assert len({int(np.sign(kind.rank.numpy())) for kind in kinds}) == 2  # truncated, and not
    x = tf.constant(RNG.normal(size=(N, 7)), tf.float32)
    before = _cheapest_of_shape.experimental_get_tracing_count()

    @tf.function
    def products():
        return [kind.times(x, False) for kind in kinds]

    found = products()
    assert _cheapest_of_shape.experimental_get_tracing_count() == before + 1
    for kind, y in zip(kinds, found):
        assert np.allclose(y, kind.times(x, False), rtol=1e-5)
