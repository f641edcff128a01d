"""The pass that nobody is to notice."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import models
from keras import layers

from kfisher.damping import LevenbergMarquardt
from kfisher.jacobian.plan import plan
from kfisher.optimizers import NaturalGradient

X, Y = np.ones((4, 3), "float32"), np.ones((4, 1), "float32")


class Counting(keras.layers.Layer):
    """Scales by a weight, and keeps state of which Keras knows nothing."""

    def __init__(self):
        super().__init__()
        self.helper = tf.Module()
        self.random = tf.random.Generator.from_seed(1)

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones")
        self.calls = tf.Variable(0.0, trainable=False)
        self.helper.calls = tf.Variable(0, trainable=False)

    def call(self, x, training=False):
        if training:
            self.calls.assign_add(1.0)
            self.helper.calls.assign_add(1)
            tf.summary.scalar("mean", tf.reduce_mean(x), step=0)
        return x * self.scale + 1e-6 * self.calls + 0.1 * self.random.normal(())


def network(optimizer, **options):
    return models.network(optimizer, Counting(), loss="mse", outputs=1, **options)


def kept(model):
    layer = model.layers[0]
    return [layer.calls.numpy(), layer.helper.calls.numpy(), *layer.random.state.numpy()]


def after_three_steps(model, folder):
    """What its layer keeps, and how many records were written."""
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default():
        for _ in range(3):
            model.train_on_batch(X, Y)
    writer.close()
    (file,) = folder.iterdir()
    return kept(model), len(list(tf.data.TFRecordDataset(str(file))))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return after_three_steps(network("adam", run_eagerly=True), tmp_path_factory.mktemp("adam"))


QUADRATIC = {"step": "quadratic_model", "damping": LevenbergMarquardt(every=1)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"curvature": "gram"},
        {"curvature": "matrix_free"},
        QUADRATIC,
        {"curvature": "gram", "eager": True},
    ],
    ids=["kfac", "gram", "matrix_free", "quadratic_model", "gram_eager"],
)
def test_what_layers_keep_for_themselves_moves_once_a_step(options, reference, tmp_path):
    options = dict(options)
    eager = options.pop("eager", False)
    found = after_three_steps(network(NaturalGradient(0.01, seed=0, **options), run_eagerly=eager), tmp_path)
    assert found == reference
    assert found[0][:2] == [3, 3]


@pytest.mark.parametrize("unroll, vectorizes", [(False, False), (True, True)])
def test_vectors_are_pulled_through_loops_one_after_the_other(unroll, vectorizes):
    """Vectorized, TensorFlow's loops take long to trace, and are no faster for it."""
    model = keras.Sequential(
        [keras.Input((4, 2)), keras.layers.LSTM(3, unroll=unroll), keras.layers.Dense(2)]
    )
    assert plan(model, tf.zeros((5, 4, 2)), training=True).vectorizes is vectorizes


CONVOLUTIONS = {
    "convolution": [layers.Conv1D(2, 2)],
    "depthwise": [layers.DepthwiseConv1D(2)],
    "transposed": [layers.Conv1DTranspose(2, 2)],
    "over time": [layers.Reshape((2, 2, 2)), layers.TimeDistributed(layers.Conv1D(2, 1))],
    "none": [layers.Dense(2)],
    "recurrent": [layers.LSTM(2, return_sequences=True)],
}


def after(name):
    """A network that begins with these layers."""
    return keras.Sequential([keras.Input((4, 2)), *CONVOLUTIONS[name], layers.Flatten(), layers.Dense(1)])


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_and_loops_are_known_wherever_they_are(name):
    assert plan(after(name)).inlined == (name != "none")


def test_what_is_measured_of_a_model_without_convolutions_is_a_function_of_its_own():
    """Made ready sooner than in the graph; for those with convolutions see tests/_common/replicas_test.py."""
    model = after("none")
    model.compile(NaturalGradient(0.1, seed=0), "mse")
    x, y = tf.ones((3, 4, 2)), tf.ones((3, 1))
    observe = tf.function(lambda: model.optimizer.observe(model, x, y))
    nodes = observe.get_concrete_function().graph.as_graph_def().node
    assert {n.attr["_lower_using_switch_merge"].b for n in nodes if n.op == "If"} == {False}
