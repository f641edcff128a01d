"""A layer that its rule does not describe is an error that names it, and no wrong Fisher matrix."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kfisher
from kfisher._keras.private import compiled_by_xla
from kfisher.jacobian.layers.dense import DenseRule
from kfisher.jacobian.self_check import SelfCheck

X, Y = np.random.default_rng(0).normal(size=(2, 6, 2)).astype("float32")


class Network(kfisher.FisherMixin, keras.Model):
    """Two layers, the second of which is called `wrong`."""

    def __init__(self):
        super().__init__()
        self.first, self.wrong = layers.Dense(3, "tanh", name="first"), layers.Dense(2, name="wrong")

    def build(self, shape):
        self.first.build(shape)
        self.wrong.build((None, 3))

    def call(self, x):
        return self.wrong(self.first(x))


class BehindKeras(Network):
    """Reads a kernel once more, where no call of a layer shows it."""

    def call(self, x):
        x = self.first(x)
        return self.wrong(x) + tf.tanh(tf.matmul(x, tf.identity(self.wrong.kernel._value)))


class Unnoticed(Network):
    """Takes a derivative from no tape."""

    def call(self, x):
        out = self.wrong(self.first(x))
        return out + (0.0 if tf.executing_eagerly() else tf.gradients(out, x)[0])


def compiled(make, **options):
    model = make()
    model.build((None, 2))
    model.compile(kfisher.optimizers.NaturalGradient(0.1, "exact", "gram"), "mse", **options)
    return model


@pytest.mark.parametrize("eager", [False, True])
def test_a_variable_that_is_read_behind_keras_is_an_error(eager):
    model = compiled(BehindKeras, run_eagerly=eager)
    before = [np.array(v) for v in model.trainable_variables]
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"Received: layers:.*wrong") as e:
        model.fit(X, Y, verbose=0)
    assert "/first" not in str(e.value).split("layers:")[1].split("\n")[0]
    for old, new in zip(before, model.trainable_variables):
        np.testing.assert_array_equal(old, new)


def test_a_derivative_that_no_tape_tells_of_is_an_error():
    with pytest.raises(tf.errors.InvalidArgumentError, match="Received: layers:.*wrong"):
        compiled(Unnoticed).fit(X, Y, verbose=0)


def test_a_wrong_rule_is_an_error(monkeypatch):
    right = DenseRule.rmatvec

    def wrong(self, coefficients):
        kernel, bias = right(self, coefficients)
        return [kernel, 1.1 * bias if self.layer_calls[0].layer.name == "wrong" else bias]

    monkeypatch.setattr(DenseRule, "rmatvec", wrong)
    with pytest.raises(ValueError, match=r"Received: layers: \S*wrong \(rule 'dense'\)$"):
        kfisher.FisherOperator(compiled(Network), X)


def test_rounding_in_half_precision_is_no_error_where_the_last_layer_is_in_single_precision():
    model = kfisher.Sequential([keras.Input((2,)), layers.Dense(8, "tanh", dtype="mixed_bfloat16")])
    model.add(layers.Dense(2, dtype="float32"))
    model.compile(loss="mse")
    kfisher.FisherOperator(model, np.random.default_rng(0).normal(size=(500, 2)).astype("float32"))


class Deciding(layers.Layer):
    """Two activations, one of which is chosen."""

    def __init__(self, by, **options):
        super().__init__(**options)
        self.by = by

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")
        self.state = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, x):
        x, activations = x * self.scale, [lambda: tf.tanh(x), lambda: tf.sin(x)]
        if self.by == "number":
            return tf.switch_case(tf.cast(self.state, tf.int32), activations)
        return tf.cond((tf.reduce_mean(x) if self.by == "mean" else self.state) > 0, *activations)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("by", ["state", "number", "mean"])
def test_a_condition_in_a_layer_is_exact_and_one_that_mixes_examples_is_an_error(by, eager):
    """The mean of these examples and of most of them alone have other signs."""
    x = np.array([[-9.0, -9.0], [2.0, 2.0], [1.0, 2.0], [2.0, 1.0]], "float32")
    sequence = [keras.Input((2,)), layers.Dense(2, "tanh"), Deciding(by, name="deciding"), layers.Dense(2)]
    sequence[1].build((None, 2))
    sequence[1].set_weights([0.1 * np.eye(2), np.zeros(2)])
    model = compiled(lambda: kfisher.Sequential(sequence), run_eagerly=eager)
    if by != "mean":
        model.fit(x, Y[:4], verbose=0)
        assert int(model.optimizer.iterations) == 1 and int(model.optimizer.skipped_steps) == 0
        return
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="deciding"):
        model.fit(x, Y[:4], verbose=0)


@pytest.mark.parametrize("eager", [False, True])
def test_it_is_done_once(eager, monkeypatch):
    done, compare = [], SelfCheck._wrong

    def counting(self, rules, groups):
        with tf.control_dependencies([tf.py_function(lambda: done.append(1), [], [])]):
            return tf.identity(compare(self, rules, groups))

    monkeypatch.setattr(SelfCheck, "_wrong", counting)
    model = compiled(Network, run_eagerly=eager)
    model.fit(X, Y, batch_size=2, epochs=2, verbose=0)
    assert len(done) == 1


def test_what_is_not_finite_is_not_its_business():
    model = compiled(Network)
    model.fit(np.full_like(X, np.nan), Y, verbose=0)
    assert int(model.optimizer.skipped_steps) == 1


def test_a_graph_for_xla_is_known_by_it():
    seen = []

    def trace():
        seen.append(compiled_by_xla())
        return tf.zeros(())

    tf.function(trace)()
    tf.function(trace, jit_compile=True)()
    assert seen == [False, True] and not compiled_by_xla()
