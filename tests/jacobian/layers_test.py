"""Every layer rule gives the Jacobian of the model, by autodiff of one example after the other.

For the squared error of C outputs, Keras' mean over N C numbers, the exact Fisher is 2 / (N C) J^T J, so
the rows A of its square root are known: sqrt(2 / (N C)) J. All is in float64, where two ways of computing
the same products differ by rounding alone: 1e-10 relative to the largest entry leaves four digits' room.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from keras.layers import (
    BatchNormalization,
    Conv1D,
    Conv2D,
    Dense,
    DepthwiseConv1D,
    DepthwiseConv2D,
    EinsumDense,
    Embedding,
    GroupNormalization,
    LayerNormalization,
)

import kfisher
from kfisher.jacobian.layers import dense as dense_rules

pytestmark = pytest.mark.usefixtures("float64")
TOLERANCE = 1e-10
N = 3


# --- the reference ------------------------------------------------------------------------------


def jacobian(model, x, training=False, together=False):
    """J of every output of every example, `(N, C, P)`, one gradient at a time.

    `together` runs the batch as a whole, for layers that draw random numbers for it.
    """

    def run(x):
        with tf.GradientTape(persistent=True) as tape:
            with keras.StatelessScope():
                outputs = keras.tree.flatten(model(x, training=training))
            scalars = [
                [f for out in outputs for f in tf.unstack(tf.reshape(out[n], [-1]))]
                for n in range(outputs[0].shape[0])
            ]
        variables = [v.value for v in model.trainable_variables]
        grads = [[tape.gradient(f, variables, unconnected_gradients="zero") for f in fs] for fs in scalars]
        return np.array(
            [
                [np.concatenate([np.ravel(tf.convert_to_tensor(g)) for g in gs]) for gs in each]
                for each in grads
            ]
        )

    if together:
        return run(x)
    return np.concatenate([run(keras.tree.map_structure(lambda t: t[n : n + 1], x)) for n in range(N)])


def scale_of_mse(model, x):
    """sqrt(2 / (N C)) for each output of an example, `(C,)`."""
    with keras.StatelessScope():
        sizes = [np.size(out) // N for out in keras.tree.flatten(model(x))]
    return np.concatenate([np.full(c, np.sqrt(2 / (N * c))) for c in sizes])


def assert_close(actual, expected, what, tolerance=TOLERANCE):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, what
    error = np.max(np.abs(actual - expected), initial=0)
    assert error <= tolerance * np.max(np.abs(expected), initial=1e-300), f"{what}: off by {error}"


def assert_rule(model, x, training=False, reference=None, like=None, tolerance=TOLERANCE, **function):
    """The rows of A and every product with it, eagerly or in a `tf.function` with the options given."""
    reference = jacobian(model, x, training) if reference is None else reference
    assert np.any(reference), "a reference without any gradient shows nothing"
    expected = np.transpose(reference * scale_of_mse(like or model, x)[:, np.newaxis], [1, 0, 2])
    rows = expected.reshape(-1, expected.shape[-1])  # (R N, P)

    random = np.random.default_rng(7)
    shapes = [tuple(v.shape) for v in model.trainable_variables]
    sizes = [int(np.prod(s)) for s in shapes]
    v = random.normal(size=rows.shape[1])
    split = [part.reshape(s) for part, s in zip(np.split(v, np.cumsum(sizes)[:-1]), shapes)]
    u = random.normal(size=rows.shape[0])
    scales = random.uniform(0.5, 2, size=len(shapes))  # a different one for each variable

    model.compile(loss="mse")
    dtype = model.variable_dtype

    def products(x):
        root = kfisher.FisherOperator(model, x, fisher="exact", training=training).root
        forward = root.matvec([tf.constant(part, dtype) for part in split])
        back = root.rmatvec(tf.constant(u.reshape(-1, N), dtype))
        gram = root.gram([tf.constant(c, dtype) for c in scales])
        return root.rows(), forward, [tf.reshape(part, [-1]) for part in back], gram

    if function:
        products = tf.function(products, autograph=False, **function)
    actual = products(x)
    assert_close(actual[0], rows, "rows", tolerance)
    assert_close(actual[1], (rows @ v).reshape(-1, N), "matvec", tolerance)
    assert_close(np.concatenate(actual[2]), rows.T @ u, "rmatvec", tolerance)
    assert_close(actual[3], rows * np.repeat(scales, sizes) @ rows.T, "gram", tolerance)


# --- models -------------------------------------------------------------------------------------


def numbers(*shape):
    return np.random.default_rng(3).normal(size=(N, *shape))


def randomise(model):
    """Weights that are not zero or one where Keras starts with those (biases, gamma, statistics)."""
    random = np.random.default_rng(5)
    for v in model.variables:
        if keras.backend.is_float_dtype(v.dtype):
            v.assign(v + random.uniform(0.1, 0.5, size=v.shape))
    return model


def stack(shape, *stacked, freeze=()):
    model = keras.Sequential([keras.Input(shape), *stacked])
    for layer, name in freeze:
        getattr(model.layers[layer], name).trainable = False
    return randomise(model), numbers(*shape)


def of_ids(shape, ids, *stacked):
    model = randomise(keras.Sequential([keras.Input(shape, dtype="int32"), *stacked]))
    return model, np.array(ids, "int32")


# Where there is room a Dense layer comes first, so that gradients also go through the layer.
def einsum(equation, output_shape, shape, bias_axes=None, **kwargs):
    return lambda: stack(
        shape, Dense(shape[-1]), EinsumDense(equation, output_shape, bias_axes=bias_axes, **kwargs)
    )


def conv1d(**kwargs):
    return lambda: stack((6, 4), Dense(4), Conv1D(2, 3, **kwargs))


def conv2d(**kwargs):
    return lambda: stack((5, 4, 2), Dense(4), Conv2D(2, (3, 2), **kwargs))


def depthwise1d(**kwargs):
    return lambda: stack((6, 3), Dense(3), DepthwiseConv1D(3, **kwargs))


def depthwise2d(**kwargs):
    return lambda: stack((5, 4, 2), Dense(2), DepthwiseConv2D((3, 2), **kwargs))


AFFINE = {
    "dense": lambda: stack((4,), Dense(3), Dense(2)),
    "dense, fused activation": lambda: stack((4,), Dense(3, "tanh"), Dense(2, "sigmoid")),
    "dense, a layer as activation": lambda: stack((4,), Dense(3, layers.LeakyReLU(0.3)), Dense(2)),
    "dense on sequences": lambda: stack((5, 3), Dense(4, "tanh"), Dense(2)),
    "dense on pictures": lambda: stack((2, 3, 4), Dense(3), Dense(2)),
    "dense without bias": lambda: stack((4,), Dense(3, use_bias=False), Dense(2, use_bias=False)),
    "dense, bias frozen": lambda: stack((3, 4), Dense(3), Dense(2), freeze=[(0, "bias"), (1, "bias")]),
    "dense, kernel frozen": lambda: stack((4,), Dense(3), Dense(2), freeze=[(0, "kernel")]),
    "dense on sequences, kernel frozen": lambda: stack((2, 4), Dense(3), freeze=[(0, "kernel")]),
    "einsum as dense": einsum("ab,bc->ac", 3, (4,), "c"),
    "einsum on sequences": einsum("abc,cd->abd", (None, 2), (3, 4), "d", activation="tanh"),
    "einsum to heads": einsum("abc,cde->abde", (None, 2, 3), (2, 4), "de"),
    "einsum to heads, bias on the last": einsum("abc,cde->abde", (None, 2, 3), (2, 4), "e"),
    "einsum from heads": einsum("abcd,cde->abe", (None, 3), (2, 2, 3), "e"),
    "einsum, kernel transposed": einsum("abc,dc->abd", (None, 2), (3, 4), "d"),
    "einsum, outputs before positions": einsum("abc,cd->adb", (2, 3), (3, 4)),
    "einsum, bias on positions": einsum("abc,cd->abd", (3, 2), (3, 4), "bd"),
    "einsum, bias around a position": einsum("abc,cde->adbe", (2, 3, 2), (3, 4), "de"),
    "einsum, left ellipsis": einsum("...x,xy->...y", 2, (2, 3), "y"),
    "einsum, right ellipsis": einsum("ab...,bc->ac...", (2, 2), (3, 2)),
    "einsum, block-diagonal": einsum("abcd,cde->abce", (None, 2, 2), (2, 2, 3), "ce"),
    "einsum, block-diagonal, groups last": einsum("abcd,ecd->abed", (None, 2, 3), (2, 2, 3), "ed"),
    "conv1d": conv1d(activation="tanh"),
    "conv1d causal, dilated": conv1d(padding="causal", dilation_rate=2),
    "conv1d same, stride": conv1d(padding="same", strides=2),
    "conv1d, no bias": conv1d(use_bias=False),
    "conv2d": conv2d(activation="tanh"),
    "conv2d same, stride": conv2d(padding="same", strides=2),
    "conv2d dilated": conv2d(dilation_rate=(2, 1)),
    "conv2d same, dilated": conv2d(padding="same", dilation_rate=2),
    "conv2d groups": conv2d(groups=2),
    "conv2d, bias frozen": lambda: stack((4, 4, 2), Conv2D(2, 3), Conv2D(2, 2), freeze=[(0, "bias")]),
    "depthwise 1d": depthwise1d(depth_multiplier=2),
    "depthwise 1d same, stride": depthwise1d(padding="same", strides=2),
    "depthwise 2d": depthwise2d(depth_multiplier=2, activation="tanh"),
    "depthwise 2d same, stride, no bias": depthwise2d(padding="same", strides=2, use_bias=False),
    "depthwise 2d dilated": depthwise2d(dilation_rate=2, padding="same"),
    "embedding": lambda: of_ids((3,), [[0, 1, 2], [3, 4, 1], [2, 0, 3]], Embedding(5, 2)),
    "embedding, ids repeat": lambda: of_ids((3,), [[1, 1, 2], [2, 2, 2], [1, 0, 1]], Embedding(5, 2)),
    "embedding, one id": lambda: of_ids((), [1, 3, 1], Embedding(5, 2)),
    "embedding of a table": lambda: of_ids((2, 2), [[[1, 1], [2, 0]]] * 3, Embedding(3, 2)),
    "embedding, zero masked": lambda: of_ids(
        (3,),
        [[1, 2, 0], [2, 0, 0], [1, 2, 1]],
        Embedding(4, 2, mask_zero=True),
        layers.GlobalAveragePooling1D(),
        Dense(2),
    ),
    "batch norm": lambda: stack((4,), Dense(3), BatchNormalization(), Dense(2)),
    "batch norm of pictures": lambda: stack((2, 3, 2), Dense(2), BatchNormalization(axis=1)),
    "batch norm, scale only": lambda: stack((3,), BatchNormalization(center=False), Dense(2)),
    "batch norm, shift only": lambda: stack((3,), BatchNormalization(scale=False), Dense(2)),
    "batch norm, gamma frozen": lambda: stack((3,), BatchNormalization(), freeze=[(0, "gamma")]),
    "layer norm": lambda: stack((2, 3), Dense(3), LayerNormalization()),
    "layer norm, two axes": lambda: stack((2, 3, 2), LayerNormalization(axis=[1, 3]), Dense(1)),
    "layer norm, first axis": lambda: stack((2, 3), LayerNormalization(axis=1, center=False)),
    "layer norm, shift only": lambda: stack((2, 3), LayerNormalization(scale=False)),
    "group norm": lambda: stack((3, 4), GroupNormalization(groups=2), Dense(2)),
    "group norm, axis": lambda: stack((4, 3), GroupNormalization(groups=2, axis=1)),
    "rms norm": lambda: stack((2, 3), layers.RMSNormalization(), Dense(2)),
    "separable convolution": lambda: stack((4, 4, 2), Dense(2), layers.SeparableConv2D(2, 3)),
    "conv3d": lambda: stack((2, 3, 3, 2), Dense(2), layers.Conv3D(2, 2, activation="tanh")),
    "conv3d groups": lambda: stack((2, 2, 2, 4), Dense(4), layers.Conv3D(2, 2, groups=2)),
}


class Standardised(Conv2D):
    """Keras' own example of the hook `convolution_op`."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel / (1 + ops.mean(kernel**2)))


