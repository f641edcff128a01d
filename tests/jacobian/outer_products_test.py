"""What a batch contributes to each block of the Fisher, against autodiff of the whole model.

With J the Jacobian of the C outputs of an example and the squared error of Keras, a mean over N C numbers of
weight w_n, the rows of the square root are sqrt(2 w_n / (N C)) v^T J for the vectors v of each Fisher: the
unit vectors, labels less outputs, or draws less outputs. All is in float64: rounding stays below 1e-10.
"""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.oracle import distance, jacobian
from keras import layers, ops
from keras.layers import (
    BatchNormalization,
    Conv1D,
    Conv2D,
    Conv3D,
    Dense,
    DepthwiseConv1D,
    DepthwiseConv2D,
    EinsumDense,
    Embedding,
    Flatten,
    LayerNormalization,
    SeparableConv1D,
    SeparableConv2D,
)

import kfisher
from kfisher.jacobian.batch import Batch
from kfisher.jacobian.layers import outer_products, structure, tapped
from kfisher.jacobian.layers.blocks import Block
from kfisher.jacobian.plan import plan
from kfisher.likelihoods.weighted import example_weights

N, C = 3, 2
WEIGHTS = np.array([0.5, 2.0, 1.2])
SHARE = WEIGHTS / np.sum(WEIGHTS)
pytestmark = pytest.mark.usefixtures("float64")


def on(shape, make, *args, freeze=None, free=False, x=None, **kwargs):
    """A model around one layer, with weights neither 0 nor 1; `free` leaves the number of positions open."""

    def build():
        random = np.random.default_rng(3)
        batch = random.normal(size=(N, *shape)) if x is None else np.array(x, "int32")
        sizes = [None] * (len(shape) - 1) + [shape[-1]] if free else shape
        inputs = keras.Input(sizes, dtype=batch.dtype.name)
        layer = make(*args, **kwargs)
        outputs = ops.tanh(layer(inputs))
        if freeze:
            getattr(layer, freeze).trainable = False
        flat = ops.mean(outputs, list(range(1, len(outputs.shape) - 1))) if free else Flatten()(outputs)
        model = keras.Model(inputs, Dense(C, name="last")(flat))
        for v in model.weights:
            v.assign(v + random.uniform(0.1, 0.5, size=v.shape))
        model.compile(loss="mse")
        return model, batch

    return build


PICTURE, SPACE = (6, 5, 4), (4, 3, 5, 2)
KINDS = {
    "dense": on((4,), Dense, 3),
    "dense on sequences": on((3, 4), Dense, 2),
    "dense without bias": on((3, 4), Dense, 2, use_bias=False),
    "dense, kernel frozen": on((3, 4), Dense, 2, freeze="kernel"),
    "dense twice": on((2, 3), lambda: (lambda layer: lambda a: layer(ops.tanh(layer(a))[:, :1]))(Dense(3))),
    "einsum to heads": on((3, 4), EinsumDense, "abc,cde->abde", (3, 2, 3), bias_axes="de"),
    "einsum from heads": on((2, 2, 3), EinsumDense, "abcd,cde->abe", (2, 3), bias_axes="e"),
    "einsum around a position": on((3, 4), EinsumDense, "abc,cde->adbe", (2, 3, 3), bias_axes="de"),
    "einsum, partial bias": on((3, 4), EinsumDense, "abc,cde->abde", (3, 2, 3), bias_axes="e"),
    "einsum, bias on positions": on((3, 4), EinsumDense, "abc,cd->abd", (3, 2), bias_axes="bd"),
    "einsum, groups": on((3, 2, 4), EinsumDense, "abcd,cde->abce", (3, 2, 3), bias_axes="ce"),
    "einsum, groups last": on((3, 4, 2), EinsumDense, "abcd,ecd->abed", (3, 3, 2), bias_axes="ed"),
    "einsum, ellipsis": on((2, 2, 3), EinsumDense, "...x,xy->...y", 2, bias_axes="y"),
    "attention": on((3, 2), lambda: lambda a: layers.MultiHeadAttention(2, 2)(a, a)),
    "conv1d causal": on((7, 2), Conv1D, 3, 3, padding="causal", dilation_rate=2),
    "conv1d strides": on((7, 2), Conv1D, 3, 2, strides=2, use_bias=False),
    "conv2d groups": on(PICTURE, Conv2D, 4, 2, groups=2, padding="same", strides=2),
    "conv1d window of 1": on((7, 2), Conv1D, 3, 1, strides=2),
    "conv2d window of 1": on(PICTURE, Conv2D, 3, 1),
    "conv2d window of 1, strides, groups": on(
        PICTURE, Conv2D, 4, 1, groups=2, strides=(2, 1), padding="same"
    ),
    "conv2d dilated": on(PICTURE, Conv2D, 2, (3, 2), dilation_rate=(2, 1)),
    "conv3d dilated": on(SPACE, Conv3D, 2, 2, dilation_rate=(2, 1, 2)),
    "conv3d strides": on(SPACE, Conv3D, 2, (3, 2, 2), strides=(2, 1, 3)),
    "conv3d same": on(SPACE, Conv3D, 2, (3, 2, 2), strides=(2, 1, 3), padding="same"),
    "conv3d groups": on(SPACE, Conv3D, 4, 2, groups=2, padding="same"),
    "depthwise 1d": on((7, 3), DepthwiseConv1D, 3, depth_multiplier=2),
    "depthwise 2d": on(PICTURE, DepthwiseConv2D, (3, 2), strides=2, depth_multiplier=2, padding="same"),
    "separable 1d": on((7, 2), SeparableConv1D, 3, 3, depth_multiplier=2, strides=2),
    "separable 2d": on(PICTURE, SeparableConv2D, 3, (3, 2), depth_multiplier=2, padding="same"),
    "separable, bias and depthwise": on((7, 2), SeparableConv1D, 3, 2, freeze="pointwise_kernel"),
    "embedding, ids repeat": on((4,), Embedding, 5, 3, x=[[1, 1, 2, 1], [4, 2, 2, 4], [0, 1, 3, 2]]),
    "layer norm": on((3, 4), LayerNormalization),
    "batch norm": on((3, 4), BatchNormalization),
    "batch norm without variables": on((3,), BatchNormalization, center=False, scale=False),
    "lstm": on((3, 2), layers.LSTM, 3, unroll=True),
    "gru": on((3, 2), layers.GRU, 3, unroll=True),
}


