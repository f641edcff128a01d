"""Every number of a `Measurement` against dense float64 matrices from autodiff of the compiled loss."""

import dataclasses

import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import oracle

import kfisher
from kfisher.diagnosis.limits import MEMORY, TooManyRows
from kfisher.diagnosis.measurement import Measurement
from kfisher.diagnosis.meter import Meter, examples

pytestmark = pytest.mark.usefixtures("float64_module")

L = keras.losses
SEED = 7
SIZES = (1, 2, 5, 10, 20, 50)


@dataclasses.dataclass
class Dense:
    """The matrices of one model on some examples.

    Attributes:
        exact, empirical: F and EF, `(P, P)`.
        draws: One matrix for each draw of labels.
        gradient: Of the likelihood part of the loss, `(P,)`.
        layers: Name, and which parameters.
    """

    exact: np.ndarray
    empirical: np.ndarray
    draws: list
    gradient: np.ndarray
    layers: list


def dense(model, x, y, sample_weight, weights, draws, exact=None):
    """By autodiff of `compute_loss` with respect to the outputs, and of the outputs.

    `weights` are those of the positions of each output in the loss, `(N,)` or `(N, T)`, by hand; labels are
    drawn as `FisherOperator` draws them.
    """
    j = jacobian(model, x)
    structure = model(x)
    with tf.GradientTape() as tape:
        tape.watch(structure)
        loss = model.compute_loss(x, y, structure, sample_weight)
    slopes = keras.tree.flatten(tape.gradient(loss, structure))
    slopes = [s.numpy() for s in slopes]
    flat = np.concatenate([s.ravel() for s in slopes])
    count = len(slopes[0])
    # Of example n: sum over outputs and positions of sqrt(w) J^T score, where the slope is -w score.
    scores = [s / np.sqrt(np.where(w > 0, w, 1))[..., None] for s, w in zip(slopes, weights)]
    vectors = np.concatenate([s.ravel() for s in scores])
    owners = np.concatenate([np.repeat(np.arange(count), s[0].size) for s in slopes])
    rows = np.stack([vectors[owners == n] @ j[owners == n] for n in range(count)])
    if exact is None:
        exact = output_hessian(model, x, y, structure, sample_weight)
    operator = kfisher.FisherOperator(
        model, x, y, sample_weight=sample_weight, fisher=kfisher.Sampled(draws), seed=SEED
    )
    drawn = np.split(operator.root.rows().numpy() * np.sqrt(draws), draws)
    layers, start = {}, 0
    for v in model.trainable_variables:
        size = int(np.prod(v.shape))
        layers.setdefault(v.path.split("/")[-2], []).extend(range(start, start + size))
        start += size
    return Dense(j.T @ exact @ j, rows.T @ rows, [u.T @ u for u in drawn], flat @ j, list(layers.items()))


def jacobian(model, x):
    """All outputs, flattened in their order, by all parameters."""
    with tf.GradientTape() as tape:
        flat = tf.concat([tf.reshape(f, [-1]) for f in keras.tree.flatten(model(x))], 0)
    parts = tape.jacobian(flat, oracle.values(model))
    return np.concatenate([p.numpy().reshape(len(flat), -1) for p in parts], 1)


def output_hessian(model, x, y, structure, sample_weight):
    if int(tf.size(keras.tree.flatten(structure)[0])) < 200:
        return oracle.output_hessian(model, x, y, sample_weight)
    # The same, of one tensor of outputs of many examples, which do not mix in the loss: C passes.
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(structure)
        with tf.GradientTape() as inner:
            inner.watch(structure)
            loss = model.compute_loss(x, y, structure, sample_weight)
        totals = tf.unstack(tf.reduce_sum(inner.gradient(loss, structure), 0))
    blocks = np.stack([outer.gradient(t, structure).numpy() for t in totals], 1)
    return scipy.linalg.block_diag(*blocks)


def leading(matrix, k):
    return np.linalg.eigh(matrix)[1][:, -k:]


def rank(matrix):
    values = np.linalg.eigvalsh(matrix)
    return int(np.sum(values > 1e-13 * values[-1]))