class Squared(Conv2D):
    """A `call` of its own: Keras' class says nothing of what it does."""

    def call(self, inputs):
        return ops.square(super().call(inputs))


class Quadratic(layers.Layer):
    """Variables of its own, not affine in them, and an argument without a batch axis."""

    def build(self, shape, *_):
        self.a = self.add_weight(shape=(shape[-1], 2), name="a")
        self.b = self.add_weight(shape=(2,), name="b")

    def call(self, x, shift=0.0):
        return ops.square(ops.matmul(x + shift, self.a)) * self.b, ops.cast(x[:, 0] > 0, "int32")


def quadratic():
    inputs = keras.Input((4,))
    # One number for each feature, of which there are as many as examples.
    hidden, _ = Quadratic()(Dense(N)(inputs), shift=np.arange(float(N)))
    return randomise(keras.Model(inputs, Dense(1)(hidden))), numbers(4)


def translator():
    inputs, start = keras.Input((3, 2)), keras.Input((2, 2))
    _, h, c = layers.LSTM(2, return_state=True, unroll=True)(inputs)
    outputs = layers.LSTM(2, return_sequences=True, unroll=True)(start, initial_state=[h, c])
    return randomise(keras.Model([inputs, start], outputs)), [numbers(3, 2), 2 * numbers(2, 2)]


