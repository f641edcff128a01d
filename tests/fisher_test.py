"""Exact, Sampled, Empirical: each equals what its definition says of the compiled Keras loss, in float64."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import oracle

import kfisher
from kfisher import fisher as fishers

pytestmark = pytest.mark.usefixtures("float64")
L = keras.losses
N, T, C = 4, 3, 3
# Two ways to the same float64 number differ by rounding only; 1e-10 leaves room for its accumulation.
TIGHT = 1e-10
REDUCTIONS = ["sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", None]


def network(shape=(2,), outputs=C, activation=None, **options):
    """Layers of unequal sizes, so that a transposed or misplaced block shows."""
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Dense(4, activation="tanh", bias_initializer="normal"),
            keras.layers.Dense(outputs, activation=activation, bias_initializer="normal", **options),
        ]
    )


def twin(model, outputs=C):
    """`model` without its last activation, in variables of its own."""
    before = network(model.input_shape[1:], outputs)
    before.set_weights(model.get_weights())
    return before


def data(positions=(), outputs=C, seed=0):
    rng = np.random.default_rng(seed)
    shape = (N, *positions)
    weight = rng.uniform(0.2, 3, size=shape)
    weight.flat[1] = 0
    return {
        "x": rng.normal(size=(*shape, 2)),
        "real": rng.normal(size=(*shape, outputs)),
        "binary": rng.integers(0, 2, size=(*shape, outputs)).astype(float),
        "index": rng.integers(0, outputs, size=shape),
        "onehot": np.eye(outputs)[rng.integers(0, outputs, size=shape)],
        "count": rng.poisson(2.0, size=(*shape, outputs)).astype(float),
        "weight": weight,
    }


def fisher(model, x, y=None, sample_weight=None, **options):
    return kfisher.FisherOperator(model, x, y, sample_weight=sample_weight, **options).to_dense().numpy()


# --- Exact: the Gauss-Newton matrix of the compiled loss ----------------------------------------


@pytest.mark.parametrize("positions", [(), (T,)], ids=["vector", "time"])
@pytest.mark.parametrize(
    "loss, label, options",
    [
        (L.MeanSquaredError, "real", {}),
        (L.BinaryCrossentropy, "binary", {"from_logits": True}),
        (L.CategoricalCrossentropy, "onehot", {"from_logits": True}),
        (L.SparseCategoricalCrossentropy, "index", {"from_logits": True}),
    ],
)
def test_exact_is_the_gauss_newton_matrix_for_every_reduction_and_weight(loss, label, options, positions):
    d = data(positions)
    model = network((*positions, 2))
    j = oracle.jacobian(model, d["x"])
    matrices = []
    for reduction in ("sum_over_batch_size", "mean_with_sample_weight", None) if positions else REDUCTIONS:
        model.compile(loss=loss(reduction=reduction, **options))
        for weight in (None, d["weight"]):
            expected = oracle.gauss_newton(model, d["x"], d[label], weight, j=j)
            assert oracle.distance(fisher(model, d["x"], d[label], weight), expected) < TIGHT
            matrices.append(expected)
        # Labels have no part in the exact Fisher.
        assert oracle.distance(fisher(model, d["x"], None, d["weight"]), expected) < TIGHT
    assert len({round(np.trace(m), 9) for m in matrices}) >= 4  # the cases do differ


@pytest.mark.parametrize(
    "loss, label, activation",
    [
        (L.BinaryCrossentropy, "binary", "sigmoid"),
        (L.CategoricalCrossentropy, "onehot", "softmax"),
        (L.SparseCategoricalCrossentropy, "index", "softmax"),
        (L.Poisson, "count", "exponential"),
    ],
)
def test_exact_from_probabilities_and_rates_is_the_one_at_their_natural_parameter(loss, label, activation):
    d = data((T,))
    model = network((T, 2), activation=activation)
    before, link = twin(model), keras.activations.get(activation)
    # Keras' Poisson loss takes log(f + 1e-7), and so differs from y log f by 1e-7 / f.
    tolerance = 1e-5 if loss is L.Poisson else TIGHT
    for reduction in ("sum_over_batch_size", "sum", "mean_with_sample_weight"):
        model.compile(loss=loss(reduction=reduction))
        expected = oracle.gauss_newton(model, d["x"], d[label], d["weight"], before, link)
        assert oracle.distance(fisher(model, d["x"], d[label], d["weight"]), expected) < tolerance


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_exact_from_probabilities_whose_logits_keras_does_not_know(activation):
    # Divided by one, the output no longer carries the logits; the loss works on clipped probabilities.
    d = data()
    model = network(activation=lambda z: keras.activations.get(activation)(z) / 1.0)
    model.compile(loss="bce" if activation == "sigmoid" else "sparse_categorical_crossentropy")
    y = d["binary"] if activation == "sigmoid" else d["index"]
    expected = oracle.gauss_newton(model, d["x"], y, None, twin(model), keras.activations.get(activation))
    assert oracle.distance(fisher(model, d["x"], y), expected) < TIGHT


@pytest.mark.parametrize(
    "loss",
    [
        "mse",
        "MSE",
        "mean_squared_error",
        "MeanSquaredError",
        L.MeanSquaredError,
        L.mean_squared_error,
        "instance",
    ],
    ids=lambda loss: getattr(loss, "__name__", str(loss)),
)
def test_exact_for_every_spelling_of_a_loss(loss):
    d = data()
    model = network()
    loss = L.MeanSquaredError() if loss == "instance" else loss  # made here, for its float64
    model.compile(loss=loss)
    expected = oracle.gauss_newton(model, d["x"], d["real"])
    assert oracle.distance(fisher(model, d["x"]), expected) < TIGHT
    assert oracle.distance(fisher(network_like(model), d["x"], loss=loss), expected) < TIGHT


def network_like(model):
    """The same function, never compiled."""
    return keras.Sequential(model.layers)


def test_the_loss_named_crossentropy_is_the_one_that_keras_takes_it_for():
    d = data()
    model = network(activation="softmax")
    model.compile(loss="crossentropy")
    with pytest.raises(ValueError, match="Pass `y`"):
        fisher(model, d["x"])
    expected = oracle.gauss_newton(model, d["x"], d["index"], None, twin(model), keras.activations.softmax)
    assert oracle.distance(fisher(model, d["x"], d["index"]), expected) < TIGHT


def test_exact_with_space_axes_and_a_weight_for_each_pixel():
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [keras.Input((4, 3, 2)), keras.layers.Conv2D(3, (2, 1), activation="tanh"), keras.layers.Conv2D(2, 1)]
    )
    model.compile(loss=L.BinaryCrossentropy(from_logits=True))
    x, y = rng.normal(size=(2, 4, 3, 2)), rng.integers(0, 2, size=(2, 3, 3, 2)).astype(float)
    weight = rng.uniform(size=(2, 3, 3))
    expected = oracle.gauss_newton(model, x, y, weight)
    assert oracle.distance(fisher(model, x, y, weight), expected) < TIGHT


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_exact_where_keras_squeezes_outputs_to_the_shape_of_the_labels(loss):
    # Outputs (N, T, 1) next to labels (N, T): Keras averages over T, one value for each example.
    d = data((T,), outputs=1)
    model = network((T, 2), outputs=1)
    model.compile(loss=L.BinaryCrossentropy(from_logits=True) if loss == "bce" else loss)
    weight = np.array([1.0, 2.0, 0.0, 0.5])
    expected = oracle.gauss_newton(model, d["x"], d["binary"][..., 0], weight)
    assert oracle.distance(fisher(model, d["x"], d["binary"][..., 0], weight), expected) < TIGHT


def test_exact_for_labels_without_the_last_axis():
    d = data(outputs=1)
    model = network(outputs=1)
    model.compile(loss="mse")
    expected = oracle.gauss_newton(model, d["x"], d["real"])
    assert oracle.distance(fisher(model, d["x"], d["real"][:, 0], fisher="exact"), expected) < TIGHT


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("source", ["embedding", "masking"])
def test_exact_leaves_out_masked_positions_as_keras_does(source, reduction):
    rng = np.random.default_rng(0)
    if source == "embedding":
        x = np.array([[1, 2, 0], [3, 2, 4], [1, 0, 0]])
        first = [keras.Input((T,)), keras.layers.Embedding(5, 2, mask_zero=True)]
    else:
        x = rng.normal(size=(3, T, 2)) * np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0]])[..., None]
        first = [keras.Input((T, 2)), keras.layers.Masking()]
    model = keras.Sequential([*first, keras.layers.Dense(C)])
    weight = rng.uniform(size=(3, T))
    for loss, y in (
        (L.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction), rng.integers(0, C, (3, T))),
        (L.MeanSquaredError(reduction=reduction), rng.normal(size=(3, T, C))),
    ):
        model.compile(loss=loss)
        for w in (None, weight):
            expected = oracle.gauss_newton(model, x, y, w)
            assert oracle.distance(fisher(model, x, y, w), expected) < TIGHT


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_exact_with_several_outputs_and_loss_weights(kind):
    rng = np.random.default_rng(0)
    inputs = keras.Input((2,))
    hidden = keras.layers.Dense(3, activation="tanh")(inputs)
    parts = {
        "a": keras.layers.Dense(C, name="a")(hidden),
        "b": keras.layers.Dense(2, name="b")(hidden),
        "c": keras.layers.Dense(1, name="c")(inputs),
    }
    losses = {
        "a": L.SparseCategoricalCrossentropy(from_logits=True),
        "b": "mse",
        "c": L.BinaryCrossentropy(from_logits=True, reduction="sum"),
    }
    loss_weights = {"a": 0.5, "b": 3.0, "c": 0.1}
    labels = {
        "a": rng.integers(0, C, N),
        "b": rng.normal(size=(N, 2)),
        "c": rng.integers(0, 2, size=(N, 1)).astype(float),
    }
    weights = {name: rng.uniform(size=N) for name in "abc"}
    if kind == "list":
        parts, losses, loss_weights, labels, weights = (
            [p[k] for k in "abc"] for p in (parts, losses, loss_weights, labels, weights)
        )
    model = keras.Model(inputs, parts)
    model.compile(loss=losses, loss_weights=loss_weights)
    x = rng.normal(size=(N, 2))
    for w in (None, weights):
        expected = oracle.gauss_newton(model, x, labels, w)
        assert oracle.distance(fisher(model, x, labels, w), expected) < TIGHT
    unweighted = oracle.gauss_newton(model, x, labels)
    assert oracle.distance(fisher(model, x), unweighted) < TIGHT


def test_exact_with_a_dict_of_losses_for_a_list_of_outputs_and_one_output_without_a_loss():
    rng = np.random.default_rng(0)
    inputs = keras.Input((2,))
    outputs = [keras.layers.Dense(2, name="a")(inputs), keras.layers.Dense(1, name="b")(inputs)]
    model = keras.Model(inputs, outputs)
    x, y = rng.normal(size=(N, 2)), [rng.normal(size=(N, 2)), rng.normal(size=(N, 1))]
    model.compile(loss={"a": "mse", "b": "mse"}, loss_weights={"a": 2.0, "b": 0.3})
    assert oracle.distance(fisher(model, x, y), oracle.gauss_newton(model, x, y)) < TIGHT
    model.compile(loss=["mse", None])
    expected = np.zeros((9, 9))
    a = keras.Model(inputs, outputs[0])
    a.compile(loss="mse")
    expected[:6, :6] = oracle.gauss_newton(a, x, y[0])
    assert oracle.distance(fisher(model, x, y), expected) < TIGHT


def test_exact_with_classes_along_another_axis():
    d = data((T,))
    model = keras.Sequential([keras.Input((T, 2)), keras.layers.Dense(C + 1), keras.layers.Permute((2, 1))])
    model.compile(loss=L.CategoricalCrossentropy(from_logits=True, axis=1))
    y = np.moveaxis(np.eye(C + 1)[d["index"]], -1, 1)
    expected = oracle.gauss_newton(model, d["x"], y, d["weight"])
    assert oracle.distance(fisher(model, d["x"], y, d["weight"]), expected) < TIGHT
    assert oracle.distance(fisher(model, d["x"], None, d["weight"]), expected) < TIGHT


def test_exact_leaves_out_an_ignored_class():
    d = data((T,))
    model = network((T, 2))
    model.compile(loss=L.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1))
    y = d["index"].copy()
    y[0, 1] = y[2] = -1
    for w in (None, d["weight"]):
        expected = oracle.gauss_newton(model, d["x"], y, w)
        assert oracle.distance(fisher(model, d["x"], y, w), expected) < TIGHT


def test_exact_includes_the_hessian_of_l2_regularisers():
    d = data()
    l2, l1l2 = keras.regularizers.L2(0.25), keras.regularizers.L1L2(0.5, 2.0)
    model = network(kernel_regularizer=l2, bias_regularizer=l1l2)
    model.compile(loss="mse")
    expected = oracle.gauss_newton(model, d["x"], d["real"])
    assert np.ptp(oracle.ridge(model)) == 4.0
    assert oracle.distance(fisher(model, d["x"]), expected) < TIGHT


def test_class_weights_of_fit_reach_the_fisher():
    class Recorder(keras.optimizers.SGD):
        def observe(self, model, x, y, sample_weight):
            self.seen = fisher(model, x, y, sample_weight)

    d = data()
    model = kfisher.Sequential(network().layers)
    model.compile(Recorder(0.0), L.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    weights = {0: 0.5, 1: 2.0, 2: 7.0}
    model.fit(d["x"], d["index"], batch_size=N, class_weight=weights, shuffle=False, verbose=0)
    as_sample_weight = np.array([weights[i] for i in d["index"]])
    expected = oracle.gauss_newton(model, d["x"], d["index"], as_sample_weight)
    assert oracle.distance(model.optimizer.seen, expected) < TIGHT


def test_exact_is_the_same_inside_a_tf_function():
    d = data()
    model = network(activation="softmax")
    model.compile(loss="sparse_categorical_crossentropy")

    @tf.function
    def in_graph(x, y, w):
        return kfisher.FisherOperator(model, x, y, sample_weight=w).to_dense()

    expected = fisher(model, d["x"], d["index"], d["weight"])
    assert oracle.distance(in_graph(d["x"], d["index"], d["weight"]), expected) < TIGHT


# --- Exact, where no Gauss-Newton matrix equals it: closed forms --------------------------------


def test_exact_of_absolute_error_is_that_of_laplace_noise():
    # l_n = mean_c |y - f| = -log Laplace(y | f, C) + const, with Fisher 1 / C^2 for each f_c.
    d = data()
    model = network()
    model.compile(loss="mae")
    j = oracle.jacobian(model, d["x"])
    assert oracle.distance(fisher(model, d["x"]), j.T @ j / (N * C**2)) < TIGHT


def test_exact_of_poisson_with_any_link_is_its_expected_information():
    # E[y / f^2] = 1 / f with respect to the rate f itself; each of C terms has weight 1 / (N C).
    d = data()
    model = network(activation="softplus")
    model.compile(loss="poisson")
    j, f = oracle.jacobian(model, d["x"]), model(d["x"]).numpy().ravel()
    # Keras' epsilon of 1e-7 is added to f.
    assert oracle.distance(fisher(model, d["x"]), j.T @ (j / f[:, None]) / (N * C)) < 1e-5


# --- Empirical: outer products of gradients ------------------------------------------------------

SMOOTH = {"from_logits": True, "label_smoothing": 0.3}
EMPIRICAL = {
    "mse": (None, L.MeanSquaredError, "real", {}, 1),
    "mae": (None, L.MeanAbsoluteError, "real", {}, 1),
    "bce logits": (None, L.BinaryCrossentropy, "binary", SMOOTH, C),
    "bce": ("sigmoid", L.BinaryCrossentropy, "binary", {}, C),
    "cce logits": (None, L.CategoricalCrossentropy, "onehot", SMOOTH, 1),
    "cce": ("softmax", L.CategoricalCrossentropy, "onehot", {}, 1),
    "scce logits": (None, L.SparseCategoricalCrossentropy, "index", {"from_logits": True}, 1),
    "scce": ("softmax", L.SparseCategoricalCrossentropy, "index", {}, 1),
    "poisson": ("exponential", L.Poisson, "count", {}, C),
}


@pytest.mark.parametrize("name", EMPIRICAL)
def test_empirical_is_the_sum_of_outer_products_of_example_gradients(name):
    # Where Keras averages C log-likelihoods, -log p of an example is C times its loss, with weight w / C.
    activation, loss, label, options, copies = EMPIRICAL[name]
    d = data()
    model = network(activation=activation)
    model.compile(loss=loss(**options))
    each = loss(reduction=None, **options)

    def negative_log_likelihood(n):
        return copies * tf.reduce_sum(each(d[label][n : n + 1], model(d["x"][n : n + 1])))

    expected = oracle.outer_products(model, negative_log_likelihood, d["weight"] / (N * copies))
    found = fisher(model, d["x"], d[label], d["weight"], fisher="empirical")
    assert oracle.distance(found, expected) < TIGHT


def test_empirical_adds_up_positions_and_outputs_of_an_example_before_the_outer_product():
    d = data((T,))
    inputs = keras.Input((T, 2))
    hidden = keras.layers.Dense(4, activation="tanh")(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(C)(hidden), keras.layers.Dense(2)(hidden)])
    losses = [L.SparseCategoricalCrossentropy(from_logits=True), L.MeanSquaredError()]
    model.compile(loss=losses, loss_weights=[1.0, 0.3])
    labels, weight = [d["index"], d["real"][..., :2]], d["weight"]

    def root_weighted_sum(n):
        total = 0.0
        outputs = model(d["x"][n : n + 1])
        for loss, y, f, share in zip(losses, labels, outputs, (1.0, 0.3)):
            values = loss.call(tf.constant(y[n : n + 1]), f)
            total += tf.reduce_sum(np.sqrt(share * weight[n] / (N * T)) * values)
        return total

    expected = oracle.outer_products(model, root_weighted_sum, np.ones(N))
    found = fisher(model, d["x"], labels, [weight, weight], fisher="empirical")
    assert oracle.distance(found, expected) < TIGHT


@pytest.mark.parametrize("activation, label", [("sigmoid", "binary"), ("softmax", "onehot")])
def test_empirical_keeps_the_gradient_of_saturated_probabilities(activation, label):
    # Probabilities that round to 0 and 1 have no gradient; the loss has, as Keras goes back to the logits.
    d = data()
    model = network(activation=activation)
    model.layers[-1].kernel.assign(200 * model.layers[-1].kernel)
    assert np.any(model(d["x"]) == 1.0)
    model.compile(loss="binary_crossentropy" if activation == "sigmoid" else "categorical_crossentropy")
    copies = C if activation == "sigmoid" else 1
    each = L.get(model.loss)
    expected = oracle.outer_products(
        model,
        lambda n: copies * tf.reduce_sum(each(d[label][n : n + 1], model(d["x"][n : n + 1]))),
        np.full(N, 1 / (N * copies)),
    )
    assert oracle.distance(fisher(model, d["x"], d[label], fisher="empirical"), expected) < TIGHT
    in_graph = tf.function(lambda x, y: kfisher.FisherOperator(model, x, y, fisher="empirical").to_dense())
    assert oracle.distance(in_graph(d["x"], d[label]), expected) < TIGHT


# --- the gradient in the rows of A ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exact", "empirical"])
@pytest.mark.parametrize("name", EMPIRICAL)
def test_the_coordinates_of_the_gradient_give_the_gradient_of_the_compiled_loss(name, kind):
    activation, loss, label, options, _ = EMPIRICAL[name]
    d = data()
    model = network(activation=activation)
    model.compile(loss=loss(**options))
    root = kfisher.FisherOperator(model, d["x"], d[label], fisher=kind, sample_weight=d["weight"]).root
    found = np.concatenate([g.numpy().ravel() for g in root.rmatvec(root.coordinates)])
    expected = oracle.gradient(
        model, lambda: model.compute_loss(d["x"], d[label], model(d["x"]), d["weight"])
    )
    # Poisson: the rate of the likelihood is f + 1e-7.
    assert oracle.distance(found, expected) < (1e-5 if name == "poisson" else TIGHT)


# --- Sampled: its mean is Exact ------------------------------------------------------------------

FAMILIES = {
    "normal": kfisher.likelihoods.Normal(0.7),
    "laplace": kfisher.likelihoods.Laplace(0.7),
    "bernoulli": kfisher.likelihoods.Bernoulli(from_logits=True),
    "categorical": kfisher.likelihoods.Categorical(from_logits=True),
    "poisson": kfisher.likelihoods.Poisson(),
}
# E[s^4] and E[s^2] of the score of one element:
FOURTH_MOMENT = {
    "normal": lambda eta: np.full_like(eta, 3 / 0.7**4),
    "laplace": lambda eta: np.full_like(eta, 1 / 0.7**4),
    "bernoulli": lambda eta: _p(eta) * (1 - _p(eta)) * ((1 - _p(eta)) ** 3 + _p(eta) ** 3),
    "poisson": lambda eta: np.exp(eta) + 3 * np.exp(2 * eta),
}


VARIANCE = {
    "normal": lambda eta: np.full_like(eta, 1 / 0.7**2),
    "laplace": lambda eta: np.full_like(eta, 1 / 0.7**2),
    "bernoulli": lambda eta: _p(eta) * (1 - _p(eta)),
    "poisson": np.exp,
}


def _p(eta):
    return 1 / (1 + np.exp(-eta))


def expected_square_error(name, eta):
    """E |s s^T - F|^2 for one draw, and F, both from moments in closed form."""
    if name == "categorical":
        p = np.exp(eta) / np.exp(eta).sum()
        scores = np.eye(len(p)) - p
        matrix = np.diag(p) - np.outer(p, p)
        return p @ np.sum(scores**2, 1) ** 2 - np.sum(matrix**2), matrix
    v = VARIANCE[name](eta)
    # Independent elements: sum_i (E s_i^4 - v_i^2) + sum_{i != j} v_i v_j.
    return np.sum(FOURTH_MOMENT[name](eta) - v**2) + v.sum() ** 2 - np.sum(v**2), np.diag(v)


@pytest.mark.parametrize("name", FAMILIES)
def test_sampled_has_exact_as_its_mean_and_an_error_of_one_over_root_k(name):
    eta = np.array([0.3, -0.8, 1.1])
    variance, matrix = expected_square_error(name, eta)
    repeats = 400
    for k in (4, 64, 1024):
        sampled = kfisher.Sampled(repeats * k)
        v = sampled.vectors(FAMILIES[name], tf.constant(eta[None]), None, tf.constant([k, 7]))
        v = v.numpy().reshape(repeats, k, 3) * np.sqrt(repeats)  # 400 independent estimates from k draws
        errors = np.sum((np.einsum("rki,rkj->rij", v, v) - matrix) ** 2, (1, 2))
        standard_error = errors.std() / np.sqrt(repeats)
        assert abs(errors.mean() - variance / k) < 3 * standard_error


def test_sampled_fisher_of_a_model_has_exact_as_its_mean_and_an_error_of_one_over_root_k():
    d = data()
    model = network()
    model.compile(loss=L.SparseCategoricalCrossentropy(from_logits=True))
    j = oracle.jacobian(model, d["x"]).reshape(N, C, -1)
    p = tf.nn.softmax(model(d["x"])).numpy()
    w = d["weight"] / N
    exact, variance = 0.0, 0.0
    for n in range(N):  # draws are independent over examples, so their variances add up
        u = (np.eye(C) - p[n]) @ j[n]  # the gradient for each label
        one = np.einsum("c,ci,cj->ij", p[n], u, u)
        exact = exact + w[n] * one
        variance += w[n] ** 2 * (p[n] @ np.sum(u**2, 1) ** 2 - np.sum(one**2))
    for k, repeats in ((1, 20), (16, 16), (256, 12)):
        errors = []
        for seed in range(repeats):
            found = fisher(model, d["x"], None, d["weight"], fisher=kfisher.Sampled(k), seed=seed)
            errors.append(np.sum((found - exact) ** 2))
        assert abs(np.mean(errors) - variance / k) < 3 * np.std(errors) / np.sqrt(repeats)


def test_labels_drawn_for_different_outputs_are_independent():
    # Two heads on the same values: equal draws would correlate them, and the off-diagonal block not vanish.
    inputs = keras.Input((1,))
    heads = [keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(inputs) for _ in range(2)]
    model = keras.Model(inputs, heads)
    model.compile(loss="mse")
    k = 4096
    found = fisher(model, np.ones((1, 1)), fisher=kfisher.Sampled(k))
    expected = np.diag([2.0, 2.0])
    assert abs(found[0, 1]) < 3 * 2 / np.sqrt(k)
    assert np.all(abs(np.diag(found - expected)) < 3 * 2 * np.sqrt(2 / k))


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2"])
def test_number_of_samples_must_be_a_positive_integer(bad):
    with pytest.raises(ValueError, match="num_samples"):
        kfisher.Sampled(bad)


def test_fishers_by_name_config_and_instance():
    kinds = {"exact": kfisher.Exact, "sampled": kfisher.Sampled, "empirical": kfisher.Empirical}
    for identifier, kind in kinds.items():
        assert type(fishers.get(identifier)) is kind
        instance = kind()
        assert fishers.get(instance) is instance
        assert type(fishers.get(keras.saving.serialize_keras_object(instance))) is kind
    copied = fishers.get(keras.saving.serialize_keras_object(kfisher.Sampled(5)))
    assert copied.num_samples == 5
    with pytest.raises(ValueError, match="kfisher.Exact"):
        fishers.get("emprical")


def test_steps_of_a_family_without_a_known_fisher_are_measured_by_labels_drawn_anew():
    """A shift of Student's t, whose Fisher is (v + 1) / (v + 3): what 4 draws of 4000 examples say of it."""
    eta = tf.zeros((4000, 1), tf.float64)
    loss = kfisher.losses.NegativeLogLikelihood(
        lambda f: tfp.distributions.StudentT(np.float64(4.0), f, np.float64(1.0))
    )
    likelihood = kfisher.likelihoods.from_loss(loss)
    head = types.SimpleNamespace(likelihood=likelihood, eta=eta, labels=None, root_weights=1.0)
    assert not likelihood.is_known(eta)
    (product,) = fishers.Expected().output_products([head], tf.constant([0, 0]))([tf.ones_like(eta)])
    assert float(tf.reduce_mean(product)) == pytest.approx(5 / 7, rel=0.05)