@functools.lru_cache(None)
def model_of(kind):
    model, x = KINDS[kind]()
    return model, x, jacobian(model, x).reshape(N, C, -1)


def contributions(model, x, fisher="exact", weights=WEIGHTS):
    """The square root; each block with its products; and V, `(R, N, C)`, weights included."""
    y, size = np.random.default_rng(9).normal(size=(len(x), C)), len(x)
    kind, drawn = kfisher.Sampled(2) if fisher == "sampled" else kfisher.fisher.get(fisher), []
    vectors = kind.vectors
    kind.vectors = lambda *args: drawn.append(vectors(*args)) or drawn[0]
    batch = [None if t is None else tf.constant(t) for t in (x, y, weights)]
    root = Batch(model, *batch, kind, tf.constant([4, 2]), training=False).square_root
    if fisher == "exact":
        v = np.broadcast_to(np.eye(C)[:, np.newaxis], (C, size, C))
    else:
        v = (y - model(x).numpy())[np.newaxis] if fisher == "empirical" else drawn[0].numpy()
    w = np.ones(size) if weights is None else weights
    v = v * np.sqrt(2 * w / (size * C))[:, np.newaxis]
    return root, [pair for rule in root.rules for pair in rule.outer_products()], v


def matrices(model, block, rows):
    """Rows `(R, N, P)` as the matrices of a block, `(R, N, G, I, O)`, by way of its own layout."""
    own, sizes = model.trainable_variables, [int(np.prod(v.shape)) for v in model.trainable_variables]
    parts = dict(zip(map(id, own), np.split(rows, np.cumsum(sizes)[:-1], -1)))
    tensors = [tf.reshape(parts[id(v)], [*rows.shape[:2], *v.shape]) for v in block.variables]
    return block.to_matrix(tensors, 2).numpy()


def assert_close(actual, expected):
    assert np.any(expected), "a reference of zeros shows nothing"
    assert distance(actual, expected) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_partition_the_variables(kind):
    """Every variable is in one block, and its entries each in one place of the matrix."""
    model, x, _ = model_of(kind)
    root, found, _ = contributions(model, x)
    assert "per example" not in {rule.name for rule in root.rules}
    blocks = structure(tapped(plan(model, x, False)))
    position = {id(v): i for i, v in enumerate(model.trainable_variables)}
    assert sorted(id(v) for block in blocks for v in block.variables) == sorted(position)
    located = [block.located(lambda v: position[id(v)]) for block in blocks]
    assert located == [block.located(lambda v: position[id(v)]) for block, _ in found]
    assert located == [Block.from_config(block.get_config()) for block in located]
    for block in blocks:
        shapes = [v.shape for v in block.variables]
        ends = np.cumsum([np.prod(shape) for shape in shapes])
        entries = [e.reshape(s) for e, s in zip(np.split(np.arange(ends[-1]), ends[:-1]), shapes)]
        matrix = block.to_matrix([tf.constant(e) for e in entries])
        assert matrix.shape == (block.groups, block.inputs, block.outputs)
        assert sorted(np.ravel(matrix)) == list(range(ends[-1]))
        assert all(map(np.array_equal, block.from_matrix(matrix, shapes), entries))