class Steps(layers.Layer):
    """Returns its input, an intermediate value, and twice what it makes of that."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[1:], name="scale")

    def call(self, x):
        step = ops.tanh(x * self.scale)
        z = ops.square(step)
        return [x, step, (z, z)]


def steps():
    inputs = keras.Input((3,))
    x, step, (first, second) = Steps()(Dense(3)(inputs))
    return randomise(keras.Model(inputs, x + 2 * step + first * second)), numbers(3)


RECURRENT = {
    "gru on sequences": lambda: stack((3, 2), Dense(2), layers.GRU(2, return_sequences=True, unroll=True)),
    "bidirectional": lambda: stack((3, 2), layers.Bidirectional(layers.SimpleRNN(2, unroll=True)), Dense(1)),
    "lstm, masked": lambda: of_ids(
        (3,), [[1, 2, 0], [2, 0, 0], [1, 2, 1]], Embedding(3, 2, mask_zero=True), layers.LSTM(2)
    ),
    "lstm with states": translator,
}
GENERIC = {
    # Its reset gate comes before the product with the state.
    "gru, reset before": lambda: stack((3, 2), layers.GRU(2, reset_after=False, unroll=True)),
    "time distributed": lambda: stack((3, 2), Dense(2), layers.TimeDistributed(Dense(2, "tanh"))),
    "conv2d transpose": lambda: stack((2, 2, 2), Dense(2), layers.Conv2DTranspose(1, 2, strides=2)),
    "prelu": lambda: stack((3,), Dense(3), layers.PReLU(), Dense(2)),
    "dense with parameters in its activation": lambda: stack((3,), Dense(3, layers.PReLU()), Dense(2)),
    "einsum that sums positions": einsum("abc,cd->ad", 2, (3, 4), "d"),
    # Keras adds a bias of shape (2, 1) to the wrong axis where sizes coincide; so must its derivative.
    "einsum, bias on the first of two": einsum("abc,cde->abde", (None, 2, 3), (2, 4), "d"),
    "einsum, bias before an ellipsis": einsum("ab...,bc->ac...", (2, 2), (3, 2), "c"),
    "convolution with another product": lambda: stack((4, 4, 2), Dense(2), Standardised(2, 3)),
    "convolution with a call of its own": lambda: stack((4, 4, 2), Dense(2), Squared(2, 3)),
    "variables of its own": quadratic,
    "outputs that depend on each other": steps,
}


@pytest.mark.parametrize("name", [*AFFINE, *RECURRENT])
def test_rule_equals_the_jacobian(name):
    """Rules that know the layer; none of these may end in the generic one, or it would show nothing."""
    model, x = {**AFFINE, **RECURRENT}[name]()
    assert "per example" not in {row.rule for row in kfisher.coverage(model)}
    assert_rule(model, x)


@pytest.mark.parametrize("name", GENERIC)
def test_generic_rule_equals_the_jacobian(name):
    model, x = GENERIC[name]()
    assert "per example" in {row.rule for row in kfisher.coverage(model)}
    assert_rule(model, x)


def test_low_rank_adapters():
    """Keras makes them in float32 even in a float64 model: 1e-5 is what that leaves."""
    model, x = stack((4,), Dense(3), Dense(2))
    model.layers[0].enable_lora(2)
    assert_rule(randomise(model), x, tolerance=1e-5)


# --- how layers are put together ----------------------------------------------------------------


class Positions(layers.Layer):
    """Adds a table that is looked up without a batch axis."""

    def __init__(self, length, width):
        super().__init__()
        self.length, self.table = length, Embedding(length, width)

    def call(self, x):
        return x + self.table(ops.arange(self.length))


class Readout(layers.Layer):
    """Has no variables but those of the embedding."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.embedding.embeddings))


