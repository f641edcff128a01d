"""Lists of tensors as vectors."""

from unittest import mock

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfisher._common import vectors as vectors_
from kfisher._common.rows import of_shape
from kfisher._common.vectors import Packing, all_finite

shapes = st.lists(st.integers(0, 4), max_size=3)


def zeros(shape, initializer, dtype, name):
    return keras.Variable(np.zeros(shape), dtype=dtype, name=name)


kinds = st.sampled_from(["float32", "float64", "bfloat16"])


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.tuples(shapes, kinds), min_size=1, max_size=5), st.sampled_from([6, 2**16]))
def test_a_packing_gives_back_what_it_packs(parts, large):
    """One vector for each dtype, and one for each large variable; of any shape, numbers and nothing too."""
    values = [np.arange(np.prod(shape, dtype=int)).reshape(shape) + i for i, (shape, _) in enumerate(parts)]
    variables = [keras.Variable(x, dtype=dtype) for x, (_, dtype) in zip(values, parts)]
    with mock.patch.object(vectors_, "_LARGE", large):
        packing = Packing(variables)
    vectors = packing.pack([v.value for v in variables])
    alone = [x.size for x in values if x.size >= large]
    small = {dtype for x, (_, dtype) in zip(values, parts) if x.size < large}
    assert len(vectors) == len(alone) + len(small)
    assert all(n in [len(v) for v in vectors] for n in alone)
    assert sum(len(v) for v in vectors) == sum(x.size for x in values)
    assert [v.shape for v in vectors] == [v.shape for v in packing.variables(zeros, "kept")]
    for found, variable, value in zip(packing.unpack(vectors), variables, values, strict=True):
        assert found.dtype.name == variable.dtype and np.array_equal(found.numpy().astype(int), value)


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf"), -float("inf")])
def test_a_single_entry_of_any_tensor_is_seen(spoilt):
    tensors = [np.ones(()), np.ones(3, "float32"), np.ones((2, 2))]
    assert all_finite([keras.ops.convert_to_tensor(t) for t in tensors])
    for i, t in enumerate(tensors):
        bad = t.copy()
        bad.flat[-1] = spoilt
        assert not all_finite(
            [keras.ops.convert_to_tensor(t) for t in [*tensors[:i], bad, *tensors[i + 1 :]]]
        )


def test_a_shape_that_is_known_takes_no_operation_and_another_is_an_error():
    t = keras.ops.ones((2, 3))
    assert of_shape(t, [2, 3]) is t
    with pytest.raises(Exception, match="not compatible"):
        of_shape(t, [2, 4])