@pytest.mark.parametrize("fisher", ["exact", "empirical"])  # of several vectors and of one
@pytest.mark.parametrize("kind", KINDS)
def test_squares_are_those_of_the_jacobian(kind, fisher, monkeypatch):
    """Exact in any basis, few columns at a time too. If formed, A = sum M M^T / trace and B = sum M^T M."""
    model, x, j = model_of(kind)
    root, found, v = contributions(model, x, fisher)
    assert_close(example_weights(root.loss.heads)[0], SHARE)
    rows = np.einsum("rnc,ncp->rnp", v, j)
    for block, products in found:
        m = matrices(model, block, rows)
        shapes = [(block.groups, size, size) for size in (block.inputs, block.outputs)]
        left, right = (np.linalg.qr(np.random.default_rng(8).normal(size=s))[0] for s in shapes)
        # The left basis of an embedding is the identity.
        turned = m if block.form == "lookup" else np.einsum("rngio,gij->rngjo", m, left)
        turned, left = np.einsum("rngio,gop->rngip", turned, right), None if block.form == "lookup" else left
        if block.form == "formed":
            a, b = np.einsum("rngio,rngjo->gij", m, m), np.einsum("rngio,rngip->gop", m, m)
            assert_factors(products, "expand", None, a / np.trace(a, axis1=1, axis2=2)[:, None, None], b)
        for entries in outer_products._SLICE, 1:
            monkeypatch.setattr(outer_products, "_SLICE", entries)
            assert_close(products.squares(), np.sum(m**2, (0, 1)))
            assert_close(products.squares(left, right), np.sum(turned**2, (0, 1)))


