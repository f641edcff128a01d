"""Batches of one row, and batch axes whose size is not known before the graph runs."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kfisher


def graph_of_rows(model, shape, dtype="float32"):
    """The rows of A in a graph for batches of any size."""
    model.compile(loss="mse")

    def rows(x):
        return kfisher.FisherOperator(model, x, fisher=kfisher.Sampled(num_samples=1)).root.rows()

    return tf.function(rows, autograph=False, input_signature=[tf.TensorSpec((None, *shape), dtype)])


def test_one_row_through_an_unrolled_recurrence():
    model = keras.Sequential([keras.Input((6, 1)), layers.LSTM(3, unroll=True), layers.Dense(2)])
    rows = graph_of_rows(model, (6, 1))
    x = np.random.default_rng(0).normal(size=(2, 6, 1)).astype("float32")
    # A row of one example depends on its draw of labels in length only.
    one, two = rows(x[:1])[0], rows(x)[0]
    assert abs(np.vdot(one, two)) > 1e-6
    assert one.shape == two.shape and rows(x[:1]).shape == (1, model.count_params())


def text_model():
    return kfisher.Sequential(
        [
            keras.Input((1,), dtype="string"),
            layers.TextVectorization(output_sequence_length=4, vocabulary=["a", "b", "c"]),
            layers.Embedding(6, 3),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1),
        ]
    )


def test_a_pipeline_of_strings_inside_of_the_model():
    text = tf.constant([["a b c"], ["b c"], ["a"], ["c c a"]] * 5)
    model = text_model()
    assert [row.rule for row in kfisher.coverage(model)] == ["embedding", "dense"]
    model.compile(kfisher.optimizers.NaturalGradient(0.1), "mse")
    loss = model.fit(text, np.arange(20.0) % 3, epochs=3, verbose=0).history["loss"]
    assert loss[-1] < loss[0]


class Kept(layers.Layer):
    """Only the examples that are larger than 0, through weights of their own."""

    def __init__(self):
        super().__init__(name="kept")
        self.dense = layers.Dense(2, name="dense")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return tf.reduce_sum(self.dense(tf.boolean_mask(x, x[:, 0] > 0))) + x


def test_rows_that_are_no_longer_the_batch_are_an_error():
    model = keras.Sequential([keras.Input((2,)), Kept()])
    with pytest.raises(tf.errors.InvalidArgumentError, match="dense.* uses .* the batch axis is gone"):
        graph_of_rows(model, (2,))(tf.constant([[1.0, 2.0], [-1.0, 3.0]]))


def products_with_one_matrix(graph):
    """The shapes of stacks of matrices with a single example that are multiplied by one matrix."""
    inner = [graph, *(f.graph for f in graph._functions.values() if hasattr(f, "graph"))]
    ops = [op for g in inner for op in g.get_operations() if op.type.startswith("BatchMatMul")]
    return [
        tuple(op.inputs[0].shape)
        for op in ops
        if op.inputs[1].shape.rank == 2 and op.inputs[0].shape.rank == 4 and op.inputs[0].shape[1] == 1
    ]


class Tied(layers.Layer):
    """Two products with one matrix, taken as one block."""

    def __init__(self):
        super().__init__()
        self.inner = layers.Dense(4)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x) + tf.matmul(x, tf.convert_to_tensor(self.inner.kernel))


@pytest.mark.parametrize("make, size", [(lambda: layers.Dense(4), 1), (Tied, 3)])
def test_no_vectors_go_together_through_a_single_example(make, size):
    model = keras.Sequential(
        [keras.Input((3, 4)), layers.Dense(4), make(), layers.Flatten(), layers.Dense(5)]
    )
    model.compile(loss="mse")
    x = np.random.default_rng(0).normal(size=(size, 3, 4)).astype("float32")

    def matvec(x):
        root = kfisher.FisherOperator(model, x).root
        return root.rows()

    graph = tf.function(matvec, autograph=False).get_concrete_function(tf.TensorSpec(x.shape))
    assert not products_with_one_matrix(graph.graph)
    jacobian = 5 * size / 2 * np.sum(np.square(graph(tf.constant(x))))
    with tf.GradientTape(persistent=True) as tape:
        outputs = tf.unstack(tf.reshape(model(x), [-1]))
    each = [tape.gradient(f, [v.value for v in model.trainable_variables]) for f in outputs]
    np.testing.assert_allclose(jacobian, sum(np.sum(np.square(g)) for gs in each for g in gs), rtol=1e-4)


def of_frames(*inside):
    """Five frames of an example, folded into the batch axis for a while."""
    x = keras.Input((5, 4))
    h = keras.ops.reshape(x, (-1, 4))
    for layer in inside:
        h = layer(h)
    return keras.Model(x, keras.ops.mean(keras.ops.reshape(h, (-1, 5, 3)), 1), name="whole")


def test_frames_that_are_folded_into_the_batch_are_left_to_the_model():
    (row,) = kfisher.coverage(of_frames(layers.Dense(3)))
    assert row.layer == "whole" and row.rule == "per example"


def test_frames_that_are_folded_into_the_batch_are_told_of_where_they_are_normalised():
    with pytest.raises(ValueError, match="several frames of an example.*TimeDistributed.*'of_frames'"):
        kfisher.coverage(of_frames(layers.Dense(3, name="of_frames"), layers.BatchNormalization()))


def ended(code):
    """How a process of its own ends with this program: 0, or minus the signal that ended it."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.by_hand
def test_the_product_that_is_avoided_still_spoils_memory():
    """A canary: where this fails, `pull_back._map` and what is called `broadcasts` may go.

    Not on all processors does a process end of what is written past the end: one that goes on shows nothing.
    """
    product = "tf.raw_ops.BatchMatMulV2(x=tf.random.normal((15, {}, 4, 8)), y=tf.random.normal((8, 8)))"
    code = "import tensorflow as tf\nfor _ in range(400): " + product
    assert ended(code.format(2)) == 0
    if ended(code.format(1)) == 0:
        pytest.skip("the product of one example does no harm here")


LANGUAGE_MODEL = """
import tempfile, numpy as np, keras, kfisher
from keras import layers
inputs = keras.Input((8,), dtype="int32")
hidden = layers.Embedding(50, 16)(inputs)
attended = layers.MultiHeadAttention(2, 8)(hidden, hidden, use_causal_mask=True)
hidden = layers.LayerNormalization()(hidden + attended)
model = {model}(inputs, layers.Dense(50)(layers.Dense(16, "gelu")(hidden)))
model.compile({optimizer}, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
x = np.random.default_rng(0).integers(0, 50, (9, 8))
model.fit(x, np.roll(x, -1, 1), batch_size=8, epochs=4, verbose=0, callbacks={callbacks})
"""


@pytest.mark.slow
@pytest.mark.by_hand
@pytest.mark.parametrize(
    "model, optimizer, callbacks",
    [
        ("keras.Model", "'adam'", "[kfisher.callbacks.TensorBoard(tempfile.mkdtemp())]"),
        ("kfisher.Model", "kfisher.optimizers.NaturalGradient(fisher='exact')", "[]"),
        (
            "kfisher.Model",
            "kfisher.optimizers.NaturalGradient(fisher=kfisher.Sampled(3), curvature='gram')",
            "[]",
        ),
    ],
)
def test_a_language_model_and_a_last_batch_of_one_row_go_to_the_end(model, optimizer, callbacks):
    assert ended(LANGUAGE_MODEL.format(model=model, optimizer=optimizer, callbacks=callbacks)) == 0