class Gate(layers.Layer):
    """A variable of its own around a layer that is also used elsewhere."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def build(self, shape):
        self.gate = self.add_weight(shape=(1,), name="gate")

    def call(self, x):
        return self.gate * self.inner(self.inner(x))


class Network(keras.Model):
    """Uses a table in `call` itself, calls one layer by its `call`, and another never."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.unused = Embedding(4, 3), Dense(3, "tanh"), Dense(2)
        self.second.build((None, 2, 3))
        self.unused.build((None, 3))

    def call(self, ids):
        return ops.matmul(self.second.call(self.first(ids)), ops.transpose(self.first.embeddings))


def functional(function, *shapes, dtype=None):
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    model = keras.Model(inputs[0] if len(inputs) == 1 else inputs, function(*inputs))
    x = [(n + 1) * numbers(*shape) for n, shape in enumerate(shapes)]
    return randomise(model), x[0] if len(x) == 1 else x


def two_uses(make, *shapes):
    def build(a, b):
        layer = make()
        one, two = layer(Dense(a.shape[-1])(a)), layer(b)
        return Dense(2)(ops.concatenate([layers.Flatten()(one), layers.Flatten()(two)], -1))

    return lambda: functional(build, *shapes)


def nested():
    inner = keras.Sequential([keras.Input((4,)), Dense(3, "tanh"), Dense(3)])
    middle = keras.Sequential([keras.Input((4,)), Dense(4), inner])
    return functional(lambda a: Dense(2)(middle(a) + inner(a)), (4,))


