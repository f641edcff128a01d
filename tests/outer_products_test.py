"""What a batch contributes to each block of the Fisher, against automatic differentiation of the whole model.

With J the Jacobian of the C outputs of an example and the squared error of Keras, a mean over N C numbers of
weight w_n, the rows of the square root are sqrt(2 w_n / (N C)) v^T J for the vectors v of each Fisher: the unit
vectors, labels less outputs, or draws less outputs. All is in float64: rounding alone stays below 1e-10.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from keras.layers import BatchNormalization, Conv1D, Conv2D, Conv3D, Dense, DepthwiseConv1D, DepthwiseConv2D
from keras.layers import EinsumDense, Embedding, Flatten, LayerNormalization, SeparableConv1D, SeparableConv2D
from oracle import distance, jacobian

import kfisher
from kfisher.blocks import Block
from kfisher.layers import outer_products, structure
from kfisher.plan import plan
from kfisher.square_root import square_root

TOLERANCE = 1e-10
N, C = 3, 2
WEIGHTS = np.array([0.5, 2.0, 1.2])
pytestmark = pytest.mark.usefixtures("float64")


# --- models -------------------------------------------------------------------------------------


def numbers(*shape):
    return np.random.default_rng(3).normal(size=shape)


def finished(inputs, outputs, x):
    """A model that tells positions and examples apart behind its `outputs`, its weights neither 0 nor 1."""
    outputs = Dense(C, name="last")(Flatten()(ops.tanh(outputs)))
    model, random = keras.Model(inputs, outputs), np.random.default_rng(5)
    for v in model.variables:
        if keras.backend.is_float_dtype(v.dtype):
            v.assign(v + random.uniform(0.1, 0.5, size=v.shape))
    model.compile(loss="mse")
    return model, x


def on(shape, make, freeze=None):
    def build():
        inputs, layer = keras.Input(shape), make()
        outputs = layer(inputs)
        if freeze:
            getattr(layer, freeze).trainable = False
        return finished(inputs, outputs, numbers(N, *shape))

    return build


def einsum(shape, equation, output_shape, bias_axes=None):
    return on(shape, lambda: EinsumDense(equation, output_shape, bias_axes=bias_axes))


def attention():
    inputs = keras.Input((3, 2))
    return finished(inputs, layers.MultiHeadAttention(2, 2)(inputs, inputs), numbers(N, 3, 2))


def shared():
    inputs, layer = keras.Input((2, 3)), Dense(3)
    return finished(inputs, layer(ops.tanh(layer(inputs))[:, :1]), numbers(N, 2, 3))


def embedding(ids):
    def build():
        inputs = keras.Input(np.shape(ids)[1:], dtype="int32")
        return finished(inputs, Embedding(5, 3)(inputs), np.array(ids, "int32"))

    return build


REPEATED = [[1, 1, 2, 1], [4, 2, 2, 4], [0, 1, 3, 2]]
PICTURE, SPACE = (6, 5, 4), (4, 3, 5, 2)
# What the layer is called by its rule, and the model.
KINDS = {
    "dense": ("dense", on((4,), lambda: Dense(3))),
    "dense on sequences": ("dense", on((3, 4), lambda: Dense(2))),
    "dense without bias": ("dense", on((3, 4), lambda: Dense(2, use_bias=False))),
    "dense, kernel frozen": ("dense", on((3, 4), lambda: Dense(2), freeze="kernel")),
    "dense, bias frozen": ("dense", on((4,), lambda: Dense(2), freeze="bias")),
    "dense twice": ("dense", shared),
    "einsum to heads": ("einsum dense", einsum((3, 4), "abc,cde->abde", (None, 2, 3), "de")),
    "einsum from heads": ("einsum dense", einsum((2, 2, 3), "abcd,cde->abe", (None, 3), "e")),
    "einsum around a position": ("einsum dense", einsum((3, 4), "abc,cde->adbe", (2, 3, 3), "de")),
    "einsum, transposed bias": ("einsum dense", einsum((3, 4), "abc,cde->abed", (None, 3, 2), "de")),
    "einsum, partial bias": ("einsum dense", einsum((3, 4), "abc,cde->abde", (None, 2, 3), "e")),
    "einsum, bias on positions": ("einsum dense", einsum((3, 4), "abc,cd->abd", (3, 2), "bd")),
    "einsum, groups": ("einsum dense", einsum((3, 2, 4), "abcd,cde->abce", (None, 2, 3), "ce")),
    "einsum, groups last": ("einsum dense", einsum((3, 4, 2), "abcd,ecd->abed", (None, 3, 2), "ed")),
    "einsum, ellipsis": ("einsum dense", einsum((2, 2, 3), "...x,xy->...y", (2, 2, 2), "y")),
    "attention": ("einsum dense", attention),
    "conv1d causal": ("convolution", on((7, 2), lambda: Conv1D(3, 3, padding="causal", dilation_rate=2))),
    "conv1d strides": ("convolution", on((7, 2), lambda: Conv1D(3, 2, strides=2, use_bias=False))),
    "conv2d": ("convolution", on(PICTURE, lambda: Conv2D(3, (3, 2)))),
    "conv2d groups": ("convolution", on(PICTURE, lambda: Conv2D(4, 2, groups=2, padding="same", strides=2))),
    "conv2d dilated": ("convolution", on(PICTURE, lambda: Conv2D(2, 2, dilation_rate=2, padding="same"))),
    "conv3d": ("convolution", on(SPACE, lambda: Conv3D(2, 2, dilation_rate=(2, 1, 2)))),
    "conv3d strides": ("convolution", on(SPACE, lambda: Conv3D(2, (3, 2, 2), strides=(2, 1, 3)))),
    "conv3d same": ("convolution", on(SPACE, lambda: Conv3D(2, (3, 2, 2), strides=(2, 1, 3), padding="same"))),
    "conv3d groups": ("convolution", on(SPACE, lambda: Conv3D(4, 2, groups=2, padding="same"))),
    "depthwise 1d": ("depthwise convolution", on((7, 3), lambda: DepthwiseConv1D(3, depth_multiplier=2))),
    "depthwise 2d": (
        "depthwise convolution",
        on(PICTURE, lambda: DepthwiseConv2D((3, 2), strides=2, depth_multiplier=2, padding="same")),
    ),
    "separable 1d": (
        "separable convolution", on((7, 2), lambda: SeparableConv1D(3, 3, depth_multiplier=2, strides=2))
    ),
    "separable 2d": (
        "separable convolution",
        on(PICTURE, lambda: SeparableConv2D(3, (3, 2), depth_multiplier=2, padding="same")),
    ),
    "separable, bias alone": (
        "separable convolution", on((7, 2), lambda: SeparableConv1D(3, 2), freeze="pointwise_kernel")
    ),
    "embedding": ("embedding", embedding(REPEATED)),
    "embedding, one id": ("embedding", embedding([[1], [3], [1]])),
    "layer norm": ("scale and shift", on((3, 4), LayerNormalization)),
    "batch norm": ("scale and shift", on((3, 4), BatchNormalization)),
    "batch norm, scale only": ("scale and shift", on((3, 4), lambda: BatchNormalization(center=False))),
    "lstm": ("per example", on((3, 2), lambda: layers.LSTM(3, unroll=True))),
    "gru": ("per example", on((3, 2), lambda: layers.GRU(3, unroll=True))),
}


# --- the reference ------------------------------------------------------------------------------


class Recorded(kfisher.Sampled):
    """Keeps its draws, for the reference to use the same."""

    def vectors(self, *args):
        self.drawn = super().vectors(*args)
        return self.drawn


@functools.lru_cache(None)
def model_of(kind):
    model, x = KINDS[kind][1]()
    return model, x, jacobian(model, x).reshape(N, C, -1)


def contributions(model, x, fisher="exact", weights=WEIGHTS):
    """The square root; each block with its products; and V, `(R, N, C)`."""
    y, size = np.random.default_rng(9).normal(size=(len(x), C)), len(x)
    kind = Recorded(2) if fisher == "sampled" else kfisher.fisher.get(fisher)
    seed = tf.constant([4, 2])
    root = square_root(model, x, y, weights, fisher=kind, seed=seed, training=False)
    if fisher == "exact":
        v = np.broadcast_to(np.eye(C)[:, np.newaxis], (C, size, C))
    else:
        v = (y - model(x).numpy())[np.newaxis] if fisher == "empirical" else kind.drawn.numpy()
    w = np.ones(size) if weights is None else weights
    v = v * np.sqrt(2 * w / (size * C))[:, np.newaxis]
    return root, [pair for rule in root.rules for pair in rule.outer_products()], v


def matrices(model, block, rows):
    """Rows `(R, N, P)` as the matrices of a block, `(R, N, G, I, O)`, by way of its own layout."""
    parts = np.split(rows, np.cumsum([v.shape.num_elements() for v in variables(model)])[:-1], -1)
    own = {id(v): (part, v.shape) for v, part in zip(model.trainable_variables, parts)}
    tensors = [part.reshape(*rows.shape[:2], *shape) for part, shape in (own[id(v)] for v in block.variables)]
    return block.to_matrix([tf.constant(t) for t in tensors], 2).numpy()


def variables(model):
    return [v.value for v in model.trainable_variables]


def orthogonal(*shape):
    return np.linalg.qr(np.random.default_rng(8).normal(size=shape))[0]


def moment(t):
    """sum t t^T over all but the groups and the last axis, `(G, I, I)`."""
    return np.einsum("ngi,ngj->gij", t.reshape(-1, *t.shape[-2:]), t.reshape(-1, *t.shape[-2:]))


def diagonal(matrices):
    return np.einsum("gii->gi", matrices)


def full(factor, width):
    """A factor that is a diagonal anyway as a matrix."""
    factor = np.asarray(factor)
    return factor if factor.ndim == 3 else factor[..., np.newaxis] * np.eye(width)


def assert_close(actual, expected):
    assert np.any(expected), "a reference of zeros shows nothing"
    assert distance(actual, expected) < TOLERANCE


# --- layouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_partition_the_variables(kind):
    """Every variable is in one block, and its entries each in one place of the matrix."""
    model, x, _ = model_of(kind)
    root, found, _ = contributions(model, x)
    assert KINDS[kind][0] in {rule.name for rule in root.rules}
    blocks = structure(list(plan(model, x, False).calls))
    inside = [id(v) for block in blocks for v in block.variables]
    assert sorted(inside) == sorted(id(v) for v in model.trainable_variables)
    position = {id(v): i for i, v in enumerate(model.trainable_variables)}
    located = [block.located(lambda v: position[id(v)]) for block in blocks]
    assert located == [block.located(lambda v: position[id(v)]) for block, _ in found]
    for block, plain in zip(blocks, located):
        assert Block.from_config(plain.get_config()) == plain
        sizes = [v.shape.num_elements() for v in block.variables]
        entries = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
        entries = [e.reshape(v.shape) for e, v in zip(entries, block.variables)]
        matrix = block.to_matrix([tf.constant(e) for e in entries])
        assert matrix.shape == (block.groups, block.inputs, block.outputs)
        assert sorted(np.ravel(matrix)) == list(range(sum(sizes)))
        back = block.from_matrix(matrix, [v.shape for v in block.variables])
        assert all(np.array_equal(b, e) for b, e in zip(back, entries))


def test_a_layer_without_variables_has_no_block():
    """A BatchNormalization is tapped even if it has nothing to train."""
    plain = on((3,), lambda: BatchNormalization(center=False, scale=False))()
    assert [len(block.pieces) for block in structure(list(plan(plain[0]).calls))] == [2]


# --- sums of squares ----------------------------------------------------------------------------


@pytest.mark.parametrize("fisher", ["exact", "sampled", "empirical"])
@pytest.mark.parametrize("kind", KINDS)
def test_squares_are_those_of_the_jacobian(kind, fisher, monkeypatch):
    """Exact in any basis, whatever the layer; and when few columns are formed at a time."""
    model, x, j = model_of(kind)
    root, found, v = contributions(model, x, fisher)
    assert_close(root.example_weights, WEIGHTS / np.sum(WEIGHTS))
    rows = np.einsum("rnc,ncp->rnp", v, j)
    for block, products in found:
        m = matrices(model, block, rows)
        left = None if block.form == "lookup" else orthogonal(block.groups, block.inputs, block.inputs)
        right = orthogonal(block.groups, block.outputs, block.outputs)
        turned = m if left is None else np.einsum("rngio,gij->rngjo", m, left)
        both = np.einsum("rngio,gop->rngip", turned, right)
        for slice_size in outer_products._SLICE, 1:
            monkeypatch.setattr(outer_products, "_SLICE", slice_size)
            assert_close(products.squares(), np.sum(m**2, (0, 1)))
            assert_close(products.squares(left, right), np.sum(both**2, (0, 1)))
            assert_close(products.squares(left), np.sum(turned**2, (0, 1)))


# --- factors ------------------------------------------------------------------------------------


def patches(x, sizes, strides=1, rates=1, padding="valid"):
    """What a kernel sees, one position and one pixel at a time: `(N, S, k, channels)`."""
    rank = x.ndim - 2
    strides, rates = np.broadcast_to(strides, rank), np.broadcast_to(rates, rank)
    reach = rates * (np.array(sizes) - 1)  # from the first pixel to the last
    lengths = np.array(x.shape[1:-1])
    total = {"valid": 0 * reach, "causal": reach}.get(
        padding, np.maximum(0, (-(-lengths // strides) - 1) * strides + reach + 1 - lengths)
    )
    before = total if padding == "causal" else total // 2
    x = np.pad(x, [(0, 0), *zip(before, total - before), (0, 0)])
    starts = [range(0, n - r, s) for n, r, s in zip(x.shape[1:], reach, strides)]
    seen = [
        np.stack([x[(slice(None), *(p + np.array(o) * rates))] for o in np.ndindex(*sizes)], 1)
        for p in np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, rank)
    ]
    return np.stack(seen, 1)


def grouped_patches(x, groups, *args):
    """`(N, S, G, I)`: a group of output channels sees the channels of its own group."""
    seen = patches(x, *args)
    parts = np.split(seen, groups, -1)
    return np.stack([p.reshape(*seen.shape[:2], -1) for p in parts], 2)


def convolution(groups, *args):
    def arrange(x, g):
        return grouped_patches(x, groups, *args), g.reshape(*g.shape[:2], -1, groups, g.shape[-1] // groups)

    return arrange


def product(x, g, features=1, outputs=1):
    """A product over the last axes, at all positions before them."""
    inputs, units = np.prod(x.shape[-features:]), np.prod(g.shape[-outputs:])
    return x.reshape(N, -1, 1, inputs), g.reshape(*g.shape[:2], -1, 1, units)


# x and g, in the shapes of input and output, as a `(N, S, G, I)` and g `(R, N, S, G, O)`.
BY_HAND = {
    "dense": product,
    "dense on sequences": product,
    "dense without bias": product,
    "dense, bias frozen": product,
    "dense, kernel frozen": lambda x, g: (np.zeros((N, 3, 1, 0)), product(x, g)[1]),
    "einsum to heads": functools.partial(product, outputs=2),
    "einsum from heads": functools.partial(product, features=2),
    "einsum around a position": lambda x, g: product(x, np.swapaxes(g, 2, 3), outputs=2),
    "einsum, transposed bias": lambda x, g: product(x, np.swapaxes(g, 3, 4), outputs=2),
    "einsum, partial bias": functools.partial(product, outputs=2),
    "einsum, bias on positions": product,
    "einsum, groups": lambda x, g: (x, g),
    "einsum, groups last": lambda x, g: (np.swapaxes(x, 2, 3), np.swapaxes(g, 3, 4)),
    "einsum, ellipsis": product,
    "conv1d causal": convolution(1, (3,), 1, 2, "causal"),
    "conv1d strides": convolution(1, (2,), 2),
    "conv2d": convolution(1, (3, 2)),
    "conv2d groups": convolution(2, (2, 2), 2, 1, "same"),
    "conv2d dilated": convolution(1, (2, 2), 1, 2, "same"),
    "conv3d": convolution(1, (2, 2, 2), 1, (2, 1, 2)),
    "conv3d strides": convolution(1, (3, 2, 2), (2, 1, 3)),
    "conv3d same": convolution(1, (3, 2, 2), (2, 1, 3), 1, "same"),
    "conv3d groups": convolution(2, (2, 2, 2), 1, 1, "same"),
    "depthwise 1d": convolution(3, (3,)),
    "depthwise 2d": convolution(4, (3, 2), 2, 1, "same"),
    "embedding": lambda x, g: product(np.eye(5)[x], g),
}


def gradients_at(model, layer, x):
    """The derivative of every output with respect to what is added to the output of `layer`, `(N, C, ...)`."""
    z = layer(x)
    delta = tf.zeros_like(z)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(delta)
        outputs = model.get_layer("last")(tf.reshape(tf.tanh(z + delta), [len(x), -1]))
        sums = tf.unstack(tf.reduce_sum(outputs, 0))  # examples do not see each other
    return np.stack([tape.gradient(f, delta).numpy() for f in sums], 1)


def expected_factors(a, g, w, sharing):
    if sharing == "reduce":
        a, g = np.mean(a, 1, keepdims=True), np.sum(g, 2, keepdims=True)
    return moment(a * np.sqrt(w[:, np.newaxis, np.newaxis, np.newaxis] / a.shape[1])), moment(g)


def assert_factors(products, sharing, w, a, b, only_diagonal=False):
    """Full and diagonal ones, each with a cache of its own; `only_diagonal` says that of A."""
    whole = products.factors(w, sharing, (False, False), {})
    assert_close(whole[0], diagonal(a) if only_diagonal else a)
    assert_close(whole[1], b)
    parts = products.factors(w, sharing, (True, True), {})
    assert_close(parts[0], diagonal(a))
    assert_close(parts[1], diagonal(b))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("kind", BY_HAND)
def test_factors_are_those_formed_by_hand(kind, weights):
    model, x, _ = model_of(kind)
    layer = model.layers[1]
    _, found, v = contributions(model, x, "sampled", weights)
    (block, products), *others = [pair for pair in found if pair[0].variables[0] in layer.trainable_variables]
    g = np.einsum("rnc,nc...->rn...", v, gradients_at(model, layer, x))
    a, g = BY_HAND[kind](x, g)
    if any(variable is getattr(layer, "bias", None) for variable in block.variables):
        a = np.concatenate([a, np.ones((*a.shape[:3], 1))], -1)
    assert all(other.form == "formed" for other, _ in others)
    w = np.full(N, 1 / N) if weights is None else weights / np.sum(weights)
    for sharing in "expand", "reduce":
        # One-hot inputs make a diagonal A; averaged they do not, and its diagonal is what is kept.
        a_factor, b_factor = expected_factors(a, g, w, sharing)
        assert_factors(products, sharing, w, a_factor, b_factor, block.form == "lookup")


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_a_layer_called_twice_has_the_positions_of_both_calls(sharing):
    model, x, _ = model_of("dense twice")
    layer = next(part for part in model.layers if isinstance(part, Dense))
    root, found, v = contributions(model, x)
    products = next(p for block, p in found if block.variables[0] is layer.kernel)
    deltas = tf.zeros((N, 2, 3)), tf.zeros((N, 1, 3))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(deltas)
        between = tf.tanh(layer(x) + deltas[0])[:, :1]
        outputs = model.get_layer("last")(tf.tanh(layer(between) + deltas[1])[:, 0])
        sums = tf.unstack(tf.reduce_sum(outputs, 0))
    g = np.stack([tf.concat(tape.gradient(f, deltas), 1).numpy() for f in sums], 1)
    a = np.concatenate([np.concatenate([x, between], 1), np.ones((N, 3, 1))], -1)[:, :, np.newaxis]
    g = np.einsum("rnc,ncso->rnso", v, g)[:, :, :, np.newaxis]
    w = WEIGHTS / np.sum(WEIGHTS)
    assert_factors(products, sharing, w, *expected_factors(a, g, w, sharing))


@pytest.mark.parametrize("kind", ["separable 1d", "separable 2d"])
def test_a_separable_convolution_is_two_convolutions(kind):
    model, x, _ = model_of(kind)
    separable = model.layers[1]
    depthwise, pointwise = (DepthwiseConv1D, Conv1D) if separable.rank == 1 else (DepthwiseConv2D, Conv2D)
    options = {"strides": separable.strides[0], "padding": separable.padding, "depth_multiplier": 2}
    inputs = keras.Input(x.shape[1:])
    hidden = depthwise(separable.kernel_size, use_bias=False, **options)(inputs)
    twin, _ = finished(inputs, pointwise(3, 1)(hidden), x)
    twin.set_weights(model.get_weights())
    found, expected = (dict(enumerate(contributions(m, x)[1])) for m in (model, twin))
    w = WEIGHTS / np.sum(WEIGHTS)
    for i in range(3):
        for sharing in "expand", "reduce":
            factors = expected[i][1].factors(w, sharing, (False, False), {})
            assert_factors(found[i][1], sharing, w, *map(np.asarray, factors))


@pytest.mark.parametrize("kind", ["lstm", "gru", "layer norm", "batch norm", "einsum, partial bias"])
def test_factors_of_formed_gradients_keep_the_trace(kind):
    """A = sum M M^T over the trace and B = sum M^T M."""
    model, x, j = model_of(kind)
    _, found, v = contributions(model, x, "sampled")
    formed = [(block, products) for block, products in found if block.form == "formed"]
    assert formed
    for block, products in formed:
        m = matrices(model, block, np.einsum("rnc,ncp->rnp", v, j))
        a, b = np.einsum("rngio,rngjo->gij", m, m), np.einsum("rngio,rngip->gop", m, m)
        trace = np.sum(m**2, (0, 1, 3, 4))
        assert_factors(products, "expand", None, a / trace[:, np.newaxis, np.newaxis], b)
        assert_close(trace, np.trace(a, axis1=1, axis2=2))


# One position at the output of the layer.
SINGLE = {
    "dense": on((4,), lambda: Dense(3)),
    "einsum": einsum((2, 3), "abc,bcde->aed", (2, 2), "ed"),
    "einsum, groups": einsum((2, 3), "abc,bcd->abd", (2, 2), "bd"),
    "conv1d": on((3, 2), lambda: Conv1D(2, 3)),
    "conv2d groups": on((3, 2, 4), lambda: Conv2D(4, (3, 2), groups=2)),
    "conv3d dilated": on((3, 2, 3, 2), lambda: Conv3D(2, 2, dilation_rate=(2, 1, 2))),
    "depthwise": on((3, 2, 2), lambda: DepthwiseConv2D((3, 2), depth_multiplier=2)),
    "separable": on((3, 2), lambda: SeparableConv1D(3, 3, depth_multiplier=2)),
    "embedding": embedding([[1], [3], [1]]),
    "scale and shift": on((3,), BatchNormalization),
}


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("kind", SINGLE)
def test_one_outer_product_is_the_kronecker_product_of_its_factors(kind, sharing):
    """One example, one position, one vector: the block of F is A (x) B and no approximation."""
    model, x = SINGLE[kind]()
    root, found, v = contributions(model, x[:1], "empirical", np.array([0.7]))
    rows = np.einsum("rnc,cp->rnp", v, jacobian(model, x[:1]))
    assert_close(root.rows(), rows[0])
    for block, products in found:
        m = matrices(model, block, rows)[0, 0].reshape(block.groups, -1)
        a, b = products.factors(np.ones(1), sharing, (False, False), {})
        for k, a_k, b_k in zip(range(block.groups), full(a, block.inputs), full(b, block.outputs)):
            assert_close(np.kron(a_k, b_k), np.outer(m[k], m[k]))


# --- factors that layers share ------------------------------------------------------------------


def assert_shared(model, x, kernels):
    """The same values with one cache for the whole model as with a new one each, and A formed once."""
    _, found, _ = contributions(model, x)
    w = WEIGHTS / np.sum(WEIGHTS)
    for sharing in "expand", "reduce":
        cache, shared_by = {}, {}
        for block, products in found:
            for diagonals in (True, True), (False, False):
                a, b = products.factors(w, sharing, diagonals, cache)
                alone = products.factors(w, sharing, diagonals, {})
                assert_close(a, alone[0])
                assert_close(b, alone[1])
            shared_by.setdefault(id(a), []).append(id(block.variables[0]))
        assert sorted(map(id, kernels)) in [sorted(ids) for ids in shared_by.values()]


def test_attention_forms_one_factor_for_query_key_and_value():
    model, x, _ = model_of("attention")
    inner = model.layers[1]
    assert_shared(model, x, [part.kernel for part in (inner.query_dense, inner.key_dense, inner.value_dense)])


@pytest.mark.parametrize(
    "makes",
    [
        (lambda: EinsumDense("abc,bd->acd", (3, 3)), lambda: EinsumDense("...x,xy->...y", (3, 3))),
        (lambda: EinsumDense("ab...,bd->ad...", (3, 3)), lambda: EinsumDense("...x,xy->...y", (3, 3))),
        (lambda: EinsumDense("abc,cd->abd", (3, 3)), lambda: EinsumDense("abc,cd->abd", (3, 3), bias_axes="d")),
        (lambda: Conv1D(3, 2, padding="causal"), lambda: Conv1D(3, 2, padding="same")),
        (lambda: Conv1D(3, 2, padding="same"), lambda: Conv1D(3, 2, padding="same", dilation_rate=2)),
        (lambda: Dense(3), lambda: Conv1D(3, 1)),
    ],
)
def test_layers_that_read_a_tensor_in_other_ways_have_factors_of_their_own(makes):
    inputs = keras.Input((3, 3))
    made = [make() for make in makes]
    model, x = finished(inputs, made[0](inputs) * made[1](inputs), numbers(N, 3, 3))
    assert_shared(model, x, [made[0].kernel])


# --- in graphs ----------------------------------------------------------------------------------


def of_unknown_size(rank, make):
    def build():
        inputs = keras.Input((*[None] * rank, 4))
        outputs = keras.ops.mean(ops.tanh(make()(inputs)), list(range(1, rank + 1)))
        return finished(inputs, outputs, numbers(N, *range(3, 3 + rank), 4))

    return build


UNKNOWN = {
    "dense": of_unknown_size(1, lambda: Dense(3)),
    "einsum": of_unknown_size(1, lambda: EinsumDense("abc,cde->abde", (None, 2, 2), bias_axes="de")),
    "conv1d": of_unknown_size(1, lambda: Conv1D(2, 2, padding="causal")),
    "conv2d": of_unknown_size(2, lambda: Conv2D(2, 2, strides=2, padding="same")),
    "conv3d": of_unknown_size(3, lambda: Conv3D(2, 2, strides=(2, 1, 3), dilation_rate=1)),
    "conv3d same": of_unknown_size(3, lambda: Conv3D(2, 2, strides=(2, 1, 3), padding="same")),
    "depthwise": of_unknown_size(2, lambda: DepthwiseConv2D(2, depth_multiplier=2)),
    "separable": of_unknown_size(2, lambda: SeparableConv2D(3, 2, depth_multiplier=2)),
    "layer norm": of_unknown_size(1, LayerNormalization),
    "embedding": embedding(REPEATED),
    "lstm": on((3, 2), lambda: layers.LSTM(3, unroll=True)),
}
