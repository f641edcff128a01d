"""The recorded pass leaves no trace, sees what training sees, and keeps the promise about memory."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.versions import not_in_oldest
from keras import layers

import kfisher
from kfisher.jacobian.batch import Batch

N = 4


def numbers(*shape):
    return np.random.default_rng(2).normal(size=(N, *shape)).astype("float32")


def network(make=keras.Sequential):
    """With everything in it that a pass could move: statistics, seeds, states, fused activations."""
    return make(
        [
            keras.Input((3, 2)),
            layers.GaussianNoise(0.1),
            layers.Dense(4, activation="tanh"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.LSTM(3, dropout=0.2, unroll=True),
            layers.Dense(2, activation=layers.LeakyReLU(0.1)),
        ]
    )


def traces(model):
    """What a pass must leave as it found it, apart from values."""
    names = ("call", "activation", "momentum")
    return (
        keras.layers.Layer.__call__,
        keras.losses.Loss.__call__,
        [{k: v for k, v in vars(layer).items() if k in names} for layer in model.layers],
        model.loss,
        [v.path for v in model.variables],
    )


def values(model):
    return [np.array(v) for v in model.variables]


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_pass_leaves_everything_as_it_was(mode):
    model = network()
    model.compile(loss="mse")
    model(numbers(3, 2), training=True)  # statistics and seeds are not those of a new model
    before, state = traces(model), values(model)

    def pass_over(x):
        return kfisher.FisherOperator(model, x, training=True).to_dense()

    pass_over = pass_over if mode == "eager" else tf.function(pass_over, autograph=False)
    first = pass_over(numbers(3, 2))
    assert traces(model) == before
    assert_equal(values(model), state)
    # Nothing has moved, so the same masks are drawn again.
    np.testing.assert_allclose(pass_over(numbers(3, 2)), first, rtol=1e-5, atol=1e-7)


class Failing(layers.Layer):
    """Raises, once it is told to."""

    fails = False

    def build(self, shape):
        self.scale = self.add_weight(shape=(1,), name="scale")

    def call(self, x):
        if self.fails:
            raise RuntimeError("as told")
        return x * self.scale


@pytest.mark.parametrize("planned", [False, True])
def test_a_pass_that_raises_leaves_everything_as_it_was(planned):
    """Both while the layers are looked for and while they are recorded."""
    failing = Failing()
    model = network()
    model = keras.Sequential([keras.Input((3, 2)), *model.layers[:-1], failing, model.layers[-1]])
    model.compile(loss="mse")
    before, state = traces(model), values(model)
    if planned:
        kfisher.coverage(model, x=numbers(3, 2))
    failing.fails = True
    with pytest.raises(RuntimeError, match="as told"):
        kfisher.FisherOperator(model, numbers(3, 2), training=True)
    assert traces(model) == before
    assert_equal(values(model), state)


def test_a_call_that_the_user_replaced_is_put_back():
    model = network()
    layer, calls = model.layers[1], []
    original = layer.call
    layer.call = lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)
    mine = layer.call
    kfisher.FisherOperator(model, numbers(3, 2), loss="mse")
    assert layer.call is mine and calls


@pytest.mark.parametrize("eager", [pytest.param(False, marks=[pytest.mark.slow, pytest.mark.by_hand]), True])
def test_statistics_and_seeds_after_a_step_are_those_of_keras(eager):
    """One step of each from the same weights; only the trainable weights may differ."""
    plain, ours = network(), network(kfisher.Sequential)
    for theirs, variable in zip(plain.variables, ours.variables, strict=True):
        variable.assign(theirs)
    plain.compile("sgd", loss="mse", run_eagerly=eager)
    ours.compile(kfisher.optimizers.NaturalGradient(0.1, fisher="exact"), "mse", run_eagerly=eager)
    start = values(ours)
    for model in (plain, ours):
        model.fit(numbers(3, 2), numbers(2), batch_size=N, epochs=1, verbose=0)
    moved = [not np.array_equal(a, b) for a, b in zip(start, values(ours), strict=True)]
    assert all(moved), "a state that never moves shows nothing"
    # The two graphs may add up in another order: statistics to rounding, seeds exactly.
    for a, b in zip(plain.non_trainable_variables, ours.non_trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=0 if "seed" in a.path else 1e-6)


class Watching(layers.Layer):
    """Keeps what it is called with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, x):
        if tf.executing_eagerly():  # and not while the layers are looked for
            self.seen.append(np.array(x))
        return x


@pytest.mark.parametrize("fisher", ["exact", "empirical"])
def test_the_pass_draws_the_masks_of_the_training_step(fisher):
    watching = Watching()
    model = kfisher.Sequential(
        [keras.Input((6,)), layers.Dense(8), layers.Dropout(0.5), watching, layers.Dense(2)]
    )
    model.compile(kfisher.optimizers.NaturalGradient(0.1, fisher=fisher), "mse", run_eagerly=True)
    model.train_on_batch(numbers(6), numbers(2))
    curvature, training = watching.seen
    assert np.any(training == 0)
    np.testing.assert_array_equal(curvature, training)