def mean_and_error(values):
    values = np.array(values)
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))


def check(found: Measurement, d: Dense, damping: float, rtol=1e-8):
    """All of `found`; eigenvalues are compared by what rounding does to them, 1e-13 of the largest."""
    identity = np.eye(len(d.exact))
    kinds = {"exact": [d.exact], "sampled": d.draws, "empirical": [d.empirical]}
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol)

    assert found.parameters == len(d.exact) and found.damping == damping and found.complete
    close(found.gradient_norm, np.linalg.norm(d.gradient))

    # Spectra.
    for kind, matrices in kinds.items():
        spectrum = found.spectra[kind]
        each = [np.linalg.eigvalsh(m)[::-1] for m in matrices]
        count = min(rank(m) for m in matrices)
        values, deviation = np.mean(each, 0), np.std(each, 0, ddof=min(1, len(each) - 1))
        assert spectrum.complete and len(spectrum.eigenvalues) == count
        np.testing.assert_allclose(spectrum.eigenvalues, values[:count], rtol=0, atol=1e-13 * values[0])
        close(spectrum.trace, np.mean([np.trace(m) for m in matrices]))
        dimensions = [np.trace(np.linalg.solve(m + damping * identity, m)) for m in matrices]
        close(spectrum.effective_dimension, np.mean(dimensions))
        # A smallest eigenvalue has 1e-13 of the largest as its error.
        np.testing.assert_allclose(
            spectrum.condition, values[0] / values[count - 1], rtol=1e-12 * values[0] / values[count - 1]
        )
        if len(matrices) == 1:
            assert spectrum.error == {}
        else:
            n = np.sqrt(len(matrices))
            close(spectrum.error["trace"], np.std([np.trace(m) for m in matrices], ddof=1) / n)
            close(spectrum.error["effective_dimension"], np.std(dimensions, ddof=1) / n)
            np.testing.assert_allclose(
                spectrum.error["eigenvalues"], deviation[:count] / n, rtol=0, atol=1e-12 * values[0]
            )

    # Overlaps of leading eigenspaces.
    most = min(rank(m) for m in (d.exact, d.empirical, *d.draws))
    assert found.overlap_sizes == [k for k in SIZES if k <= most]
    for kind in ("sampled", "empirical"):
        expected = [
            np.mean([np.sum((leading(d.exact, k).T @ leading(m, k)) ** 2) / k for m in kinds[kind]])
            for k in found.overlap_sizes
        ]
        np.testing.assert_allclose(found.overlap[kind], expected, rtol=1e-5)  # gaps are 1e-8 and wider

    # Eigenvalues of (F + lambda)^-1 (EF + lambda) in the span of the rows; outside of it they are 1.
    span = leading(d.exact + d.empirical + sum(d.draws), rank(d.exact + d.empirical + sum(d.draws)))
    a, b = (span.T @ (m + damping * identity) @ span for m in (d.empirical, d.exact))
    expected = scipy.linalg.eigh(a, b, eigvals_only=True)[::-1]
    np.testing.assert_allclose(found.ratio_eigenvalues, expected, rtol=rtol)
    ends = [found.scalars()[f"fisher/ratio_eigenvalue/{end}"] for end in ("largest", "smallest")]
    assert ends == [max(found.ratio_eigenvalues), min(found.ratio_eigenvalues)]
    assert found.dimension == span.shape[1]
    close(found.trace_ratio, np.trace(np.linalg.solve(d.exact + damping * identity, d.empirical)))

    check_steps(found, d, damping, rtol)
    check_layers(found, d)


def check_steps(found, d, damping, rtol):
    steps = of_steps(d, damping)
    for name in ("cosine", "step_norm", "gamma"):
        numbers = getattr(found, name)
        assert set(numbers) == set(steps[name])
        for kind, values in steps[name].items():
            np.testing.assert_allclose(numbers[kind], np.mean(values), rtol=rtol, err_msg=f"{name}/{kind}")
        error = np.std(steps[name]["sampled"], ddof=1) / np.sqrt(len(d.draws))
        np.testing.assert_allclose(found.error[name], error, rtol=100 * rtol)  # a difference


