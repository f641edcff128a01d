"""`kfisher.coverage` tells which rule each variable gets."""

import re

import keras
import numpy as np
import pytest
from keras import layers

import kfisher
from kfisher._common import html


def rules(model, x=None):
    return [(row.layer.split("/")[-1], row.variables, row.rule) for row in kfisher.coverage(model, x=x)]


def test_every_family_has_its_rule():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(2, 3, name="a"),
            layers.DepthwiseConv2D(3, use_bias=False, name="b"),
            layers.BatchNormalization(name="c"),
            layers.Reshape((16, 2)),
            layers.Conv1D(4, 3, name="d"),
            layers.LayerNormalization(center=False, name="e"),
            layers.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d", name="f"),
            layers.GRU(2, name="g"),
            layers.Dense(1, name="h"),
        ]
    )
    recurrent = ("gru_cell/kernel", "gru_cell/recurrent_kernel", "gru_cell/bias")
    assert rules(model) == [
        ("a", ("kernel", "bias"), "convolution"),
        ("b", ("kernel",), "depthwise convolution"),
        ("c", ("gamma", "beta"), "scale and shift"),
        ("d", ("kernel", "bias"), "convolution"),
        ("e", ("gamma",), "scale and shift"),
        ("f", ("kernel", "bias"), "einsum dense"),
        ("g", recurrent, "per example"),
        ("h", ("kernel", "bias"), "dense"),
    ]


def test_it_prints_as_a_table():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="first"), layers.PReLU(name="p")])
    assert str(kfisher.coverage(model)).splitlines() == [
        "layer  variables     rule",
        "-----  ------------  -----------",
        "first  kernel, bias  dense",
        "p      alpha         per example",
    ]


def test_it_is_a_table_in_a_notebook_too():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="first")])
    found = re.findall(r">([^<>]+)</t[hd]>", kfisher.coverage(model)._repr_html_())
    assert found == ["layer", "variables", "rule", "first", "kernel, bias", "dense"]
    assert html.table(["<a>"], [["&"]]).count("&") == 3  # escaped


def test_the_layers_of_attention_are_matrix_products():
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, layers.MultiHeadAttention(2, 2)(inputs, inputs))
    assert rules(model) == [
        (name, ("kernel", "bias"), "einsum dense") for name in ("query", "key", "value", "attention_output")
    ]


def test_frozen_variables_are_left_out_and_nested_layers_listed():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(3, name="b")])
    model = keras.Sequential([keras.Input((4,)), inner, layers.Dense(2, name="c")])
    inner.layers[0].trainable = False
    inner.layers[1].bias.trainable = False
    assert rules(model) == [("b", ("kernel",), "dense"), ("c", ("kernel", "bias"), "dense")]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.embedding, self.used = layers.Embedding(4, 2, name="table"), layers.Dense(3, name="used")
        self.idle = layers.Dense(2, name="idle")
        self.idle.build((None, 3))

    def call(self, ids):
        return self.used(self.embedding(ids))


def test_a_subclassed_model_is_read_from_a_batch():
    model, x = Subclassed(), np.array([[0, 1], [2, 3]])
    model(x)
    with pytest.raises(ValueError, match="Pass `x`, a batch of inputs"):
        kfisher.coverage(model)
    assert rules(model, x) == [
        ("table", ("embeddings",), "embedding"),
        ("used", ("kernel", "bias"), "dense"),
        ("idle", ("kernel",), "not used"),
        ("idle", ("bias",), "not used"),
    ]


def test_shared_variables_go_together():
    """The embedding is also used by the function, so only the model as a whole sees all of its uses."""
    inputs, table = keras.Input((2,), dtype="int32"), layers.Embedding(4, 3, name="table")
    outputs = layers.Lambda(lambda h: keras.ops.matmul(h, keras.ops.transpose(table.embeddings)))
    model = keras.Model(inputs, outputs(layers.Dense(3)(table(inputs))), name="whole")
    (row,) = kfisher.coverage(model)
    assert row.layer == "whole" and len(row.variables) == 3 and row.rule == "per example"


class Mixing(layers.Layer):
    """Uses its variable after the batch axis is gone."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(1,), name="scale")

    def call(self, x):
        return keras.ops.sum(x, axis=0) * self.scale


def test_a_model_without_a_batch_axis_is_refused():
    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match="batch axis is gone"):
        kfisher.coverage(keras.Model(inputs, Mixing()(inputs)))


class Around(layers.Layer):
    def __init__(self):
        super().__init__()
        self.normalisation = layers.BatchNormalization()

    def build(self, shape):
        self.scale = self.add_weight(shape=(1,), name="scale")

    def call(self, x):
        return self.normalisation(x) * self.scale


def test_batch_normalisation_inside_of_a_block_is_refused():
    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match="a layer of its own"):
        kfisher.coverage(keras.Model(inputs, Around()(inputs)))
