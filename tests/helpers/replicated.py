"""Training on replicas beside training on one: what the tests of several devices share.

All of it runs in a process of its own, which has logical devices; see `tests/distribute/mirrored_test.py`.
"""

import contextlib
import faulthandler
import functools

import keras
import numpy as np
import tensorflow as tf

import kfisher

RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(24, 5)), RNG.integers(0, 3, size=24)


def start(devices=4):
    """Divides the CPU; to be called before TensorFlow has done anything. A crash says where it was."""
    faulthandler.enable()
    cpu = tf.config.list_physical_devices("CPU")[0]
    configuration = [tf.config.LogicalDeviceConfiguration() for _ in range(devices)]
    tf.config.set_logical_device_configuration(cpu, configuration)
    tf.config.threading.set_inter_op_parallelism_threads(8)
    double()


def double():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


@functools.cache
def mirrored(replicas):
    """The strategy with so many replicas: one in a process, as TensorFlow counts what crosses in each anew.

    Those with another number of replicas count from elsewhere. The name is private, and there for tests.
    """
    tf.distribute.MirroredStrategy._collective_key_base = 10000 * replicas
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


def scope(strategy):
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def dense(loss=None):
    """A small classifier."""
    model = kfisher.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(3)]
    )
    return model, loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def broad():
    """With factors of more rows than a few examples have numbers."""
    layers = [keras.Input((5,)), keras.layers.Dense(12, activation="tanh"), keras.layers.Dense(3)]
    return kfisher.Sequential(layers), crossentropy()


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@keras.saving.register_keras_serializable("kfisher_tests")
class Back(keras.layers.Layer):
    """Multiplies by the transpose of the kernel of another layer."""

    def __init__(self, other):
        super().__init__()
        self.other = other

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.other.kernel))


def many():
    """Of each kind of layer one: a kernel with two uses, recurrence, an embedding, a convolution."""
    x, there = keras.Input((5,)), keras.layers.Dense(3, "tanh")
    codes = keras.layers.Lambda(lambda x: keras.ops.cast(x > 0, "int32"))(x)
    convolved = keras.layers.Conv1D(4, 2, activation="tanh")(keras.layers.Embedding(2, 3)(codes))
    recurrent = keras.layers.GRU(3)(keras.layers.Reshape((5, 1))(x))
    parts = [Back(there)(there(x)), recurrent, keras.layers.Flatten()(convolved)]
    return kfisher.Model(x, keras.layers.Dense(3)(keras.layers.Concatenate()(parts))), crossentropy()


MODELS = {"dense": dense, "broad": broad, "many": many}


def trained(strategy, make_optimizer, make_model=dense, data=(X, LABELS), steps=6, **compiled):
    """A model after some steps of `fit`, each on the whole of `data`."""
    with scope(strategy):
        keras.utils.set_random_seed(3)
        model, loss = make_model()
        model.compile(optimizer=make_optimizer(), loss=loss, **compiled)
    again(model, steps, data)
    return model


def again(model, steps=1, data=(X, LABELS)):
    """More steps. In one epoch: of an epoch, TensorFlow's iterators cost more than such a step."""
    repeated = [np.concatenate([part] * steps) for part in data]
    return model.fit(*repeated, batch_size=len(data[0]), shuffle=False, verbose=0)


def skips_what_is_bad_on_any(model, replicas):
    """A batch with NaN in the part of each replica in turn: no weight changes on any."""
    optimizer_ = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    skipped = int(optimizer_.skipped_steps.numpy())
    for replica in range(replicas):
        x = X.copy()
        x[len(X) // replicas * replica + 5, 2] = np.nan
        before = weights_of(model)
        again(model, data=(x, LABELS))
        assert all(np.array_equal(a, b) for a, b in zip(before, weights_of(model)))
        assert int(optimizer_.skipped_steps.numpy()) == skipped + 1 + replica


def weights_of(model):
    return [np.asarray(v.numpy()) for v in model.trainable_variables]


def distance(model, other):
    """The largest difference of two weights."""
    return max(np.abs(a - b).max() for a, b in zip(weights_of(model), weights_of(other)))


def moved(model, make_model=dense):
    """How far the farthest weight has come from its start."""
    keras.utils.set_random_seed(3)
    return distance(model, make_model()[0])


def copies(variable):
    """The values of a variable on all local replicas."""
    value = variable.value
    values = getattr(value, "values", (value,))
    return [v.numpy() for v in values]


def copies_are_equal(model):
    """True if all state of model and optimizer is the same on all replicas, to the last bit."""
    state = [*model.variables, *model.optimizer.variables]
    skipped = {id(v) for metric in model.metrics for v in metric.variables}  # each counts its own examples
    return all(
        c.tobytes() == kept[0].tobytes()
        for kept in (copies(v) for v in state if id(v) not in skipped)
        for c in kept
    )


def optimizer(curvature="kfac", fisher="sampled", **settings):
    """A function that makes an optimizer with momentum and a trust region."""
    settings = {"momentum": 0.5, "trust_region": 0.01, "seed": 1, **settings}
    return lambda: kfisher.optimizers.NaturalGradient(0.3, curvature=curvature, fisher=fisher, **settings)