def frozen():
    model, x = functional(lambda a: Dense(2)(Dense(3, "tanh")(Dense(4)(a))), (4,))
    model.layers[2].trainable = False
    model.layers[1].kernel.trainable = False
    return model, x


def tied():
    inputs, embedding = keras.Input((2,), dtype="int32"), Embedding(4, 3)
    outputs = Readout(embedding)(Dense(3, "tanh")(embedding(inputs)))
    return randomise(keras.Model(inputs, outputs)), np.array([[0, 1], [3, 3], [2, 1]])


def tied_by_a_function():
    inputs, embedding = keras.Input((2,), dtype="int32"), Embedding(4, 3)
    hidden = Dense(3, "tanh")(embedding(inputs))
    outputs = layers.Lambda(lambda h: ops.matmul(h, ops.transpose(embedding.embeddings)))(hidden)
    return randomise(keras.Model(inputs, outputs)), np.array([[0, 1], [3, 3], [2, 1]])


def shared_embedding():
    one, two, embedding = keras.Input((2,), dtype="int32"), keras.Input((), dtype="int32"), Embedding(4, 2)
    outputs = ops.sum(embedding(one), 1) * embedding(two)
    ids = [np.array([[0, 1], [3, 3], [2, 1]]), np.array([3, 3, 0])]
    return randomise(keras.Model([one, two], outputs)), ids


def gated():
    def build(a):
        inner = Dense(3, "tanh")
        return Dense(2)(Gate(inner)(inner(Dense(3)(a))))

    return functional(build, (4,))


def subclassed():
    model, x = Network(), np.array([[0, 1], [3, 3], [2, 1]])
    model(x)
    return randomise(model), x


