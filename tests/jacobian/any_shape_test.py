"""F through layer rules for layers of any shape and option, against autodiff of the compiled loss."""

import keras
import numpy as np
import pytest
from helpers import oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import kfisher

pytestmark = pytest.mark.usefixtures("float64_module")

few = settings(derandomize=True, deadline=None, max_examples=3)
small, flag = st.integers(1, 3), st.booleans()


def check(first, shape, examples, classes=None):
    """The layer, a nonlinearity and an output, so that what is pulled back is no constant."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape, dtype="int32" if classes else "float64")
    h = layers.Flatten()(layers.Activation("tanh")(first(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(h))
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x = rng.integers(0, classes, (examples, *shape)) if classes else rng.normal(size=(examples, *shape))
    y = np.zeros((examples, 2))
    for weights in (None, rng.uniform(0.1, 2, examples)):
        found = kfisher.FisherOperator(model, x, y, sample_weight=weights).to_dense()
        assert oracle.distance(found, oracle.gauss_newton(model, x, y, weights)) < 1e-10


@few
@given(examples=small, positions=st.lists(small, max_size=2), inputs=small, units=small, bias=flag)
def test_dense(examples, positions, inputs, units, bias):
    check(layers.Dense(units, use_bias=bias), (*positions, inputs), examples)


@few
@given(
    examples=small,
    length=st.integers(4, 7),
    groups=st.integers(1, 2),
    channels=st.integers(1, 2),
    kernel=small,
    stretch=st.sampled_from([(1, 1), (2, 1), (1, 2)]),
    padding=st.sampled_from(["valid", "same"]),
    bias=flag,
)
def test_convolution(examples, length, groups, channels, kernel, stretch, padding, bias):
    strides, dilation = stretch
    layer = layers.Conv1D(
        2 * groups, kernel, strides, padding, dilation_rate=dilation, groups=groups, use_bias=bias
    )
    check(layer, (length + dilation * (kernel - 1), groups * channels), examples)


@few
@given(
    examples=small,
    length=small,
    inputs=small,
    outputs=small,
    equation=st.sampled_from(["btd,de->bte", "btd,tde->bte", "btd,dte->be"]),
)
def test_einsum_dense(examples, length, inputs, outputs, equation):
    shape = outputs if equation.endswith("be") else (length, outputs)
    check(layers.EinsumDense(equation, shape, bias_axes="e"), (length, inputs), examples)


@few
@given(examples=small, length=small, classes=st.integers(1, 5), size=small)
def test_embedding(examples, length, classes, size):
    check(layers.Embedding(classes, size), (length,), examples, classes)