def test_a_layer_that_is_repeated_draws_the_masks_of_the_training_step():
    """The rule of an LSTM runs it again after the training pass has moved its seed and its states on.

    The reference is (J^T J 2/(N C) + damping)^-1 g by autodiff of the whole batch at the seeds before the
    step. In float32, with a condition number of about 10 after damping: 1e-4.
    """
    model = kfisher.Sequential(
        [
            keras.Input(batch_shape=(N, 3, 2)),
            layers.LSTM(2, dropout=0.4, stateful=True, unroll=True),
            layers.Dense(1),
        ]
    )
    x, y, damping = numbers(3, 2), numbers(1), 0.1
    optimizer = kfisher.optimizers.NaturalGradient(1.0, "exact", "gram", damping, trust_region=None)
    model.compile(optimizer, "mse", run_eagerly=True)

    variables = [v.value for v in model.trainable_variables]
    with keras.StatelessScope(), tf.GradientTape(persistent=True) as tape:
        outputs = model(x, training=True)
        each = tf.unstack(outputs[:, 0])
    flat = lambda tensors: np.concatenate([np.ravel(t) for t in tensors]).astype("float64")
    jacobian = np.stack([flat(tape.gradient(f, variables)) for f in each])
    f = outputs.numpy().astype("float64")
    gradient = jacobian.T @ (f - y)[:, 0] * 2 / N
    fisher = jacobian.T @ jacobian * 2 / N
    step = np.linalg.solve(fisher + damping * np.eye(len(fisher)), gradient)

    before = flat(model.trainable_variables)
    model.train_on_batch(x, y)
    np.testing.assert_allclose(before - flat(model.trainable_variables), step, rtol=1e-3, atol=1e-4)


def sizes(graph):
    """(elements, name) of every tensor of static shape in a graph and in the functions that it calls."""
    definition = graph.as_graph_def(add_shapes=True)
    for nodes in [definition.node, *(function.node_def for function in definition.library.function)]:
        for node in nodes:
            for shape in node.attr["_output_shapes"].list.shape:
                if not shape.unknown_rank and all(d.size >= 0 for d in shape.dim):
                    yield int(np.prod([d.size for d in shape.dim])), node.name


def solve_graph(shape, widths, fisher):
    """The graph of one Gram solve on a batch, and the size of that."""
    size = 16
    model = keras.Sequential([keras.Input(shape), *(layers.Dense(w, "relu") for w in widths)])
    if len(shape) > 1:
        model.add(layers.GlobalAveragePooling1D())
    model.add(layers.Dense(2))
    model.compile(loss="mse")
    gradient = [tf.ones(v.shape) for v in model.trainable_variables]

    @tf.function(autograph=False)
    def solve(x, y):
        batch = Batch(model, x, y, None, kfisher.fisher.get(fisher), tf.constant([0, 0]), training=False)
        return kfisher.curvature.Gram().solve(batch, gradient, tf.constant(0.1))

    x = tf.zeros((size, *shape))
    return solve.get_concrete_function(x, tf.zeros((size, 2))).graph, size


POSITIONS = not_in_oldest("their gradient of a Dense layer on positions is one of each example")


@pytest.mark.parametrize("fisher", ["exact", "empirical"])
@pytest.mark.parametrize(
    "shape, widths",
    [
        ((300,), [300] * 2),
        pytest.param((6, 300), [300] * 2, marks=POSITIONS),
        pytest.param((24, 300), [300], marks=POSITIONS),
    ],
)
def test_no_tensor_has_a_row_of_parameters_for_each_example(fisher, shape, widths):
    """Not even of those of one layer.

    On few positions the rule weighs pairs of them, on many it multiplies slices of U of 2^14 columns.
    """
    graph, size = solve_graph(shape, widths, fisher)
    largest = max(sizes(graph))
    assert largest[0] >= widths[0] ** 2, "the graph that was looked at is not that of the solve"
    assert largest[0] < size * widths[0] ** 2, largest


class Whole(keras.Model):
    """Uses a variable of its own, so that the model is tapped as a whole."""

    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(shape=(1,), name="scale", initializer="ones")

    def call(self, x):
        return x * self.scale


@pytest.mark.parametrize("make", [lambda: keras.Sequential([keras.Input((2,)), layers.Dense(1)]), Whole])
def test_what_is_remembered_of_a_model_goes_with_it(make):
    model = make()
    assert kfisher.coverage(model, x=numbers(2))
    alive = weakref.ref(model)
    del model
    keras.utils.clear_session(free_memory=False)
    gc.collect()
    assert alive() is None


class Unused(layers.Layer):
    """Has a weight, and does without it."""

    def build(self, shape):
        self.weight = self.add_weight(shape=shape[1:])

    def call(self, x):
        return 2 * x


@pytest.mark.parametrize("curvature", ["kfac", "gram"])
def test_a_model_whose_outputs_depend_on_none_of_its_variables_is_told_so(curvature):
    model = kfisher.Sequential([keras.Input((2,)), Unused(name="unused")])
    model.compile(kfisher.optimizers.NaturalGradient(curvature=curvature), "mse")
    with pytest.raises(
        ValueError, match="outputs of the model .* depend on none of its .*Received: .*unused"
    ):
        model.fit(np.ones((4, 2)), np.ones((4, 2)), verbose=0)
