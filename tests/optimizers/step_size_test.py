"""How far a step goes: damping policies, trust region, quadratic model; and CG, SPRING, iEF, Sophia-G."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import eager, flat
from helpers.oracle import distance
from keras import layers, ops

import kfisher
from kfisher._common.vectors import unflatten
from kfisher.curvature import Dense, Diagonal, Gram, MatrixFree
from kfisher.curvature.dense import matrix_of
from kfisher.damping import LevenbergMarquardt
from kfisher.jacobian.batch import Batch
from kfisher.optimizers import ImprovedEmpiricalFisher, NaturalGradient, SophiaG

pytestmark = pytest.mark.usefixtures("float64")
RNG = np.random.default_rng(0)
FISHERS = ["exact", "sampled", "empirical"]
N = 8
X, LABELS, TARGETS = RNG.normal(size=(N, 3)), RNG.integers(0, 3, size=N), RNG.normal(size=(N, 2))
WEIGHTS = RNG.uniform(0.2, 2.0, size=N)
L2 = 1 / 32  # like the learning rates: Keras rounds such numbers to float32
# The textbook updates, of which no step is bounded, judged or taken back.
natural = functools.partial(NaturalGradient, trust_region=None)
improved = functools.partial(ImprovedEmpiricalFisher, trust_region=None)


def network(optimizer, stack=None, loss=None, regularizer=None):
    stack = stack or [layers.Dense(4, "tanh", kernel_regularizer=regularizer), layers.Dense(3)]
    return eager(stack, loss, optimizer=optimizer)


def linear(optimizer):
    return network(optimizer, [layers.Dense(2)], "mse")


def gradient(model, x=X, y=LABELS, w=None):
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True), w)
    return flat(tape.gradient(loss, model.trainable_variables))


def loss_of(model, x=X, y=LABELS, w=None):
    return float(model.compute_loss(x, y, model(x), w))


def dense(model, y=LABELS, fisher="exact", w=None):
    return kfisher.FisherOperator(model, X, y, fisher=fisher, sample_weight=w, seed=1).to_dense().numpy()


def step(model, y=LABELS, w=None, x=X):
    """The change of the weights by one step."""
    before = flat(model.get_weights())
    model.train_on_batch(x, y, w)
    return flat(model.get_weights()) - before


# --- trust region and quadratic model -----------------------------------------------------------------


@pytest.mark.parametrize("fisher, curvature", [*((f, "dense") for f in FISHERS), ("sampled", "gram")])
@pytest.mark.parametrize("c", [1e-3, 1e-1])
def test_a_step_as_long_as_the_trust_region_has_its_divergence(c, fisher, curvature):
    """By the exact F of the batch, whatever made the step: one label for each example does not see all."""
    model = network(NaturalGradient(64.0, fisher, curvature, damping=0.02, trust_region=c, seed=1))
    matrix = dense(model) + 0.02 * np.eye(31)
    delta = step(model)
    assert delta @ matrix @ delta / 2 == pytest.approx(c, rel=1e-6)


@pytest.mark.parametrize("rate", [1 / 4, 64.0])
@pytest.mark.parametrize("damping", [1e-8, 0.1])
def test_the_trust_region_shortens_the_whole_update_momentum_included(damping, rate):
    """delta_t = -k eta (F + lambda I)^{-1} m_t / (1 - mu^t), k <= 1 the largest that stays within.

    m_t = mu m_{t-1} + (1 - mu) g. F of a linear model is constant. With a large rate every update is as long
    as is allowed.
    """
    c, mu = 0.1, 0.9
    options = {"damping": damping, "momentum": mu, "trust_region": c}
    model = linear(NaturalGradient(rate, "exact", "dense", **options))
    matrix = dense(model, TARGETS) + damping * np.eye(8)
    m, used = np.zeros(8), []
    for t in range(12):
        m = mu * m + (1 - mu) * gradient(model, y=TARGETS)
        delta = -rate * np.linalg.solve(matrix, m / (1 - mu ** (t + 1)))
        factor = min(1, np.sqrt(2 * c / (delta @ matrix @ delta)))
        delta *= factor
        assert distance(step(model, TARGETS), delta) < 1e-8
        assert float(model.optimizer.rate_in_use) == pytest.approx(rate * factor)
        assert float(model.optimizer.momentum_in_use) == mu
        used.append(delta @ matrix @ delta / 2 / c)
    assert max(used) == pytest.approx(1)
    assert (min(used) > 0.99) == (rate == 64)
    assert int(model.optimizer.rejected_steps) == 0


@pytest.mark.parametrize("curvature", ["dense", "diagonal"])
@pytest.mark.parametrize("c", [None, 0.01])
def test_quadratic_model_is_that_of_numpy(curvature, c):
    curvature = {"dense": Dense(), "diagonal": Diagonal(decay=0)}[curvature]
    options = {"step": "quadratic_model", "damping": 0.05, "trust_region": c}
    model = network(NaturalGradient(0.0, "exact", curvature, **options))
    last = np.zeros(31)
    for t in range(3):
        f, g = dense(model), gradient(model)
        d = f if isinstance(curvature, Dense) else np.diag(np.diag(f))
        v = np.stack([np.linalg.solve(d + 0.05 * np.eye(31), g), last], 1)[:, : 2 if t else 1]
        w = np.linalg.solve(v.T @ f @ v + 0.05 * v.T @ v, -v.T @ g)
        expected = v @ w
        factor = 1
        if c is not None:
            factor = min(1, np.sqrt(2 * c / (expected @ (f + 0.05 * np.eye(31)) @ expected)))
        expected *= factor
        last = step(model)
        assert float(model.optimizer.rate_in_use) == pytest.approx(-w[0] * factor)
        if t:
            assert float(model.optimizer.momentum_in_use) == pytest.approx(w[1])
        # The solution of the dense system is all that it needs: the other direction changes next to nothing.
        assert distance(last, expected) < 1e-8


def test_quadratic_model_reaches_the_minimum_of_least_squares_at_once():
    model = linear(natural(step="quadratic_model", fisher="exact", curvature="dense", damping=1e-10))
    step(model, TARGETS)
    best = np.linalg.lstsq(np.hstack([X, np.ones((N, 1))]), TARGETS, rcond=None)[0]
    assert np.allclose(np.vstack(model.get_weights()), best, atol=1e-7)


# --- Levenberg-Marquardt: a step is judged at the next one -------------------------------------------------


class Recorded(LevenbergMarquardt):
    def adapted(self, damping, ratio):
        self.ratio = ratio
        return super().adapted(damping, ratio)


def test_a_model_that_is_quadratic_is_trusted_more_and_more():
    policy = Recorded(1.0, omega=0.9, every=2)
    model = linear(natural(0.5, "exact", "dense", damping=policy, momentum=0.5))
    for t in range(1, 8):
        step(model, TARGETS)
        # Steps 2, 4 and 6 are judged at 3, 5 and 7.
        assert float(model.optimizer.damping) == pytest.approx(0.9 ** (2 * ((t - 1) // 2)))
    assert float(policy.ratio) == pytest.approx(1.0, abs=1e-9)


def test_a_step_far_too_long_raises_the_damping_up_to_its_maximum():
    policy = LevenbergMarquardt(0.75, omega=0.5, every=1, maximum=1.0)
    model = network(natural(64.0, "exact", "dense", damping=policy))
    step(model)
    assert float(model.optimizer.damping) == 0.75  # nobody has judged it yet
    step(model)
    assert float(model.optimizer.damping) == 1.0
    assert int(model.optimizer.rejected_steps) == 0


@pytest.mark.parametrize("number, trust_region", [(7, None), (7, 0.01), (8, None)])
@pytest.mark.parametrize("fisher", FISHERS)
def test_the_reduction_ratio_is_that_of_numpy(fisher, number, trust_region):
    """delta with momentum and decay; the exact F where labels are drawn, of the batch of the step.

    Loss and gradient are those of the batch after it, which had no part in the step.
    """
    policy = Recorded(0.05, every=3)
    options = {"momentum": 0.5, "weight_decay": 1 / 64, "seed": 1, "trust_region": trust_region}
    optimizer = NaturalGradient(0.25, fisher, "kfac", damping=policy, **options)
    model = network(optimizer, regularizer=keras.regularizers.L2(L2))
    step(model, w=WEIGHTS), step(model, w=WEIGHTS)
    matrix = dense(model, LABELS, "exact" if fisher == "sampled" else fisher, WEIGHTS)
    random = np.random.default_rng(number)
    x, y, w = random.normal(size=(N, 3)), random.integers(0, 3, size=N), WEIGHTS[::-1]
    old = loss_of(model, x, y, w)
    delta = step(model, w=WEIGHTS)
    assert not hasattr(policy, "ratio")
    new, g = loss_of(model, x, y, w), gradient(model, x, y, w)
    step(model, y, w, x)
    promised = g @ delta - delta @ matrix @ delta / 2
    if number == 7:
        assert float(policy.ratio) == pytest.approx((new - old) / promised, rel=1e-7)
    else:  # nothing promises a decrease there, which is no reason to trust the model
        assert promised > 0 and np.isnan(float(policy.ratio))
        assert float(optimizer.damping) == pytest.approx(0.05 / 0.95**3)


def test_dropout_has_the_same_masks_before_and_after():
    policy = Recorded(0.05, every=1)
    stack = [layers.Dense(8, "tanh"), layers.Dropout(0.5, seed=1), layers.Dense(3)]
    model = network(natural(2**-20, "exact", "kfac", damping=policy), stack)
    step(model)
    for _ in range(3):
        step(model)
        assert float(policy.ratio) == pytest.approx(1.0, abs=1e-4)  # a tiny step; other masks: anything


# --- conjugate gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize("regularizer", [None, "l2"])
@pytest.mark.parametrize("fisher", FISHERS)
def test_conjugate_gradients_to_tolerance_are_the_dense_solve_and_start_where_they_ended(fisher, regularizer):
    curvature = MatrixFree(max_iterations=500, tolerance=1e-12)
    model = network(NaturalGradient(1.0, fisher, curvature, seed=1), regularizer=regularizer)
    model.optimizer.build(model.trainable_variables)
    options = kfisher.fisher.get(fisher), tf.constant([1, 0])
    seen = Batch(model, tf.constant(X), tf.constant(LABELS), None, *options)
    g = gradient(model)
    expected = np.linalg.solve(dense(model, fisher=fisher) + 0.01 * np.eye(31), g)
    parts = unflatten(tf.constant(g), [v.value for v in model.trainable_variables])
    for _ in range(2):
        found = curvature.solve(seen, parts, tf.constant(0.01, tf.float64))
        assert distance(flat(found), expected) < 1e-9
        curvature.remember(found)
        curvature.max_iterations = 1  # no more are needed


class Around(layers.Layer):
    """Variables of its own around a BatchNormalization: no gradient for each example."""

    def __init__(self):
        super().__init__()
        self.normalisation = layers.BatchNormalization()

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), name="kernel")

    def call(self, x, training=None):
        h = ops.sin(self.normalisation(ops.matmul(x, self.kernel), training=training))
        return ops.matmul(h, ops.transpose(self.kernel)) + ops.mean(h, 0) * self.kernel[0]


@pytest.mark.parametrize("curvature", ["matrix_free", "gram", "dense", "kfac", "ekfac", "diagonal"])
def test_only_the_matrix_free_curvature_runs_where_examples_cannot_be_told_apart(curvature):
    if curvature != "matrix_free":
        with pytest.raises(ValueError, match="cannot be told apart"):
            step(network(natural(1.0, "exact", curvature), [Around(), layers.Dense(3)]))
        return
    solver = MatrixFree(500, 1e-12)
    model = network(natural(1.0, "exact", solver, damping=0.05), [Around(), layers.Dense(3)])
    with tf.GradientTape() as tape:
        k, gamma, beta, w, b = (v.value for v in model.trainable_variables)
        mean, variance = (tf.stop_gradient(t) for t in tf.nn.moments(X @ k, 0))  # held, as everywhere
        h = tf.sin((X @ k - mean) / tf.sqrt(variance + 1e-3) * gamma + beta)
        f = (h @ tf.transpose(k) + tf.reduce_mean(h, 0) * k[0]) @ w + b
    parts = tape.jacobian(f, [v.value for v in model.trainable_variables])
    j = np.concatenate([np.reshape(p, (N, 3, -1)) for p in parts], -1)
    p = tf.nn.softmax(f).numpy()
    h = np.einsum("ni,ij->nij", p, np.eye(3)) - np.einsum("ni,nj->nij", p, p)
    f = np.einsum("nia,nij,njb->ab", j, h, j) / N
    expected = -np.linalg.solve(f + 0.05 * np.eye(len(f)), gradient(model))
    before = flat(model.trainable_variables)
    model.train_on_batch(X, LABELS)
    assert distance(flat(model.trainable_variables) - before, expected) < 1e-8


# --- SPRING and the improved empirical Fisher -------------------------------------------------------------


def example_gradients(model, loss, y=LABELS):
    """The gradient of loss(y_n, f_n) for each example, `(N, P)`."""
    rows = []
    for n in range(N):
        with tf.GradientTape() as tape:
            value = loss(y[n : n + 1], model(X[n : n + 1]))
        rows.append(flat(tape.gradient(value, model.trainable_variables)))
    return np.stack(rows)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_spring_is_equation_26(momentum):
    """phi_t = A^T (A A^T + lambda I)^{-1} (epsilon - mu A phi_{t-1}) + mu phi_{t-1}, A^T epsilon = grad L."""
    model = network(natural(0.5, "empirical", Gram(momentum), damping=0.05))
    phi = np.zeros(31)
    for _ in range(3):
        a = example_gradients(model, model.loss) / np.sqrt(N)
        epsilon = np.full(N, 1 / np.sqrt(N))
        kernel = a @ a.T + 0.05 * np.eye(N)
        phi = a.T @ np.linalg.solve(kernel, epsilon - momentum * a @ phi) + momentum * phi
        assert distance(step(model), -0.5 * phi) < 1e-9


@pytest.mark.parametrize("regularizer", [None, L2])
@pytest.mark.parametrize("fisher", ["exact", "empirical"])
def test_spring_is_pulled_towards_the_last_solution(fisher, regularizer):
    """In closed form (F + lambda I)^{-1} (grad L + lambda mu phi), with the ridge in F."""
    regularizer = regularizer and keras.regularizers.L2(regularizer)
    model = network(natural(0.5, fisher, Gram(0.9), damping=0.05), regularizer=regularizer)
    phi = np.zeros(31)
    for _ in range(3):
        shifted = dense(model, fisher=fisher) + 0.05 * np.eye(31)
        phi = np.linalg.solve(shifted, gradient(model) + 0.05 * 0.9 * phi)
        assert distance(step(model), -0.5 * phi) < 1e-9


@pytest.mark.parametrize("curvature", ["gram", "dense"])
def test_improved_empirical_fisher_is_equation_9(curvature):
    model = network(improved(0.5, curvature, damping=0.01))
    p = tf.nn.softmax(model(X)).numpy()
    s, w = np.sum((p - np.eye(3)[LABELS]) ** 2, 1), WEIGHTS / N
    g = example_gradients(model, model.loss) * np.sqrt(w)[:, None]
    expected = g.T @ np.linalg.solve(g @ g.T + 0.01 * np.eye(N), s * np.sqrt(w))
    assert distance(step(model, w=WEIGHTS), -0.5 * expected) < 1e-9


def test_improved_empirical_fisher_is_natural_gradient_on_least_squares():
    steps = []
    options = {"curvature": "gram", "damping": 1e-10}
    for optimizer in (improved(1.0, **options), natural(1.0, "exact", **options)):
        model = network(optimizer, [layers.Dense(6, "tanh"), layers.Dense(1)], "mse")  # 31 parameters
        steps.append(step(model, TARGETS[:, :1]))
    assert distance(*steps) < 1e-5  # damping over the least eigenvalue of the kernel


# --- Sophia-G ---------------------------------------------------------------------------------------------


def test_sophia_is_that_of_numpy_and_moves_no_entry_by_more_than_the_learning_rate():
    """Both averages begin at zero and stay as they are: neither is corrected for it."""
    rate, gamma, beta, beta_2 = 1 / 64, 2.0, 0.5, 0.75
    model = network(SophiaG(rate, beta_1=beta, beta_2=beta_2, gamma=gamma, update_every=2, seed=1))
    m, h, clipped = np.zeros(31), np.zeros(31), []
    for t in range(7):
        m = beta * m + (1 - beta) * gradient(model)
        if t in (0, 1, 2, 4, 6):  # as `kfisher.curvature.Diagonal` promises
            data, seed = (tf.constant(X), tf.constant(LABELS), None), tf.constant([1, t])
            root = Batch(model, *data, kfisher.Sampled(), seed).square_root
            h = beta_2 * h + (1 - beta_2) * np.diag(matrix_of(root))
        delta = step(model)
        assert distance(flat([model.optimizer.curvature.entries(i) for i in range(4)]), h) < 1e-10
        ratio = m / np.maximum(gamma * h, 1e-12)
        assert np.allclose(delta, -rate * np.clip(ratio, -1, 1), rtol=1e-10, atol=1e-14)
        assert np.max(np.abs(delta)) <= rate * (1 + 1e-12)
        clipped.append(np.mean(np.abs(ratio) >= 1))
    assert 0 < np.mean(clipped) < 1  # of both kinds
