"""The ladder of exactness: dense = products; K-FAC, EKFAC and the diagonal against dense blocks and NumPy.

The dense matrix is `kfisher.FisherOperator`'s, itself tested against autodiff of the compiled loss. All is in
float64: what is equal in theory agrees to 1e-9 of the largest entry, with room for the shapes.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import crossentropy, eager, flat
from helpers.oracle import distance
from keras import layers

import kfisher
from kfisher._common.vectors import flatten, unflatten
from kfisher.curvature import EKFAC, KFAC, Diagonal, _factorisation
from kfisher.curvature._factorisation import eigensystems
from kfisher.jacobian.batch import Batch
from kfisher.optimizers import NaturalGradient

pytestmark = pytest.mark.usefixtures("float64")
RNG = np.random.default_rng(0)
FISHERS = ["exact", "sampled", "empirical"]
# The textbook update, of which no step is bounded, judged or taken back.
natural = functools.partial(NaturalGradient, trust_region=None)
N = 6
WEIGHTS = RNG.uniform(0.2, 2.0, size=N)
X, LABELS, TARGETS = RNG.normal(size=(N, 3)), RNG.integers(0, 3, size=N), RNG.normal(size=(N, 2))
SEQUENCES, PICTURES = RNG.normal(size=(N, 4, 3)), RNG.normal(size=(N, 5, 4, 2))
SERIES, POSITIONS = RNG.normal(size=(N, 4, 2)), RNG.uniform(0.2, 2.0, size=(N, 4))


def perceptron(optimizer=None, **regularizers):
    return eager([layers.Dense(4, "tanh", **regularizers), layers.Dense(3)], optimizer=optimizer)


def two_outputs():
    hidden = layers.Dense(4, "tanh")(inputs := keras.Input((3,)))
    model = kfisher.Model(inputs, [layers.Dense(3)(hidden), layers.Dense(2)(hidden)])
    model.compile(loss=[crossentropy(), "mse"], loss_weights=[0.3, 2.0])
    return model, X, [LABELS, TARGETS], [WEIGHTS, WEIGHTS[::-1]]


def pictures():
    stack = [layers.Conv2D(3, 2, strides=2, padding="same", activation="tanh"), layers.Flatten()]
    return eager([*stack, layers.Dense(3)], shape=(5, 4, 2)), PICTURES, LABELS, None


def normalised():
    stack = [layers.Dense(4), layers.BatchNormalization(), layers.Activation("tanh"), layers.Dense(3)]
    return eager(stack), X, LABELS, WEIGHTS


def recurrent():
    stack = [layers.LSTM(2, unroll=True), layers.Dense(3)]
    return eager(stack, shape=(2, 3)), SEQUENCES[:, :2], LABELS, None


CASES = {
    "dense": lambda: (perceptron(), X, LABELS, None),
    "weights": lambda: (perceptron(), X, LABELS, WEIGHTS),
    "L2": lambda: (perceptron(kernel_regularizer="l2"), X, LABELS, WEIGHTS),
    "two outputs": two_outputs,
    "time": lambda: (eager([layers.Dense(2, "tanh")], "mse", (4, 3)), SEQUENCES, SERIES, POSITIONS),
    "batch normalisation": normalised,
    "LSTM": recurrent,
    "convolution": pictures,
}


def pairs(*cases):
    """Every case with every Fisher; the LSTM, whose gradients take seconds to trace, with one."""
    return [(c, f) for c in cases or CASES for f in FISHERS if c != "LSTM" or f == "sampled"]


def dense(model, x, y, w=None, fisher="exact"):
    operator = kfisher.FisherOperator(model, x, y, fisher=fisher, sample_weight=w, seed=1, training=True)
    return operator.to_dense().numpy()


def shown(curvature, model, x, y, w=None, fisher="exact"):
    """The curvature after it has seen one batch."""
    model.optimizer = NaturalGradient(1.0, fisher, curvature, damping=0.1, seed=1)
    model.optimizer.observe(model, x, y, w)
    return curvature


def gradient(model, x, y, w=None):
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True), w)
    return flat(tape.gradient(loss, model.trainable_variables))


def blocks_of(curvature, matrix):
    """For each block and group: its number, the group, and its part of the dense matrix."""
    shapes = curvature._shapes
    starts = np.cumsum([0] + [int(np.prod(s)) for s in shapes])
    numbers = [tf.reshape(tf.range(a, b), s) for a, b, s in zip(starts, starts[1:], shapes)]
    for number, block in enumerate(curvature.blocks):
        for group, index in enumerate(block.to_matrix([numbers[i] for i in block.variables]).numpy()):
            yield number, group, matrix[np.ix_(index.ravel(), index.ravel())]


def full(factor):
    return np.diag(factor) if factor.ndim == 1 else factor


def kron(curvature, number, group):
    a, b = (full(np.array(v)[group]) for v in curvature.averages[number])
    return np.kron(a, b)


@pytest.mark.parametrize("case, fisher", pairs())
def test_products_of_the_linearised_model_are_those_of_the_dense_matrix(case, fisher):
    model, x, y, w = CASES[case]()
    matrix = dense(model, x, y, w, fisher)
    data = [None if part is None else tf.nest.map_structure(tf.constant, part) for part in (x, y, w)]
    found = Batch(model, *data, kfisher.fisher.get(fisher), tf.constant([1, 0])).linearization
    vectors = np.random.default_rng(1).normal(size=(2, len(matrix)))
    parts = [unflatten(tf.constant(v), [v.value for v in model.trainable_variables]) for v in vectors]
    assert distance(flatten(found.matvec(parts[0])), matrix @ vectors[0]) < 1e-10
    assert distance(found.quadratic(parts), vectors @ matrix @ vectors.T) < 1e-10


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_kfac_of_one_example_is_the_block(fisher, sharing):
    """One input a, so that the sum over rows r of (a (x) g_r)(a (x) g_r)^T is aa^T (x) sum g_r g_r^T."""
    model, x, y = perceptron(), X[:1], LABELS[:1]
    curvature = shown(KFAC(sharing=sharing), model, x, y, WEIGHTS[:1], fisher)
    for number, group, block in blocks_of(curvature, dense(model, x, y, WEIGHTS[:1], fisher)):
        assert distance(kron(curvature, number, group), block) < 1e-10


@pytest.mark.parametrize(
    "sharing, pooled, shape", [("expand", False, (3,)), ("expand", False, (4, 3)), ("reduce", True, (4, 3))]
)
def test_kfac_of_a_deep_linear_network_is_the_block(sharing, pooled, shape):
    """With squared error; positions as in Eschenhagen 2023: each with a loss of its own, or averaged."""
    stack = [layers.Dense(4), layers.Dense(3), layers.Dense(2)]
    if pooled:
        stack.insert(2, layers.GlobalAveragePooling1D())
    model = eager(stack, "mse", shape)
    x = RNG.normal(size=(N, *shape))
    y = RNG.normal(size=model(x).shape)
    w = WEIGHTS if y.ndim == 2 else np.tile(WEIGHTS[:, np.newaxis], 4)
    curvature = shown(KFAC(sharing=sharing), model, x, y, w)
    for number, group, block in blocks_of(curvature, dense(model, x, y, w)):
        assert distance(kron(curvature, number, group), block) < 1e-10


@pytest.mark.parametrize("case, fisher", pairs("weights", "time", "LSTM", "convolution"))
def test_eigenvalues_of_ekfac_are_exact_in_its_basis_and_never_worse_than_those_of_kfac(case, fisher):
    model, x, y, w = CASES[case]()
    curvature = shown(EKFAC(), model, x, y, w, fisher)
    better = 0
    for number, group, block in blocks_of(curvature, dense(model, x, y, w, fisher)):
        q = np.kron(*(np.array(basis)[group] for basis in curvature.bases[number]))
        s = np.array(curvature.eigenvalues[number])[group].ravel()
        assert distance(s, np.diag(q.T @ block @ q)) < 1e-9
        kfac = kron(curvature, number, group)
        assert distance(q @ np.diag(np.diag(q.T @ kfac @ q)) @ q.T, kfac) < 1e-9  # its eigenvectors
        ours, theirs = np.linalg.norm(q @ np.diag(s) @ q.T - block), np.linalg.norm(kfac - block)
        assert ours <= theirs + 1e-12 * np.linalg.norm(block)
        better += ours < 0.99 * theirs
    assert better  # it is not the same thing under another name


@pytest.mark.parametrize("sharing", ["reduce", "expand"])
def test_ekfac_takes_no_notice_of_the_basis_in_a_null_space(sharing, monkeypatch):
    """Twenty inputs, of which a step sees four; the last batch comes after the basis."""

    def solution(rotation):
        def rotated(matrices, xla):
            pairs = []
            for values, q in eigensystems(matrices, xla):
                null = int(np.sum(values[0] < 1e-10 * values[0, -1]))
                turn = np.eye(len(q[0]))
                turn[:null, :null] = np.linalg.qr(rotation[:null, :null])[0]
                pairs.append((values, q @ turn))
                nullities.append(null)
            return pairs

        monkeypatch.setattr(_factorisation, "eigensystems", rotated)
        stack = [layers.Dense(5, "tanh"), layers.Dense(2)]
        optimizer = natural(0.5, "exact", EKFAC(update_every=1, sharing=sharing), damping=1e-3)
        model = eager(stack, "mse", (2, 20), optimizer)
        for x, y in batches:
            model.train_on_batch(x, y)
        return flat(model.get_weights())

    random, nullities = np.random.default_rng(5), []
    batches = [(random.normal(size=(2, 2, 20)), random.normal(size=(2, 2, 2))) for _ in range(4)]
    one, other = (solution(random.normal(size=(21, 21))) for _ in range(2))
    assert max(nullities) > 1
    assert distance(one, other) < 1e-10


def entries(curvature):
    return flat([curvature.entries(i) for i in range(len(curvature._shapes))])


@pytest.mark.parametrize("case, fisher", pairs(*(c for c in CASES if c != "L2")))
def test_diagonal_is_that_of_the_dense_matrix(case, fisher):
    model, x, y, w = CASES[case]()
    curvature = shown(Diagonal(), model, x, y, w, fisher)
    assert distance(entries(curvature), np.diag(dense(model, x, y, w, fisher))) < 1e-10


def test_averages_have_no_bias_towards_zero():
    optimizer = natural(0.5, "exact", Diagonal(decay=0.8), damping=0.1)
    model, total = perceptron(optimizer), 0.0
    for t in range(1, 5):
        x, y = X[t : t + 2], LABELS[t : t + 2]
        total = 0.8 * total + 0.2 * np.diag(dense(model, x, y))
        model.train_on_batch(x, y)
        assert distance(entries(optimizer.curvature), total / (1 - 0.8**t)) < 1e-10


def test_the_empirical_diagonal_of_single_examples_is_what_adam_accumulates():
    optimizer = natural(0.5, "empirical", Diagonal(decay=0.9), damping=0.1)
    model, adam = perceptron(optimizer), keras.optimizers.Adam(0.0, beta_2=0.9)
    adam.build(model.trainable_variables)
    for t in range(1, 5):
        x, y = X[t : t + 1], LABELS[t : t + 1]
        parts = unflatten(tf.constant(gradient(model, x, y)), [v.value for v in model.trainable_variables])
        adam.apply(parts, model.trainable_variables)
        model.train_on_batch(x, y)
        assert distance(entries(optimizer.curvature), flat(adam._velocities) / (1 - 0.9**t)) < 1e-10


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("curvature", ["kfac", "ekfac", "diagonal", "gram", "dense", "matrix_free"])
def test_huge_damping_gives_a_step_of_gradient_descent(curvature, fisher):
    damping = 1e12
    model = perceptron(natural(damping, fisher, curvature, damping=damping))
    expected, before = -gradient(model, X, LABELS), flat(model.get_weights())
    model.train_on_batch(X, LABELS)
    # K-FAC adds sqrt(damping) to each factor, of norm 1.
    assert distance(flat(model.get_weights()) - before, expected) < 1e-5


# --- K-FAC and EKFAC in NumPy, for a perceptron with softmax cross-entropy ---------------------------

L2 = 1 / 32  # as the learning rates: Keras rounds such numbers to float32
DUE = {1: range(9), 2: [0, 1, 2, 4, 6, 8], 100: [0, 1, 2, 4, 8]}  # the schedule that the docstring promises


def by_hand(weights, fisher):
    """For each layer the gradient, inputs (N, I) and pulled-back vectors (R, N, O), the bias as last row."""
    (w1, b1, w2, b2), ones = weights, np.ones((N, 1))
    h = np.tanh(X @ w1 + b1)
    f = h @ w2 + b2
    p = np.exp(f) / np.exp(f).sum(1, keepdims=True)
    wrong = (p - np.eye(3)[LABELS]) / N
    if fisher == "empirical":
        v = wrong[np.newaxis] * np.sqrt(N)
    else:
        v = np.stack([np.sqrt(p[:, r : r + 1]) * (np.eye(3)[r] - p) for r in range(3)]) / np.sqrt(N)
    inner = (v @ w2.T) * (1 - h**2)
    a1, a2 = np.hstack([X, ones]), np.hstack([h, ones])
    g1 = a1.T @ ((wrong @ w2.T) * (1 - h**2)) + np.vstack([2 * L2 * w1, 0 * b1])
    return [(g1, a1, inner), (a2.T @ wrong, a2, v)]


def numpy_run(step, fisher, update_every, solve_every, damping=0.05, steps=6, decay=0.7, rate=0.5):
    weights = perceptron(kernel_regularizer=keras.regularizers.L2(L2)).get_weights()
    ridges, updates = [2 * L2 * 12 / 16, 0.0], 0  # the kernel of the first layer has 12 entries, its bias 4
    states = [{"A": 0.0, "B": 0.0} for _ in ridges]
    for t in range(steps):
        rates = None
        if t in DUE[update_every]:
            updates += 1
            rates = (1 - decay) / (1 - decay**updates)
        layers_of = by_hand(weights, fisher)
        for i, ((g, a, v), ridge, state) in enumerate(zip(layers_of, ridges, states)):
            if rates:
                state["A"] = state["A"] + rates * (a.T @ a / N - state["A"])
                state["B"] = state["B"] + rates * (np.einsum("rno,rnp->op", v, v) - state["B"])
            delta = -rate * step(state, g, a, v, damping + ridge, rates, t in DUE[solve_every])
            weights[2 * i], weights[2 * i + 1] = weights[2 * i] + delta[:-1], weights[2 * i + 1] + delta[-1]
    return flat(weights)


def kfac_step(state, g, a, v, damping, rates, wanted):
    if wanted:
        left, right = state["A"], state["B"]
        pi = np.sqrt((np.trace(left) / len(left)) / (np.trace(right) / len(right)))
        state["left"] = np.linalg.inv(left + pi * np.sqrt(damping) * np.eye(len(left)))
        state["right"] = np.linalg.inv(right + np.sqrt(damping) / pi * np.eye(len(right)))
    return state["left"] @ g @ state["right"]


def ekfac_step(state, g, a, v, damping, rates, wanted):
    if rates and wanted:
        (s, state["left"]), (z, state["right"]) = np.linalg.eigh(state["A"]), np.linalg.eigh(state["B"])
        state["s"] = np.outer(s, z)
    if rates:
        squares = np.einsum("ni,rno->io", (a @ state["left"]) ** 2, (v @ state["right"]) ** 2)
        state["s"] = state["s"] + rates * (squares - state["s"])
    rotated = (state["left"].T @ g @ state["right"]) / (state["s"] + damping)
    return state["left"] @ rotated @ state["right"].T


@pytest.mark.parametrize("fisher", ["exact", "empirical"])
@pytest.mark.parametrize("update_every, solve_every", [(1, 1), (2, 100), (1, 100)])
@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
def test_steps_are_those_of_numpy(kind, update_every, solve_every, fisher):
    make, step = {"kfac": (KFAC, kfac_step), "ekfac": (EKFAC, ekfac_step)}[kind]
    optimizer = natural(0.5, fisher, make(0.7, update_every, solve_every), damping=0.05)
    model = perceptron(optimizer, kernel_regularizer=keras.regularizers.L2(L2))
    for _ in range(6):
        model.train_on_batch(X, LABELS)
    expected = numpy_run(step, fisher, update_every, solve_every)
    assert distance(flat(model.get_weights()), expected) < 1e-9
