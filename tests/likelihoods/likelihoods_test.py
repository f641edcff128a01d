"""Likelihoods: scores, roots of the Fisher, which loss has which, and what is refused."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import oracle

import kfisher
from kfisher.likelihoods import (
    Bernoulli,
    Categorical,
    DistributionLikelihood,
    Laplace,
    Normal,
    Poisson,
    from_loss,
)
from kfisher.likelihoods.from_loss import options

L = keras.losses
tfd = tfp.distributions

CASES = {
    "normal": Normal(1.7),
    "normal, scale of the loss": Normal(),
    "laplace": Laplace(0.6),
    "laplace, scale of the loss": Laplace(),
    "bernoulli": Bernoulli(from_logits=True),
    "categorical": Categorical(from_logits=True),
    "poisson": Poisson(),
}


def coordinates(seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=(5, 4)))


def labels(name, eta):
    """Labels that each family can produce."""
    rng = np.random.default_rng(1)
    if name.startswith(("normal", "laplace")):
        y = rng.normal(size=eta.shape)
    elif name == "categorical":
        y = np.eye(eta.shape[-1])[rng.integers(0, eta.shape[-1], eta.shape[:-1])]
    else:
        y = rng.integers(0, 2, eta.shape)
    return tf.constant(y, tf.float64)


# --- the mathematics of each family ---------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_score_is_the_gradient_of_the_log_probability(name):
    likelihood, eta = CASES[name], coordinates()
    y = labels(name, eta)
    with tf.GradientTape() as tape:
        tape.watch(eta)
        log_prob = tf.reduce_sum(likelihood.distribution(eta).log_prob(y))
    assert oracle.distance(likelihood.score(eta, y), tape.gradient(log_prob, eta)) < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_fisher_root_squares_to_the_mean_outer_product_of_scores(name):
    """By enumeration of the labels, or by quadrature for continuous ones."""
    likelihood, eta = CASES[name], coordinates()
    root = likelihood.fisher_root(eta).numpy()
    expected = np.zeros((5, 4, 4))
    if name == "categorical":
        for label in np.eye(4):
            y = tf.broadcast_to(tf.constant(label), eta.shape)
            p = np.exp(likelihood.distribution(eta).log_prob(y))
            score = likelihood.score(eta, y).numpy()
            expected += p[:, None, None] * score[:, :, None] * score[:, None, :]
    else:
        # Independent elements: the diagonal is the mean square of each score, and the mean score is 0.
        grid, step = np.linspace(-60, 60, 240_001, retstep=True)
        grid, step = (np.arange(80.0), 1.0) if name == "poisson" else (grid, step)
        grid = np.arange(2.0) if name == "bernoulli" else grid
        step = 1.0 if name == "bernoulli" else step
        y = tf.constant(grid[:, None, None])
        p = np.exp(likelihood.distribution(eta).log_prob(y)) * step
        score = likelihood.score(eta, tf.broadcast_to(y, [len(grid), 5, 4])).numpy()
        # The trapezoidal sum is off by the kink of the Laplace density, about step^2 = 2.5e-7.
        assert np.allclose(np.sum(p * score, 0), 0, atol=1e-3)
        expected[:, range(4), range(4)] = np.sum(p * score**2, 0)
    tolerance = 1e-6 if name.startswith("laplace") else 1e-10
    assert oracle.distance(root @ np.swapaxes(root, 1, 2), expected) < tolerance


@pytest.mark.parametrize("name", CASES)
def test_root_times_whitened_score_is_the_score(name):
    likelihood, eta = CASES[name], coordinates()
    score = likelihood.score(eta, labels(name, eta))
    whitened = likelihood.whiten(eta, score)
    assert oracle.distance(tf.linalg.matvec(likelihood.fisher_root(eta), whitened), score) < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_samples_have_the_mean_of_the_distribution(name):
    likelihood, eta = CASES[name], coordinates()
    draws = 20_000
    y = likelihood.sample(eta, draws, tf.constant([3, 4])).numpy()
    assert y.shape == (draws, 5, 4)
    scores = likelihood.score(eta, tf.constant(y)).numpy()
    # The score has mean 0 under the model and under no other; 20 means at 4 standard errors.
    assert np.all(np.abs(scores.mean(0)) < 4 * scores.std(0) / np.sqrt(draws))


def test_scales_are_those_that_make_minus_log_p_the_keras_loss():
    y, f = coordinates(1), coordinates(2)
    for likelihood, loss in ((Normal(), L.mean_squared_error), (Laplace(), L.mean_absolute_error)):
        value = -tf.reduce_sum(likelihood.distribution(f).log_prob(y), -1)
        at_the_mean = -tf.reduce_sum(likelihood.distribution(f).log_prob(f), -1)
        assert oracle.distance(value - at_the_mean, loss(y, f)) < 1e-12
    assert float(Normal().distribution(f).scale) == pytest.approx(np.sqrt(4 / 2), rel=1e-12)


@pytest.mark.parametrize(
    "likelihood, loss",
    [
        (Bernoulli(), L.binary_crossentropy),
        (Categorical(), L.categorical_crossentropy),
        (Poisson(), L.poisson),
    ],
)
def test_differences_of_the_loss_are_those_of_the_log_likelihood(likelihood, loss):
    """-log p = copies * loss + a constant in f, from probabilities and rates, clipped as Keras does."""
    rng = np.random.default_rng(0)
    name = type(likelihood).__name__.lower()
    f = rng.uniform(0.05, 0.9, size=(2, 5, 4))
    f[:, 0, 0] = 0.0
    f[1, 1, 1] = 1.0
    f = f / f.sum(-1, keepdims=True) if name == "categorical" else f
    first, second = tf.constant(f)
    y = labels(name, first)

    def minus_log_p(f):
        log_prob = likelihood.distribution(likelihood.coordinates(f)).log_prob(y)
        return -(log_prob if name == "categorical" else tf.reduce_sum(log_prob, -1))

    found = minus_log_p(first) - minus_log_p(second)
    expected = likelihood.copies(first) * (loss(y, first) - loss(y, second))
    # Clipped probabilities sum to 1 up to Keras' epsilon, 1e-7 a class, which softmax divides out.
    assert np.allclose(found, expected, atol=1e-6 if name == "categorical" else 1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["bernoulli", "categorical"])
def test_extreme_logits_stay_finite_and_consistent(name, dtype):
    likelihood = CASES[name]
    eta = tf.constant([[60.0, -60.0, 0.0], [-60.0, 60.0, 60.0], [0.0, 35.0, -35.0]], dtype)
    for label in np.eye(3):
        y = tf.broadcast_to(tf.constant(label, dtype), eta.shape)
        score, root = likelihood.score(eta, y), likelihood.fisher_root(eta)
        white = likelihood.whiten(eta, score)
        for t in (score, root, white, tf.square(white)):
            assert np.all(np.isfinite(t))
        back = tf.linalg.matvec(root, white)
        # Up to a gap of 80 between logits; beyond, the gradient has no part in the row space that counts.
        where = slice(None) if name == "bernoulli" else slice(2, None)
        tolerance = 1e-5 if dtype == "float32" else 1e-12
        assert np.allclose(back[where], score[where], atol=tolerance)


def test_variance_of_a_rare_class_keeps_its_digits():
    # p (1 - p) at logit 40: 1 - p is rounding alone, so both factors must come from the logit.
    deviation = Bernoulli(from_logits=True).fisher_root(tf.constant([[40.0, -40.0]])).numpy()[0]
    assert np.diag(deviation) == pytest.approx([np.exp(-20)] * 2, rel=1e-5)
    for classes in np.eye(3):  # whichever class is near 1
        logits = 35 * classes
        root = CASES["categorical"].fisher_root(tf.constant(logits[None], "float32")).numpy()[0].astype(float)
        p = np.exp(logits) / np.exp(logits).sum()
        expected = -np.outer(p, p)
        np.fill_diagonal(expected, [p[i] * (p.sum() - p[i]) for i in range(3)])
        expected[np.argmax(p), np.argmax(p)] = 2 * np.exp(-35) * p.max()
        assert root @ root.T == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("likelihood", [Bernoulli(), Categorical(), Categorical(sparse=True)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_probabilities_of_zero_and_one_stay_finite(likelihood, dtype):
    outputs = tf.cast(tf.constant([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype), "float32")  # as a loss does
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        eta = likelihood.coordinates(outputs)
    gradient = tape.gradient(eta, outputs)
    root = likelihood.fisher_root(eta)
    y = tf.constant([0, 0, 1]) if likelihood.get_config().get("sparse") else tf.constant([[0.0, 1]] * 3)
    score = likelihood.score(eta, likelihood.labels(y, eta))
    for t in (eta, gradient, root, score, likelihood.whiten(eta, score)):
        assert np.all(np.isfinite(t))


def test_half_precision_outputs_give_the_fisher_of_the_float32_loss():
    outputs = np.random.default_rng(0).normal(size=(6, 3)).astype("float16")
    matrices = []
    for policy in ("mixed_float16", "float32"):
        inputs = keras.Input((3,), dtype=policy.removeprefix("mixed_"))
        layer = keras.layers.Dense(3, kernel_initializer="identity", dtype=policy)
        model = keras.Model(inputs, layer(inputs))
        model.compile(loss=L.CategoricalCrossentropy(from_logits=True))
        operator = kfisher.FisherOperator(model, outputs.astype(inputs.dtype))
        assert operator.dtype == tf.float32
        matrices.append(operator.to_dense().numpy())
    # Gradients of half precision have 11 bits, products of two of them twice that error.
    assert oracle.distance(*matrices) < 4e-3


def test_smoothed_labels_are_those_of_keras():
    eta = coordinates()
    y = labels("categorical", eta)
    smoothed = Categorical(label_smoothing=0.2).labels(y, eta)
    assert np.allclose(smoothed, y * 0.8 + 0.05)
    assert np.allclose(Bernoulli(label_smoothing=0.2).labels(y, eta), y * 0.8 + 0.1)


# --- which loss has which likelihood --------------------------------------------------------------

SPELLINGS = {
    Normal: ["mse", "MSE", "mean_squared_error", "MeanSquaredError"],
    Laplace: ["mae", "MAE", "mean_absolute_error", "MeanAbsoluteError"],
    Bernoulli: ["bce", "BCE", "binary_crossentropy", "BinaryCrossentropy"],
    Categorical: [
        "categorical_crossentropy",
        "CategoricalCrossentropy",
        "sparse_categorical_crossentropy",
        "SparseCategoricalCrossentropy",
    ],
    Poisson: ["poisson", "Poisson"],
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_every_spelling_of_a_supported_loss(kind):
    for name in SPELLINGS[kind]:
        spellings = [name, L.get(name)]
        if hasattr(L, name):
            spellings.append(getattr(L, name))
        if name[0].isupper() and hasattr(L, name):
            spellings += [getattr(L, name)(reduction="sum"), L.serialize(getattr(L, name)())]
        for loss in spellings:
            assert type(from_loss(loss)) is kind, loss


def test_options_of_a_loss_reach_its_likelihood():
    # `_fn_kwargs` is where they are read from: this fails if Keras moves it.
    binary = from_loss(L.BinaryCrossentropy(True, 0.1)).get_config()
    assert binary == {"from_logits": True, "label_smoothing": 0.1}
    categorical = from_loss(L.CategoricalCrossentropy(from_logits=True, axis=1)).get_config()
    assert (categorical["from_logits"], categorical["axis"], categorical["sparse"]) == (True, 1, False)
    sparse = from_loss(L.SparseCategoricalCrossentropy(ignore_class=3)).get_config()
    assert (sparse["from_logits"], sparse["ignore_class"], sparse["sparse"]) == (False, 3, True)
    assert options(L.CategoricalCrossentropy(label_smoothing=0.3))["label_smoothing"] == 0.3


def test_the_logits_that_keras_keeps_with_a_probability_are_found():
    # `_keras_logits` is where they are kept: this fails if Keras moves it.
    z = tf.constant([[50.0, -50.0]])
    assert np.allclose(Bernoulli().coordinates(keras.activations.sigmoid(z)), z)
    assert np.allclose(Categorical().coordinates(keras.activations.softmax(z)), z)
    assert np.max(Bernoulli().coordinates(tf.sigmoid(z))) < 17  # clipped at 1e-7
    in_graph = tf.function(lambda z: Bernoulli().coordinates(tf.sigmoid(z)))
    assert np.allclose(in_graph(z), z)


class OwnCall(L.MeanSquaredError):
    def call(self, y_true, y_pred):
        return super().call(y_true, y_pred) ** 2


class SameCall(L.MeanSquaredError):
    """A subclass that changes nothing about the loss."""


def mean_squared_error(y_true, y_pred):
    """Has the name of a supported loss, and is another."""
    return tf.reduce_mean(tf.square(y_true - y_pred), -1) ** 2


@pytest.mark.parametrize(
    "loss",
    [
        "huber",
        L.Huber(),
        L.Hinge,
        L.kl_divergence,
        L.BinaryFocalCrossentropy(),
        L.CategoricalFocalCrossentropy(),
        lambda y, f: tf.reduce_mean(tf.square(y - f)),
        functools.partial(L.binary_crossentropy, from_logits=True),
        OwnCall(),
        mean_squared_error,
        L.CategoricalGeneralizedCrossEntropy(),
    ],
)
def test_a_loss_without_a_likelihood_is_refused_with_a_list_of_those_that_have_one(loss):
    with pytest.raises(ValueError, match="Supported are") as caught:
        from_loss(loss)
    for part in ("mean_squared_error", "poisson", "sparse_categorical", "NegativeLogLikelihood", "Received"):
        assert part in str(caught.value)


def test_a_subclass_that_keeps_the_loss_is_accepted():
    assert type(from_loss(SameCall())) is Normal


def test_options_without_a_meaning_are_refused():
    with pytest.raises(ValueError, match="axis=1"):
        from_loss(L.BinaryCrossentropy(axis=1))
    with pytest.raises(ValueError, match="label_smoothing=0.1"):
        from_loss(L.CategoricalCrossentropy(axis=1, label_smoothing=0.1))
    for kind in (Normal, Laplace):
        with pytest.raises(ValueError, match="scale=-1"):
            kind(scale=-1)
    with pytest.raises(ValueError, match="two classes"):
        Categorical().coordinates(tf.ones((3, 1)))


@pytest.mark.parametrize(
    "likelihood",
    [
        Normal(2.0),
        Laplace(),
        Bernoulli(True, 0.1),
        Categorical(True, True, ignore_class=2),
        Poisson(),
    ],
)
def test_likelihoods_survive_serialization(likelihood):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(likelihood))
    assert type(copy) is type(likelihood)
    assert copy.get_config() == likelihood.get_config()


# --- labels that cannot be ------------------------------------------------------------------------

BAD_LABELS = {
    "class out of range": (Categorical(sparse=True), [0, 3], (2, 3), "from 0 to 2"),
    "negative class": (Categorical(sparse=True), [0, -1], (2, 3), "from 0 to 2"),
    "class that is no whole number": (Categorical(sparse=True), [0.0, 1.5], (2, 3), "whole numbers"),
    "class of NaN": (Categorical(sparse=True), [0.0, np.nan], (2, 3), "whole numbers"),
    "not one-hot": (Categorical(), [[1.0, 1, 0], [0, 0, 1]], (2, 3), "sum to 1"),
    "negative probability": (Categorical(), [[1.5, -0.5, 0], [0, 0, 1]], (2, 3), "sum to 1"),
    "binary above 1": (Bernoulli(), [[2.0], [0.0]], (2, 1), r"\[0, 1\]"),
    "binary of -1": (Bernoulli(), [[-1.0], [1.0]], (2, 1), r"\[0, 1\]"),
    "negative count": (Poisson(), [[-1.0], [1.0]], (2, 1), "not be negative"),
    "too wide": (Normal(), np.zeros((2, 3)), (2, 1), "shape of the model outputs"),
    "too narrow": (Normal(), np.zeros((2, 1)), (2, 3), "shape of the model outputs"),
    "one-hot for a sparse loss": (Categorical(sparse=True), np.eye(3)[:2], (2, 3), "without the classes"),
    "classes for a one-hot loss": (Categorical(), [0, 1], (2, 3), "shape of the model outputs"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_labels_that_cannot_be_are_refused(name):
    likelihood, y, shape, message = BAD_LABELS[name]
    y, eta = tf.constant(np.asarray(y)), tf.zeros(shape)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
        likelihood.labels(y, eta)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
        tf.function(likelihood.labels)(y, eta)
    if "shape" not in message and "without" not in message:
        # XLA drops assertions; then NaN must take their place.
        compiled = tf.function(likelihood.labels, jit_compile=True)(y, eta)
        assert np.any(np.isnan(compiled))


@pytest.mark.parametrize(
    "likelihood, y, expected",
    [
        (Categorical(sparse=True), [0, 2], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        (Categorical(), [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        (Bernoulli(), [[0.0], [1.0]], [[0.0], [1.0]]),
        (Poisson(), [[0.0], [1.0]], [[0.0], [1.0]]),
    ],
)
def test_labels_at_the_edge_of_what_can_be_are_taken(likelihood, y, expected):
    found = likelihood.labels(tf.constant(y), tf.zeros(np.shape(expected)))
    assert np.array_equal(found, expected)


def test_labels_of_nan_are_left_to_the_step_that_skips_them():
    for likelihood in (Normal(), Laplace(), Bernoulli(), Categorical(), Poisson()):
        assert np.any(np.isnan(likelihood.labels(tf.fill((2, 3), np.nan), tf.zeros((2, 3)))))


@pytest.mark.parametrize(
    "likelihood, outputs",
    [
        (Poisson(), 1),
        (DistributionLikelihood(lambda f: tfd.NegativeBinomial(3.0, logits=f)), 1),
        (DistributionLikelihood(lambda f: tfd.TruncatedNormal(f, 1.0, 0.0, 1.0)), 1),
        (Categorical(), 3),
    ],
)
def test_labels_are_drawn_of_outputs_that_are_nan(likelihood, outputs):
    """Samplers that reject would search for ever, and others raise."""
    eta = np.ones((4, outputs), "float32")
    eta[2] = np.nan
    drawn = likelihood.draw(tf.constant(eta), 5, tf.constant([1, 2]))
    same = likelihood.sample(tf.constant(np.nan_to_num(eta)), 5, tf.constant([1, 2]))
    assert np.array_equal(drawn, same) and np.all(np.isfinite(drawn))
