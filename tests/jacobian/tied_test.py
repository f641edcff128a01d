"""Variables with several uses, layers of one's own that multiply by a matrix, and recurrent layers.

None of them forms a gradient for each example; F is the Gauss-Newton matrix of the loss by autodiff.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import EAGER, crossentropy
from helpers.oracle import distance, gauss_newton, jacobian
from helpers.versions import not_in_oldest
from keras import layers, ops

import kfisher
from kfisher.jacobian.batch import Batch
from kfisher.jacobian.layers import Rule
from kfisher.jacobian.layers.sums import SumRule

pytestmark = pytest.mark.usefixtures("float64")
N, V, D, T = 3, 7, 3, 4
IDS = np.array([[1, 2, 1, 0], [3, 3, 3, 6], [5, 0, 2, 2]], "int32")
NUMBERS = np.random.default_rng(0).normal(size=(N, 5))
SEQUENCES = np.random.default_rng(0).normal(size=(N, T, 2))


class Tokens(layers.Layer):
    """Tokens and positions in one layer, as tutorials have it."""

    def __init__(self):
        super().__init__(name="tokens")
        self.token, self.position = (
            layers.Embedding(V, D, name="token"),
            layers.Embedding(T, D, name="position"),
        )

    def call(self, x):
        return self.token(x) + self.position(ops.arange(T))


class Transposed(layers.Layer):
    """The kernel of another layer, transposed, and a bias of its own."""

    def __init__(self, dense, activation=None):
        super().__init__(name="transposed")
        self.dense, self.activation = dense, keras.activations.get(activation)

    def build(self, shape):
        self.shift = self.add_weight(shape=(self.dense.kernel.shape[0],), name="shift")

    def call(self, x):
        return self.activation(ops.matmul(x, ops.transpose(self.dense.kernel)) + self.shift)


class Linear(layers.Layer):
    def __init__(self, units, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.units, self.dropout = units, layers.Dropout(dropout, seed=0)

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
        self.b = self.add_weight(shape=(self.units,), name="b")

    def call(self, x):
        return tf.matmul(self.dropout(x), self.w) + self.b


def tokens():
    x = keras.Input((T,), dtype="int32")
    return keras.Model(x, layers.Dense(2, name="last")(ops.tanh(Tokens()(x)))), IDS


def reversible(**options):
    x, table = keras.Input((T,), dtype="int32"), layers.ReversibleEmbedding(V, D, name="table", **options)
    return keras.Model(x, table(layers.Dense(D, "tanh", name="middle")(table(x)), reverse=True)), IDS


def only_forth():
    x = keras.Input((T,), dtype="int32")
    return keras.Model(x, layers.Dense(2)(layers.ReversibleEmbedding(V, D, name="table")(x))), IDS


def autoencoder():
    x, dense = keras.Input((5,)), layers.Dense(D, "tanh", name="dense")
    return keras.Model(x, Transposed(dense, "sigmoid")(dense(x))), NUMBERS


def linear():
    x = keras.Input((T, 2))
    return keras.Model(x, Linear(2, name="b")(ops.tanh(Linear(3, name="a")(x)))), SEQUENCES


def recurrent(kind, **options):
    def make():
        inner = kind(2, return_sequences=True, **options)
        x = keras.Input((T,), dtype="int32")
        h = layers.Bidirectional(inner, name="both")(layers.Embedding(V, 2, mask_zero=True)(x))
        return keras.Model(x, layers.Dense(1)(kind(2, go_backwards=True, unroll=True)(h))), IDS

    return make


MODELS = {
    "tokens and positions": (tokens, {"embedding", "dense", "per example"}),
    "reversible": (reversible, {"product", "dense"}),
    "reversible, untied": (lambda: reversible(tie_weights=False), {"product", "dense"}),
    "reversible, only forth": (only_forth, {"embedding", "dense"}),
    "transposed kernel": (autoencoder, {"product"}),
    "layers of one's own": (linear, {"product"}),
    "gru": (recurrent(layers.GRU), {"embedding", "recurrent", "dense"}),
    "lstm": (recurrent(layers.LSTM, use_bias=False), {"embedding", "recurrent", "dense"}),
    "simple": (recurrent(layers.SimpleRNN), {"embedding", "recurrent", "dense"}),
}


def made(name):
    keras.utils.set_random_seed(0)
    model, x = MODELS[name][0]()
    random = np.random.default_rng(1)
    for v in model.trainable_variables:
        v.assign(random.normal(size=v.shape) / 2)
    model.compile(loss="mse")
    return model, x


NO_REVERSIBLE = not_in_oldest("they have no ReversibleEmbedding")
MARKS = dict.fromkeys(("lstm", "simple"), [pytest.mark.slow, pytest.mark.by_hand])
MARKS |= {name: [NO_REVERSIBLE] for name in MODELS if name.startswith("reversible")}


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in MODELS])
def test_it_is_exact_without_a_gradient_of_single_examples(name):
    model, x = made(name)
    assert {row.rule for row in kfisher.coverage(model)} == MODELS[name][1]
    j = jacobian(model, x)
    expected = gauss_newton(model, x, np.zeros(model(x).shape), j=j)
    root = kfisher.FisherOperator(model, x, fisher="exact").root
    rows = root.rows().numpy()
    assert distance(rows.T @ rows, expected) < 1e-10
    scales = np.random.default_rng(2).uniform(0.5, 2, len(model.trainable_variables))
    sizes = [int(np.prod(v.shape)) for v in model.trainable_variables]
    assert (
        distance(root.gram([tf.constant(c) for c in scales]), rows * np.repeat(scales, sizes) @ rows.T)
        < 1e-10
    )
    v = np.random.default_rng(3).normal(size=rows.shape[1])
    split = [
        p.reshape(w.shape) for p, w in zip(np.split(v, np.cumsum(sizes)[:-1]), model.trainable_variables)
    ]
    seen = root.matvec([tf.constant(p) for p in split])
    assert distance(np.ravel(seen), rows @ v) < 1e-10
    assert distance(np.concatenate([np.ravel(p) for p in root.rmatvec(seen)]), expected @ v) < 1e-10
    weights = tf.fill([N], tf.constant(1 / N, tf.float64))
    for rule in root.rules:
        own = {id(v): u for v, u in zip(rule.variables, rule.rows())}
        for block, products in rule.outer_products():
            m = block.to_matrix([own[id(v)] for v in block.variables], 2).numpy()
            assert distance(products.squares(), np.sum(m**2, (0, 1))) < 1e-10
            full = products.factors(weights, "expand", (block.form == "lookup", False), {})
            diagonal = products.factors(weights, "expand", (True, True), {})
            for whole, part in zip(full, diagonal):
                assert distance(part, tf.linalg.diag_part(whole) if whole.shape.rank == 3 else whole) < 1e-10


def test_factors_of_tied_uses_have_the_partial_traces_of_their_sum():
    """Of L_1 ⊗ R_1 + L_2 ⊗ R_2, with L and R as each use alone would have them."""
    model, x = made("transposed kernel")
    batch = Batch(model, tf.constant(x), None, None, kfisher.Sampled(), tf.constant([0, 0]))
    (rule,) = batch.square_root.rules
    weights = tf.constant([0.2, 0.3, 0.5], tf.float64)
    products = rule.outer_products()[0][1]
    total = 0.0
    for use in products.uses:
        sides = []
        for t, is_input in ((use.left, use.left_is_input), (use.right, not use.left_is_input)):
            flat = t.numpy()[0, :, 0]  # one vector, one position
            sides.append(flat.T @ (flat * (weights.numpy()[:, None] if is_input else 1)))
        total = total + np.einsum("ij,op->iojp", *sides)
    a, b = (t.numpy()[0] for t in products.factors(weights, "expand", (False, False), {}))
    assert distance(a * np.trace(b), np.einsum("iojo->ij", total)) < 1e-10
    assert distance(b * np.trace(a), np.einsum("ioip->op", total)) < 1e-10


def test_what_is_tied_by_a_function_is_a_block_of_its_own_and_the_rest_keeps_its_rules():
    x, table = keras.Input((2,), dtype="int32"), layers.Embedding(4, 3, name="table")
    outputs = layers.Lambda(lambda h: ops.matmul(h, ops.transpose(table.embeddings)))
    model = keras.Model(x, outputs(layers.Dense(3, name="dense")(table(x))), name="whole")
    assert [(row.layer, row.rule) for row in kfisher.coverage(model)] == [
        ("whole", "per example"),
        ("dense", "dense"),
    ]
    model.compile(loss="mse")
    F = kfisher.FisherOperator(model, IDS[:, :2] % 4, fisher="exact")
    expected = gauss_newton(model, IDS[:, :2] % 4, np.zeros((N, 2, 4)))
    assert distance(F.to_dense(), expected) < 1e-10


class Bent(Linear):
    """The product in all but the last of its outputs."""

    def call(self, x):
        z = super().call(x)
        return tf.concat([z[..., :-1], z[..., -1:] ** 2], -1)


@pytest.mark.parametrize("layer", [lambda: Linear(3, dropout=0.5), lambda: Bent(3)])
def test_a_layer_that_only_looks_like_a_product_is_none(layer):
    x = keras.Input((2,))
    model = keras.Model(x, layer()(x))
    assert {row.rule for row in kfisher.coverage(model)} == {"per example"}
    model.compile(loss="mse")
    kfisher.FisherOperator(model, NUMBERS[:, :2], training=True).trace()


@NO_REVERSIBLE
@pytest.mark.parametrize(
    "curvature",
    [
        "kfac",
        *(pytest.param(name, marks=[pytest.mark.slow, pytest.mark.by_hand]) for name in ("ekfac", "gram")),
    ],
)
def test_a_step_forms_no_gradient_of_single_examples(curvature, monkeypatch):
    def formed(*_):
        raise AssertionError("rows are formed")

    for rule in (Rule, SumRule):
        monkeypatch.setattr(rule, "rows", formed)
    keras.utils.set_random_seed(2)
    table = layers.ReversibleEmbedding(V, D)
    x = keras.Input((T,), dtype="int32")
    model = kfisher.Model(x, table(layers.GRU(D, return_sequences=True)(table(x)), reverse=True))
    optimizer = kfisher.optimizers.NaturalGradient(curvature=curvature, seed=0)
    model.compile(optimizer, crossentropy(), **EAGER)
    losses = model.fit(IDS, IDS, batch_size=N, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0] and int(optimizer.skipped_steps) == 0


def test_an_activation_may_be_exchanged_after_the_first_operator():
    x, dense = keras.Input((5,)), layers.Dense(D, name="dense")
    tied = Transposed(dense)
    model = keras.Model(x, tied(dense(x)))
    model.compile(loss="mse")
    kfisher.FisherOperator(model, NUMBERS, fisher="exact").trace()
    tied.activation = lambda z: z**2 * tf.transpose(dense.kernel)[:1, :5] if z.shape[-1] == 5 else z
    F = kfisher.FisherOperator(model, NUMBERS, fisher="exact").to_dense()
    assert distance(F, gauss_newton(model, NUMBERS, np.zeros((N, 5)))) < 1e-10