def of_steps(d, damping):
    """Cosines with the natural-gradient step, lengths, and gamma, of (M + lambda)^-1 grad L."""
    identity = np.eye(len(d.exact))
    gamma = lambda s: np.sqrt(s @ d.exact @ s) / abs(s @ d.gradient)
    found = {"cosine": {}, "step_norm": {}, "gamma": {}}
    natural = np.linalg.solve(d.exact + damping * identity, d.gradient)
    for kind, matrices in {"exact": [d.exact], "sampled": d.draws, "empirical": [d.empirical]}.items():
        steps = [np.linalg.solve(m + damping * identity, d.gradient) for m in matrices]
        norms = [np.linalg.norm(s) for s in steps]
        found["step_norm"][kind] = norms
        found["gamma"][kind] = [gamma(s) / gamma(d.gradient) for s in steps]
        if kind != "exact":
            cosines = [s @ natural / np.linalg.norm(natural) / n for s, n in zip(steps, norms)]
            found["cosine"][kind] = cosines
    return found


def check_layers(found, d):
    owned = dict(d.layers)
    assert {e["name"]: e["parameters"] for e in found.layers} == {n: len(own) for n, own in d.layers}
    for entry in found.layers:
        own = owned[entry["name"]]
        traces = {
            "exact": np.diag(d.exact)[own].sum(),
            "sampled": np.mean([np.diag(m)[own].sum() for m in d.draws]),
            "empirical": np.diag(d.empirical)[own].sum(),
        }
        for kind, expected in traces.items():
            np.testing.assert_allclose(entry[kind], expected, rtol=1e-10)


# --- models whose matrices are complete ----------------------------------------------------------


def hidden(units=4, **options):
    return keras.layers.Dense(units, "tanh", bias_initializer="normal", **options)


def affine(units=3, **options):
    return keras.layers.Dense(units, bias_initializer="normal", **options)


def sequential(*layers, shape=(3,), loss=None):
    model = keras.Sequential([keras.Input(shape), *layers])
    model.compile("sgd", loss)
    return model


def softmax(examples):
    rng = np.random.default_rng(examples)
    model = sequential(hidden(), affine(), loss=L.SparseCategoricalCrossentropy(from_logits=True))
    x, y = rng.normal(size=(examples, 3)), rng.integers(0, 3, examples)
    return model, x, y, None, [np.full(examples, 1 / examples)], None


def weighted_mse(examples):
    """One example has no weight. Keras' mean over the C outputs stands for a Normal of variance C / 2."""
    rng = np.random.default_rng(0)
    model = sequential(hidden(), affine(2), loss="mse")
    x, y, w = rng.normal(size=(examples, 3)), rng.normal(size=(examples, 2)), rng.uniform(0, 2, examples)
    w[1] = 0
    return model, x, y, w, [w / examples], None


def positions(examples):
    """Softmax at three positions of each example, with weights of their own, some zero."""
    rng = np.random.default_rng(0)
    loss = L.SparseCategoricalCrossentropy(from_logits=True)
    model = sequential(hidden(), affine(), shape=(3, 3), loss=loss)
    x, y = rng.normal(size=(examples, 3, 3)), rng.integers(0, 3, (examples, 3))
    w = rng.uniform(0.5, 2, (examples, 3))
    w[0, 1], w[2] = 0, 0
    return model, x, y, w, [w / examples / 3], None


def masked(examples):
    """Keras averages over what the mask leaves."""
    rng = np.random.default_rng(0)
    model = sequential(keras.layers.Masking(), hidden(), affine(1), shape=(3, 2), loss="mse")
    x, y = rng.normal(size=(examples, 3, 2)), rng.normal(size=(examples, 3, 1))
    x[::2, 2] = x[1, :2] = 0
    mask = np.any(x != 0, -1)
    ones = tf.ones(y.shape, "float64")
    ones._keras_mask = tf.constant(mask)
    sum_of_weights = float(
        keras.losses.MeanSquaredError()(tf.zeros_like(ones), ones)
    )  # Keras 3.10: 1e-8 less than 1
    return model, x, y, None, [sum_of_weights * mask / mask.sum()], None