def patches(x, sizes, strides, rates, padding):
    """What a kernel sees, one position and one pixel at a time: `(N, S, k, channels)`."""
    strides, rates, lengths = np.array(strides), np.array(rates), np.array(x.shape[1:-1])
    reach = rates * (np.array(sizes) - 1)  # from the first pixel to the last
    total = np.maximum(0, (-(-lengths // strides) - 1) * strides + reach + 1 - lengths)
    total = {"valid": 0 * reach, "causal": reach, "same": total}[padding]
    before = total if padding == "causal" else total // 2
    x = np.pad(x, [(0, 0), *zip(before, total - before), (0, 0)])
    positions = np.ndindex(*((np.array(x.shape[1:-1]) - reach - 1) // strides + 1))
    seen = [[x[(slice(None), *(p * strides + o * rates))] for o in np.ndindex(*sizes)] for p in positions]
    return np.moveaxis(np.array(seen), 2, 0)


def convolution(layer, x, g):
    groups = getattr(layer, "groups", x.shape[-1])  # one for each channel if depthwise
    seen = patches(x, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding)
    a = np.stack([part.reshape(*seen.shape[:2], -1) for part in np.split(seen, groups, -1)], 2)
    return a, g.reshape(*g.shape[:2], -1, groups, g.shape[-1] // groups)


def product(_, x, g, features=1, outputs=1):
    """A product over the last axes, at all positions before them."""
    inputs, units = np.prod(x.shape[-features:]), np.prod(g.shape[-outputs:])
    return x.reshape(N, -1, 1, inputs), g.reshape(*g.shape[:2], -1, 1, units)


# x and g, in the shapes of input and output, as a `(N, S, G, I)` and g `(R, N, S, G, O)`.
BY_HAND = {
    **{kind: convolution for kind in KINDS if kind.startswith(("conv", "depthwise"))},
    **{kind: product for kind in KINDS if kind.startswith("dense") and kind != "dense twice"},
    "dense, kernel frozen": lambda _, x, g: (np.zeros((N, 3, 1, 0)), g[:, :, :, np.newaxis]),
    **dict.fromkeys(["einsum, bias on positions", "einsum, ellipsis"], product),
    **dict.fromkeys(["einsum to heads", "einsum, partial bias"], functools.partial(product, outputs=2)),
    "einsum from heads": functools.partial(product, features=2),
    "einsum around a position": lambda _, x, g: product(_, x, np.swapaxes(g, 2, 3), outputs=2),
    "einsum, groups": lambda _, x, g: (x, g),
    "einsum, groups last": lambda _, x, g: (np.swapaxes(x, 2, 3), np.swapaxes(g, 3, 4)),
    "embedding, ids repeat": lambda _, x, g: product(_, np.eye(5)[x], g),
}


def gradients_at(model, shapes, z_of, v):
    """sum_c v_rnc df_nc/dz for what is added to each z, joined over positions, `(R, N, S.., O)`."""
    deltas = [tf.zeros((N, *shape), tf.float64) for shape in shapes]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(deltas)
        outputs = model.get_layer("last")(tf.reshape(tf.tanh(z_of(*deltas)), [N, -1]))
        sums = tf.unstack(tf.reduce_sum(outputs, 0))  # examples do not see each other
    j = np.stack([tf.concat(tape.gradient(f, deltas), 1).numpy() for f in sums], 1)
    return np.einsum("rnc,nc...->rn...", v, j)


def factors(a, g, w, sharing):
    if sharing == "reduce":
        a, g = np.mean(a, 1, keepdims=True), np.sum(g, 2, keepdims=True)
    a = np.einsum("nsgi,nsgj,n->gij", a, a, w) / a.shape[1]
    return a, np.einsum("rnsgo,rnsgp->gop", g, g)


def assert_factors(products, sharing, w, a, b):
    """Full and diagonal ones; a diagonal A is all that an embedding has."""
    lookup = isinstance(products, outer_products.Lookup)
    for diagonals in itertools.product([False, True], repeat=2):
        actual = products.factors(w, sharing, diagonals, {})
        for factor, matrix, only in zip(actual, (a, b), (diagonals[0] or lookup, diagonals[1])):
            assert_close(factor, np.einsum("gii->gi", matrix) if only else matrix)


@pytest.mark.parametrize("fisher, weights", [("exact", None), ("sampled", WEIGHTS), ("empirical", WEIGHTS)])
@pytest.mark.parametrize("kind", BY_HAND)
def test_factors_are_those_formed_by_hand(kind, fisher, weights):
    model, x, _ = model_of(kind)
    layer = model.layers[1]
    _, found, v = contributions(model, x, fisher, weights)
    block, products = found[0]
    assert block.form != "formed" and block.variables[0] is layer.trainable_variables[0]
    z = layer(x)
    a, g = BY_HAND[kind](layer, x, gradients_at(model, [z.shape[1:]], lambda delta: z + delta, v))
    if any(variable is getattr(layer, "bias", None) for variable in block.variables):
        a = np.concatenate([a, np.ones((*a.shape[:3], 1))], -1)
    w = np.full(N, 1 / N) if weights is None else SHARE
    for sharing in "expand", "reduce":
        assert_factors(products, sharing, w, *factors(a, g, w, sharing))


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_a_layer_called_twice_has_the_positions_of_both_calls(sharing):
    model, x, _ = model_of("dense twice")
    root, ((_, products), _), v = contributions(model, x)
    layer = root.rules[0].layer_calls[0].layer
    calls = lambda one, two: layer(tf.tanh(layer(x) + one)[:, :1]) + two
    a = np.concatenate([x, tf.tanh(layer(x))[:, :1]], 1)
    a, g = product(layer, a, gradients_at(model, [(2, 3), (1, 3)], calls, v))
    a = np.concatenate([a, np.ones((N, 3, 1, 1))], -1)
    assert_factors(products, sharing, SHARE, *factors(a, g, SHARE, sharing))


@pytest.mark.parametrize("kind", ["separable 1d", "separable 2d"])
def test_a_separable_convolution_is_two_convolutions(kind):
    model, x, _ = model_of(kind)
    layer = model.layers[1]
    depthwise, pointwise = (DepthwiseConv1D, Conv1D) if layer.rank == 1 else (DepthwiseConv2D, Conv2D)
    first = depthwise(layer.kernel_size, layer.strides, layer.padding, layer.depth_multiplier, use_bias=False)
    twin, _ = on(x.shape[1:], lambda: lambda a: pointwise(3, 1)(first(a)))()
    twin.set_weights(model.get_weights())
    for (_, products), (_, known) in zip(contributions(model, x)[1], contributions(twin, x)[1], strict=True):
        for sharing in "expand", "reduce":
            expected = [t.numpy() for t in known.factors(SHARE, sharing, (False, False), {})]
            assert_factors(products, sharing, SHARE, *expected)


@pytest.mark.parametrize(
    "build",
    [
        on((4,), Dense, 3),
        on((2, 3), EinsumDense, "abc,bcde->abed", (2, 2, 2), bias_axes="bed"),
        on((3, 2, 4), Conv2D, 4, (3, 2), groups=2),
        on((3, 2, 3, 2), Conv3D, 2, 2, dilation_rate=(2, 1, 2)),
        on((3, 2), SeparableConv1D, 3, 3, depth_multiplier=2),
        on((1,), Embedding, 5, 3, x=[[1], [3], [1]]),
        on((3,), BatchNormalization),
    ],
)
def test_one_outer_product_is_the_kronecker_product_of_its_factors(build):
    """One example, one position, one vector: the block of F is A (x) B and no approximation."""
    model, x = build()
    root, found, v = contributions(model, x[:1], "empirical", np.array([0.7]))
    rows = np.einsum("rnc,cp->rnp", v, jacobian(model, x[:1]))
    assert_close(root.rows(), rows[0])
    for (block, products), sharing in itertools.product(found, ["expand", "reduce"]):
        m = matrices(model, block, rows)[0, 0].reshape(block.groups, -1)
        a, b = products.factors(np.ones(1), sharing, (False, False), {})
        a = a if len(a.shape) == 3 else tf.linalg.diag(a)
        assert_close([np.kron(*pair) for pair in zip(a, b)], np.einsum("gp,gq->gpq", m, m))


@pytest.mark.parametrize(
    "makes",
    [
        [lambda: lambda a: layers.MultiHeadAttention(2, 2)(a, a)],
        [lambda: EinsumDense("abc,bd->acd", (3, 3)), lambda: EinsumDense("...x,xy->...y", 3)],
        [lambda: EinsumDense("ab...,bd->ad...", 3), lambda: EinsumDense("...x,xy->...y", 3)],
        [lambda: Dense(3), lambda: Dense(3, use_bias=False)],
        [lambda: Conv1D(3, 2, padding="causal"), lambda: Conv1D(3, 2, padding="same")],
    ],
)
def test_layers_share_a_factor_if_they_read_a_tensor_in_the_same_way(makes):
    """As query, key and value do, the pairs not: with the last layer three As in all, values as before."""
    model, x = on((3, 3), lambda: lambda a: ops.concatenate([make()(a) for make in makes], 1))()
    found, w = contributions(model, x)[1], tf.constant(SHARE)
    for sharing in "expand", "reduce":
        cache = {}
        for (_, products), diagonal in itertools.product(found, [True, False]):
            actual = products.factors(w, sharing, (diagonal, diagonal), cache)
            alone = products.factors(w, sharing, (diagonal, diagonal), {})
            assert all(map(np.array_equal, actual, alone))
        assert len([key for key in cache if key[0] != "scale"]) == 2 * 3


@pytest.mark.parametrize(
    "build",
    [
        on((3, 4), EinsumDense, "abc,cde->abde", (None, 2, 2), bias_axes="de", free=True),
        on(PICTURE, Conv2D, 2, 2, strides=2, padding="same", free=True),
        on(SPACE, Conv3D, 2, 2, strides=(2, 1, 3), free=True),
        on(SPACE, Conv3D, 2, 2, strides=(2, 1, 3), padding="same", free=True),
        on(SPACE, Conv3D, 2, 1, strides=(2, 1, 3), padding="same", free=True),  # nothing is missing
        on(PICTURE, SeparableConv2D, 3, 2, depth_multiplier=2, free=True),
        *(KINDS[kind] for kind in ("embedding, ids repeat", "layer norm", "lstm", "dense twice")),
    ],
)
def test_sizes_unknown_while_tracing(build):
    model, x = build()

    def products(x):
        root = kfisher.FisherOperator(model, x).root
        found = []
        for _, products in (pair for rule in root.rules for pair in rule.outer_products()):
            found.append(products.squares())
            for sharing, diagonal in itertools.product(["expand", "reduce"], [True, False]):
                found += products.factors(
                    example_weights(root.loss.heads)[0], sharing, (diagonal, diagonal), {}
                )
        return found

    free = [tf.TensorSpec(model.inputs[0].shape, x.dtype)]
    traced = tf.function(products, autograph=False, input_signature=free)
    for actual, expected in zip(traced(x), products(tf.constant(x)), strict=True):
        assert_close(actual, expected)