def dictionaries():
    inputs = {name: keras.Input(shape, name=name) for name, shape in [("one", (3,)), ("two", (2, 2))]}
    hidden = Dense(3, "tanh")(inputs["one"])
    outputs = {"a": Dense(2)(hidden), "b": Dense(2)(inputs["two"]) * Dense(1)(hidden)[:, None]}
    return randomise(keras.Model(inputs, outputs)), {"one": numbers(3), "two": numbers(2, 2)}


def attention(query, value, key):
    return Dense(1)(layers.MultiHeadAttention(2, 2, value_dim=1)(query, value, key, use_causal_mask=True))


STRUCTURES = {
    "dense twice": two_uses(lambda: Dense(2, "tanh"), (3,), (2, 3)),
    "convolution twice": two_uses(lambda: Conv2D(2, 2), (3, 3, 1), (2, 3, 1)),
    "transposed convolution twice": two_uses(lambda: layers.Conv2DTranspose(1, 2), (2, 2, 2), (1, 2, 2)),
    "normalisation twice": two_uses(BatchNormalization, (3,), (3,)),
    "embedding twice": shared_embedding,
    "layers that share a variable": tied,
    "a layer that uses a variable of another": tied_by_a_function,
    "a layer inside of another and outside": gated,
    "nested models": nested,
    "frozen layers and variables": frozen,
    "a table of positions": lambda: stack((3, 2), Dense(2), Positions(3, 2), Dense(1)),
    "attention": lambda: functional(attention, (2, 2), (3, 2), (3, 3)),
    "a subclassed model": subclassed,
    "dictionaries of inputs and outputs": dictionaries,
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structure_equals_the_jacobian(name):
    assert_rule(*STRUCTURES[name]())


# --- layers in training mode --------------------------------------------------------------------


class Noisy(layers.Layer):
    """Draws random numbers and has a variable of its own."""

    def __init__(self):
        super().__init__()
        self.dropout = layers.Dropout(0.5)

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[1:], name="scale")

    def call(self, x):
        return self.dropout(ops.sin(x * self.scale))


def attention_with_dropout(a):
    return Dense(1)(layers.MultiHeadAttention(2, 2, dropout=0.3)(a, a))


RANDOM = {
    "dropout between": lambda: stack((5,), Dense(6), layers.Dropout(0.4), Dense(2)),
    "attention": lambda: functional(attention_with_dropout, (3, 2)),
    "lstm": lambda: stack((3, 4), layers.LSTM(2, dropout=0.3, recurrent_dropout=0.3, unroll=True), Dense(1)),
    "noise inside": lambda: stack((4,), Dense(4), Noisy(), Noisy(), Dense(2)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_those_of_the_forward_pass(name):
    """The reference draws the masks of the whole batch from the same seeds."""
    model, x = RANDOM[name]()
    reference = jacobian(model, x, training=True, together=True)
    assert np.max(np.abs(reference - jacobian(model, x, together=True))) > 0.1, "there is no noise"
    assert_rule(model, x, training=True, reference=reference)


def test_batch_normalisation_holds_the_statistics_of_the_batch():
    """p(y | x_n) is to depend on x_n alone: the reference has mean and variance of the batch as constants."""
    model, x = stack((2, 3), Dense(3), BatchNormalization(), Dense(2, "tanh"), BatchNormalization(axis=1))
    before = [v.numpy() for v in model.non_trainable_variables]
    hidden = x
    for layer in model.layers:
        if isinstance(layer, BatchNormalization):
            axes = tuple(i for i in range(3) if i != layer.axis % 3)
            layer.moving_mean.assign(np.mean(hidden, axes))
            layer.moving_variance.assign(np.var(hidden, axes))
        hidden = layer(hidden).numpy()
    reference = jacobian(model, x)
    for v, value in zip(model.non_trainable_variables, before):
        v.assign(value)
    assert_rule(model, x, training=True, reference=reference)


# --- in graphs ----------------------------------------------------------------------------------


def picture():
    return keras.Sequential(
        [
            keras.Input((None, None, 4)),
            Dense(4),
            Conv2D(4, 2, padding="same"),
            DepthwiseConv2D(2, activation="tanh"),
            GroupNormalization(2),
            layers.SeparableConv2D(2, 2),
            layers.GlobalAveragePooling2D(),
            Dense(2),
        ]
    )


def sentence():
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            Embedding(4, 3),
            EinsumDense("abc,cde->abde", (None, 2, 2), bias_axes="de"),
            layers.Reshape((-1, 4)),
            LayerNormalization(),
            Conv1D(3, 2, padding="causal"),
            BatchNormalization(),
            layers.SeparableConv1D(2, 2),
            layers.GlobalMaxPooling1D(),
        ]
    )