def two_outputs(examples):
    rng = np.random.default_rng(0)
    inputs = keras.Input((3,))
    h = hidden()(inputs)
    model = keras.Model(inputs, [affine(2)(h), affine(3)(h)])
    model.compile("sgd", ["mse", L.SparseCategoricalCrossentropy(from_logits=True)], loss_weights=[0.5, 2.0])
    x = rng.normal(size=(examples, 3))
    y = [rng.normal(size=(examples, 2)), rng.integers(0, 3, examples)]
    return model, x, y, None, [np.full(examples, 0.5 / examples), np.full(examples, 2 / examples)], None


def normal(f):
    return tfp.distributions.Normal(f[..., :1], tf.nn.softplus(f[..., 1:]) + 0.1)


def unknown_variance(shape):
    """F of a Normal is diag(1, 2) / sigma^2 in mean and sigma; the loss's Hessian is something else."""

    def make(examples):
        rng = np.random.default_rng(0)
        loss = kfisher.losses.NegativeLogLikelihood(normal)
        model = sequential(hidden(), affine(2), shape=(*shape, 3), loss=loss)
        x, y = rng.normal(size=(examples, *shape, 3)), rng.normal(size=(examples, *shape, 1))
        raw = model(x).numpy()[..., 1]
        sigma, slope = np.log1p(np.exp(raw)) + 0.1, 1 / (1 + np.exp(-raw))
        fisher = np.stack([1 / sigma**2, 2 * slope**2 / sigma**2], -1) / raw.size
        return model, x, y, None, [np.full(raw.shape, 1 / raw.size)], np.diag(fisher.ravel())

    return make


def regularised(examples):
    """Penalties are in neither matrix; BatchNormalization and Dropout do what they do at inference."""
    rng = np.random.default_rng(0)
    layers = [hidden(kernel_regularizer="l2"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    model = sequential(*layers, affine(1), loss=L.BinaryCrossentropy(from_logits=True))
    model.layers[1].set_weights([rng.uniform(0.5, 2, 4) for _ in range(4)])
    x, y = rng.normal(size=(examples, 3)), rng.integers(0, 2, (examples, 1)).astype(float)
    return model, x, y, None, [np.full(examples, 1 / examples)], None


CASES = {
    "softmax, P < rows": (softmax, 30),
    "softmax, Gram": (softmax, 6),
    "weighted mse, P < rows": (weighted_mse, 40),
    "weighted mse, Gram": (weighted_mse, 8),
    "positions, Gram": (positions, 3),
    "positions, P < rows": (positions, 6),
    "masked": (masked, 5),
    "two outputs": (two_outputs, 5),
    "unknown variance": (unknown_variance(()), 6),
    "unknown variance at positions": (unknown_variance((2,)), 4),
    "unknown variance at positions, P < rows": (unknown_variance((2,)), 16),
    "regularised, normalised, dropped out": (regularised, 12),
}


@pytest.mark.parametrize("name", CASES)
def test_every_number_is_that_of_the_dense_matrices(name):
    keras.utils.set_random_seed(3)
    make, count = CASES[name]
    model, x, y, w, weights, exact = make(count)
    before = [v.numpy() for v in model.variables]
    draws, damping = 3, 0.01
    found, frame = Meter(model, draws, SEED)(*examples((x, y, w), None), damping=damping)
    assert found.examples == count
    check(found, dense(model, x, y, w, weights, draws, exact), damping)
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, model.variables))


# --- more rows than are decomposed in full -------------------------------------------------------


def wide(outputs, count):
    """More than 1024 exact rows, and more parameters than rows."""
    rng = np.random.default_rng(5)
    keras.utils.set_random_seed(5)
    if outputs == 1:
        loss, y = L.BinaryCrossentropy(from_logits=True), rng.integers(0, 2, (count, 1)).astype(float)
    else:
        loss, y = L.SparseCategoricalCrossentropy(from_logits=True), rng.integers(0, outputs, count)
    units = 1300 // (9 + outputs)
    model = sequential(hidden(units), affine(outputs), shape=(8,), loss=loss)
    x = rng.normal(size=(count, 8)) * np.geomspace(1, 0.2, 8)
    return model, x, y, None, [np.full(count, 1 / count)], None


