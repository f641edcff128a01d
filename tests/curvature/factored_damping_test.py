"""The damping of a block, shared out between its two factors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kfisher.curvature.kfac import factored_damping
from kfisher.jacobian.layers.blocks import Block, Piece

RNG = np.random.default_rng(0)


def block(groups, inputs, outputs):
    variable = keras.Variable(np.zeros((groups, inputs, outputs)))
    return Block((Piece(variable, (groups, inputs, outputs), (0, 1, 2), (groups, inputs, outputs)),))


def factor(groups, n, diagonal=False):
    rows = RNG.normal(size=(groups, n + 2, n))
    moment = np.einsum("gri,grj->gij", rows, rows)
    return np.einsum("gii->gi", moment) if diagonal else moment


CASES = [(1, 3, 2), (2, 3, 2), (1, 1, 4), (2, 1, 3), (1, 4, 1), (3, 2, 1), (1, 1, 1)]


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("vanishes", [False, True])
def test_the_product_is_the_damping_and_a_number_leaves_all_of_it_to_the_other(diagonal, vanishes):
    """All blocks at once, in two precisions; each by the formula, π √λ and √λ / π, or 0 and λ / number."""
    pairs = [(factor(g, i, diagonal), factor(g, o)) for g, i, o in CASES]
    if vanishes:
        pairs = [(0 * a, 0 * b) for a, b in pairs]
    dampings = 10.0 ** -np.arange(len(CASES))
    dtypes = [tf.float32 if k % 2 else tf.float64 for k in range(len(CASES))]
    given = [(tf.constant(a, d), tf.constant(b, d)) for (a, b), d in zip(pairs, dtypes)]
    blocks = [block(*case) for case in CASES]
    found = factored_damping(blocks, given, tf.constant(dampings, tf.float64))
    for (g, i, o), (a, b), lam, dtype, left, right in zip(CASES, pairs, dampings, dtypes, *found):
        assert left.shape == right.shape == (g,) and left.dtype == right.dtype == dtype
        mean_a = (a if a.ndim == 2 else np.einsum("gii->gi", a)).mean(-1)
        mean_b = np.einsum("gii->gi", b).mean(-1)
        if i == 1 and not vanishes:
            expected = 0 * mean_a, lam / mean_a
        elif o == 1 and not vanishes:
            expected = lam / mean_b, 0 * mean_b
        else:
            pi = np.ones(g) if vanishes else np.sqrt(mean_a / mean_b)
            expected = pi * np.sqrt(lam), np.sqrt(lam) / pi
        assert np.allclose(left, expected[0], rtol=1e-5) and np.allclose(right, expected[1], rtol=1e-5)
