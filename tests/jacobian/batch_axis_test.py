"""Batches of one row, and batch axes whose size is not known before the graph runs."""

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