@pytest.fixture(scope="module", params=[(1, 1100), (4, 360)], ids=["all kinds", "exact only"])
def truncated(request, float64_module):
    """With all kinds of rows beyond the limit, and with those of F alone."""
    model, x, y, w, weights, exact = wide(*request.param)
    d = dense(model, x, y, w, weights, 2)
    values = {"exact": np.linalg.eigvalsh(d.exact)[::-1], "empirical": np.linalg.eigvalsh(d.empirical)[::-1]}
    damping = 0.01 * values["exact"][0]
    meter = Meter(model, 2, SEED, max_memory=2 * MEMORY)  # in float64
    found, frame = meter(*examples((x, y, w), None), damping=damping)
    return found, frame, d, values, damping, request.param[0] == 1


def test_leading_eigenvalues_beyond_the_limit_are_those_of_the_dense_matrices(truncated):
    found, _, d, values, _, all_kinds = truncated
    assert not found.complete and not found.spectra["exact"].complete
    assert found.spectra["empirical"].complete == (not all_kinds)
    assert len(found.spectra["exact"].eigenvalues) == 16
    for kind, expected in values.items():
        leading = found.spectra[kind].eigenvalues[:16]
        # Residuals below 1e-4 of the eigenvalue are errors below 1e-8 over the relative gap.
        np.testing.assert_allclose(leading, expected[:16], rtol=1e-5)
        assert found.spectra[kind].trace == pytest.approx(np.trace(getattr(d, kind)))
    spectrum = found.spectra["exact"]
    assert np.isnan(spectrum.condition) and np.isnan(found.trace_ratio)  # of a part they would mislead


def test_effective_dimensions_beyond_the_limit_are_estimates_with_an_error(truncated):
    found, frame, d, values, damping, all_kinds = truncated
    for kind in ("exact", "empirical") if all_kinds else ("exact",):
        spectrum, own = found.spectra[kind], values[kind]
        function = np.maximum(own, 0) / (np.maximum(own, 0) + damping)
        # Two Gaussian start vectors in n dimensions: the variance is var(f) over all n eigenvalues, times
        # 2 / (n + 2) / 2.
        n = found.examples * (1 if all_kinds else 3)  # softmax: C - 1 rows for each
        f = np.sort(function)[::-1][:n]
        deviation = n * np.sqrt(f.var() / (n + 2))
        assert abs(spectrum.effective_dimension - function.sum()) < 4 * deviation
        assert 0 < spectrum.error["effective_dimension"] < 4 * deviation


def test_steps_beyond_the_limit_are_those_of_the_dense_matrices(truncated):
    found, frame, d, _, damping, _ = truncated
    assert found.gradient_norm == pytest.approx(np.linalg.norm(d.gradient))
    # Conjugate gradients stop at a residual of 1e-5, in the norm of F + lambda an error of the step of at
    # most 1e-5 lambda_1 / lambda = 1e-3; Galerkin's solution, in a space with that step, is no worse.
    check_steps(found, d, damping, rtol=1e-3)
    check_layers(found, d)


def test_overlaps_beyond_the_limit_are_those_of_the_dense_matrices(truncated):
    found, _, d, *_ = truncated
    assert found.overlap_sizes == [1, 2, 5, 10]  # of 16 that are known
    one, two = leading(d.exact, 10), leading(d.empirical, 10)
    expected = [np.sum((one[:, -k:].T @ two[:, -k:]) ** 2) / k for k in found.overlap_sizes]
    # Eigenvectors are known to the residual of 1e-4 over the relative gap.
    np.testing.assert_allclose(found.overlap["empirical"], expected, atol=2e-3)


def test_ratio_eigenvalues_beyond_the_limit_lie_between_the_true_ones(truncated):
    """Ritz values: the extreme ones of a subspace are inside those of the whole space."""
    found, frame, d, _, damping, _ = truncated
    identity = np.eye(len(d.exact))
    true = scipy.linalg.eigh(
        d.empirical + damping * identity, d.exact + damping * identity, eigvals_only=True
    )
    values = np.array(found.ratio_eigenvalues)
    assert len(values) == found.dimension < len(true)
    # Cauchy's interlacing, for each: the i-th largest of d among those of P.
    assert np.all(values <= true[::-1][: len(values)] * (1 + 1e-9))
    assert np.all(values[::-1] >= true[: len(values)] * (1 - 1e-9))