@pytest.mark.slow
@pytest.mark.by_hand
@pytest.mark.parametrize("make, shape", [(picture, (4, 3, 4)), (sentence, (5,))])
def test_sizes_unknown_while_tracing(make, shape):
    model = randomise(make())
    x = numbers(*shape) if make is picture else np.random.default_rng(3).integers(0, 4, (N, *shape))
    free = [None] * (x.ndim - 1) + ([4] if make is picture else [None])
    assert_rule(model, x, input_signature=[tf.TensorSpec(free, x.dtype)])


@pytest.mark.parametrize(
    "layer, shape",
    [
        (lambda order: Conv1D(2, 3, padding="causal", data_format=order), (6, 2)),
        (lambda order: Conv2D(4, (3, 2), strides=2, padding="same", groups=2, data_format=order), (5, 4, 2)),
        (lambda order: DepthwiseConv2D((3, 2), depth_multiplier=2, data_format=order), (5, 4, 2)),
    ],
)
def test_channels_first(layer, shape):
    """A CPU runs it under XLA only; the reference is the same kernel with channels last."""
    last, x = stack(shape, layer("channels_last"))
    axes = list(range(1, len(shape) + 1))
    first = keras.Sequential(
        [
            keras.Input(shape),
            layers.Permute([axes[-1], *axes[:-1]]),
            layer("channels_first"),
            layers.Permute([*axes[1:], 1]),
        ]
    )
    first.set_weights(last.get_weights())
    assert_rule(first, x, reference=jacobian(last, x), like=last, jit_compile=True)


def test_fixed_batch_size():
    """The size of the batch may be a part of the model, as for stateful layers."""
    inputs = keras.Input(batch_shape=(N, 3, 2))
    outputs = Dense(2)(layers.LSTM(2, stateful=True, unroll=True)(Dense(2)(inputs)))
    model = randomise(keras.Model(inputs, outputs))
    assert_rule(model, numbers(3, 2), reference=jacobian(model, numbers(3, 2), together=True))


# --- ways to the same Gram matrix ---------------------------------------------------------------


def test_gram_of_a_wide_layer_by_pairs_of_positions(monkeypatch):
    """The rule weighs costs; here pairing positions must win, or the test shows nothing."""
    calls = []
    pair = dense_rules._pair_positions
    monkeypatch.setattr(dense_rules, "_pair_positions", lambda a, g: calls.append(1) or pair(a, g))
    model, x = functional(lambda a: ops.sum(Dense(9)(a) ** 2, axis=1)[:, :2], (2, 8))
    assert_rule(model, x)
    assert calls


def test_gram_of_a_wide_layer_slice_by_slice(monkeypatch):
    monkeypatch.setattr(dense_rules, "_SLICE", 8)
    assert_rule(*stack((5, 3), Dense(7), Conv1D(6, 2), Dense(1)))


@pytest.mark.parametrize(
    "hidden, size", [(lambda: layers.GRU(3, unroll=True), 1), (lambda: layers.Flatten(), 1000)]
)
def test_mixed_precision(hidden, size):
    """float16 has 11 bits and ends at 65504; rows are kept in float32, where products do not overflow."""
    exact, x = stack((3, 2), Dense(3), hidden(), Dense(2))
    keras.config.set_dtype_policy("mixed_float16")
    model, _ = stack((3, 2), Dense(3), hidden(), Dense(2))
    model.set_weights(exact.get_weights())
    assert_rule(model, size * x, reference=jacobian(exact, size * x), tolerance=0.02)
