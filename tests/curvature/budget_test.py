"""What Kronecker factors may take in memory, and what becomes of those that do not fit."""

import math
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import EAGER
from keras import layers

import kfisher
from kfisher.curvature import EKFAC, KFAC
from kfisher.jacobian.layers import blocks_of

X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
# 7 x 40, 41 x 30 and 31 x 1: each factor twice in float32.
ALL = 8 * (7**2 + 40**2 + 41**2 + 30**2 + 31**2 + 1)


def network(curvature):
    stack = [
        layers.Dense(40, "tanh", name="a"),
        layers.Dense(30, "tanh", name="b"),
        layers.Dense(1, name="c"),
    ]
    model = kfisher.Sequential([keras.Input((6,)), *stack])
    model.compile(kfisher.optimizers.NaturalGradient(curvature=curvature, seed=0), "mse", **EAGER)
    return model


def bytes_of(curvature):
    found = [v for pair in curvature.averages for v in pair]
    if isinstance(curvature, KFAC):
        found += [v for pair in curvature.inverses for inverse in pair for v in inverse.variables]
    else:
        found += [basis for pair in curvature.bases for basis in pair if basis is not None]
    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in found)


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_the_largest_factors_are_diagonal_until_the_rest_fits_and_it_is_said(kind):
    curvature = kind(max_memory=ALL - 8 * 41**2)
    model = network(curvature)
    described = [row.curvature for row in kfisher.coverage(model, curvature)]
    assert described == ["7 x 40", "diagonal 41 x 30", "31 x 1"]
    with pytest.warns(
        UserWarning, match=r"more than 40 rows as their diagonals: in full they would take .*max_memory="
    ):
        model.optimizer.build(model.trainable_variables)
    diagonal = 3 * 4 * 41  # it, and what is made of it
    assert bytes_of(curvature) <= curvature.max_memory + diagonal
    losses = model.fit(X, X[:, :1], batch_size=8, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("most", [ALL, None, "auto"])
def test_nothing_is_said_where_all_fit(most):
    curvature = KFAC(max_memory=most)
    model = network(curvature)
    assert [row.curvature for row in kfisher.coverage(model, curvature)] == ["7 x 40", "41 x 30", "31 x 1"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.optimizer.build(model.trainable_variables)
    assert KFAC.from_config(curvature.get_config()).max_memory == most


def test_less_than_any_factor_leaves_diagonals_alone():
    curvature = KFAC(max_memory=1)
    described = [row.curvature for row in kfisher.coverage(network(curvature), curvature)]
    assert described == ["diagonal 7 x diagonal 40", "diagonal 41 x diagonal 30", "diagonal 31 x 1"]


@pytest.mark.slow
@pytest.mark.by_hand
@pytest.mark.parametrize("name", ["ResNet50V2", "EfficientNetV2B0", "DenseNet121"])
def test_large_models_keep_to_four_times_their_parameters(name):
    model = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3), classes=10)
    blocks, curvature = blocks_of(model, None), KFAC()
    largest = curvature.largest(blocks)
    full = [
        block.groups * rows**2
        for block in blocks
        for rows in (block.inputs, block.outputs)
        if rows <= largest
    ]
    parameters = sum(math.prod(v.shape) for v in model.trainable_variables)
    assert 8 * sum(full) <= max(16 * parameters, 2**26)
    # ... and most factors of kernels are whole.
    sides = [
        rows <= largest for block in blocks if block.inputs > 1 for rows in (block.inputs, block.outputs)
    ]
    assert np.mean(sides) > 0.6