def test_the_frame_holds_the_rows_it_says(truncated):
    """F is diagonal in it and no larger than it is, and it holds the whole gradient."""
    _, frame, d, *_ = truncated
    matrix = frame.matrix(("exact", None))
    np.testing.assert_allclose(matrix, np.diag(frame.values), atol=1e-9 * frame.values[0])
    assert np.trace(matrix) < np.trace(d.exact)
    assert np.linalg.norm(frame.gradient) == pytest.approx(np.linalg.norm(d.gradient), rel=1e-9)


# --- drawn labels, defaults, refusals --------------------------------------------------------------


def test_the_mean_over_draws_is_the_fisher():
    keras.utils.set_random_seed(3)
    model, x, y, *_ = softmax(20)
    draws = 400
    found, frame = Meter(model, draws, SEED, max_memory=2**32)(*examples((x, y, None), None))
    exact, sampled = found.spectra["exact"], found.spectra["sampled"]
    assert abs(sampled.trace - exact.trace) < 4 * sampled.error["trace"]
    mean = np.mean([frame.matrix(("sampled", i)) for i in range(draws)], 0)
    deviation = np.std([frame.matrix(("sampled", i)) for i in range(draws)], 0, ddof=1) / np.sqrt(draws)
    # Of some 900 entries, none is five standard errors away.
    assert np.all(np.abs(mean - np.diag(frame.values)) < 5 * deviation + 1e-12 * frame.values[0])


def test_a_step_has_labels_of_its_own():
    keras.utils.set_random_seed(3)
    model, x, y, *_ = softmax(20)
    meter, data = Meter(model, 2, SEED), examples((x, y, None), None)
    one, same, other = (meter(*data, step=step)[0] for step in (0, 0, 1))
    assert one.cosine == same.cosine and one.cosine["sampled"] != other.cosine["sampled"]
    assert one.cosine["empirical"] == pytest.approx(other.cosine["empirical"], rel=1e-12)


def test_the_default_damping_is_where_the_digits_end():
    keras.utils.set_random_seed(3)
    model, x, y, *_ = softmax(20)
    found, _ = Meter(model, 2, SEED)(*examples((x, y, None), None))
    largest = np.linalg.eigvalsh(oracle.gauss_newton(model, x, y))[-1]
    assert found.damping == pytest.approx(2.0**-26 * largest)  # the square root of float64's 2^-52


def test_too_many_rows_say_how_many_examples_fit_in():
    model = sequential(keras.layers.Dense(40), shape=(120,), loss="mse")
    x, y = np.zeros((110, 120)), np.zeros((110, 40))  # 4400 rows, 4840 parameters
    with pytest.raises(TooManyRows, match="102 at most: .* Received: 110 examples") as error:
        Meter(model, 1, 0)(*examples((x, y), None))
    assert error.value.examples == 102 == 4096 // 40


# --- memory ----------------------------------------------------------------------------------------


def sequence(length=120, filters=6):
    """As many rows for each example as positions, each of which reaches all of `filters` outputs."""
    keras.utils.set_random_seed(0)
    conv = keras.layers.Conv1D(filters, 3, padding="same", activation="tanh")
    model = sequential(conv, keras.layers.Dense(1), shape=(length, 1), loss="mse")
    rng = np.random.default_rng(0)
    return model, examples((rng.normal(size=(16, length, 1)), rng.normal(size=(16, length, 1)), None), None)


def largest(meter, data):
    """Bytes of the largest tensor of a pass."""
    graph = meter._pass.get_concrete_function(*data, tf.constant([0, 0])).graph
    made = [t for op in graph.get_operations() for t in op.outputs if t.shape.num_elements() and t.dtype.size]
    return max(t.shape.num_elements() * t.dtype.size for t in made)


