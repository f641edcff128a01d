"""Coefficients of rows, summed into the gradients that rows come from."""

import numpy as np
import pytest
import tensorflow as tf

from kfisher.jacobian.layers.base import combine

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("known", [(None, None), (2, None), (None, 3), (2, 3), (1, None), (1, 3)])
@pytest.mark.parametrize("examples", [3, 0])
def test_it_is_the_sum_over_rows_whatever_is_known_of_their_number(known, examples):
    count = known[0] or 2
    if known[1] and not examples:
        known = (known[0], 0)
    u, g = RNG.normal(size=(count, examples)), RNG.normal(size=(count, examples, 2, 4))
    signature = [tf.TensorSpec(known, tf.float64), tf.TensorSpec((*known, 2, 4), tf.float64)]
    found = tf.function(combine, input_signature=signature, autograph=False)(u, g)
    assert found.shape == (examples, 2, 4)
    assert np.allclose(found, np.einsum("rn,rnij->nij", u, g))