def test_what_is_formed_stays_under_the_stated_budget():
    (model, data), budget = sequence(), 2**23
    assert largest(Meter(model, 2, 0, max_memory=2**32), data) > budget
    meter = Meter(model, 2, 0, max_memory=budget)
    assert largest(meter, data) < budget
    found, _ = meter(*data)
    assert found.examples == 16 and 8 <= found.drawn < 60
    assert Measurement.from_json(found.to_json()).drawn == found.drawn


def test_drawn_labels_stand_for_the_expectation_where_not_all_rows_fit_in():
    model, data = sequence()
    exact, frame = Meter(model, 2, 0, max_memory=2**32)(*data)
    meter = Meter(model, 2, 0, max_memory=2**23)
    traces = [meter(*data, step=step)[0].spectra["exact"].trace for step in range(12)]
    error = np.std(traces, ddof=1) / np.sqrt(len(traces))
    assert exact.drawn == 0 and error < 0.05 * exact.spectra["exact"].trace
    assert abs(np.mean(traces) - exact.spectra["exact"].trace) < 4 * error
    found, _ = meter(*data)
    assert found.gradient_norm == pytest.approx(exact.gradient_norm)
    assert found.spectra["empirical"].trace == pytest.approx(exact.spectra["empirical"].trace)


@pytest.mark.parametrize("positions", [1, 120])
def test_where_not_even_one_example_fits_in_that_is_said(positions):
    model, data = sequence(positions)
    with pytest.raises(TooManyRows, match="Pass fewer examples, 0 at most") as error:
        Meter(model, 1, 0, max_memory=1000)(*data)
    assert error.value.examples == 0


def test_ratios_by_curvature_are_those_of_the_dense_matrices():
    keras.utils.set_random_seed(3)
    model, x, y, *_ = softmax(20)
    found, frame = Meter(model, 2, SEED)(*examples((x, y, None), None), damping=1e-2)
    exact, empirical = np.diag(frame.values), frame.matrix(("empirical", None))
    size = int(np.sum(frame.values > 1e-2))
    f, ef = (m[:size, :size] for m in (exact, empirical))
    ratios, vectors = scipy.linalg.eigh(ef + 1e-2 * np.eye(size), f + 1e-2 * np.eye(size))
    curvature = np.sum(vectors * (f @ vectors), 0) / np.sum(vectors**2, 0)
    order = np.argsort(-curvature)
    assert 3 < size < len(frame.values)
    np.testing.assert_allclose(found.curved["empirical"]["curvature"], curvature[order])
    np.testing.assert_allclose(found.curved["empirical"]["ratio"], ratios[order])
    assert len(found.curved["sampled"]["ratio"]) == size


def test_rows_of_drawn_labels_are_combined_and_not_pulled_back():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(30, "tanh"), keras.layers.Dense(3)])
    model.compile("sgd", L.SparseCategoricalCrossentropy(from_logits=True))
    data = examples((np.random.normal(size=(8, 40)), np.arange(8) % 3), None)
    root, layout = Meter(model, draws=50, seed=SEED)._root(*data, step=0)
    assert root.gram.shape == (24, 24) and root.draws.shape == (50, 2, 8)  # R = 2, and EF
    assert layout.counts == {"exact": 2, "empirical": 1, "sampled": 50}


@pytest.mark.parametrize("count", [6, 30])
def test_a_loss_of_another_dtype_than_the_weights(count):
    """By the Gram matrix and by rows."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, "tanh", dtype="float32"), keras.layers.Dense(3, dtype="float32")]
    model = keras.Sequential([keras.Input((5,), dtype="float32"), *layers])
    data = examples((np.random.normal(size=(count, 5)).astype("float32"), np.arange(count) % 3), None)
    found = []
    for dtype in ("float32", "float64"):
        model.compile("sgd", L.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype))
        found.append(Meter(model, 2, SEED)(*data, damping=0.01)[0])
    for name in ("exact", "empirical"):
        assert found[0].spectra[name].trace == pytest.approx(found[1].spectra[name].trace, rel=1e-4)
    assert np.isfinite(found[1].spectra["sampled"].trace)
