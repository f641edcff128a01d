"""NegativeLogLikelihood: any distribution as a loss, and its Fishers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import kfisher

tfd = tfp.distributions


@keras.saving.register_keras_serializable("kfisher_tests")
def normal(f):
    return tfd.Normal(f[..., :1], tf.nn.softplus(f[..., 1:2]) + 0.1)


def shared_scale(f):
    """Two observations with one scale, which must count twice."""
    return tfd.Normal(f[..., :2], tf.nn.softplus(f[..., 2:3]) + 0.1)


FAMILIES = {
    "normal": (2, normal),
    "normal, shared scale": (3, shared_scale),
    "normal, position only": (2, lambda f: tfd.Normal(f[..., 0], tf.exp(f[..., 1]))),
    "independent": (4, lambda f: tfd.Independent(tfd.Normal(f[..., :2], tf.exp(f[..., 2:])), 1)),
    "multivariate": (4, lambda f: tfd.MultivariateNormalDiag(f[..., :2], tf.exp(f[..., 2:]))),
    "lognormal": (2, lambda f: tfd.LogNormal(f[..., :1], tf.exp(f[..., 1:]))),
    "laplace": (2, lambda f: tfd.Laplace(f[..., :1], tf.exp(f[..., 1:]))),
    "bernoulli probs": (2, lambda f: tfd.Bernoulli(probs=tf.sigmoid(f))),
    "poisson": (1, lambda f: tfd.Poisson(rate=tf.nn.softplus(f))),
    "exponential": (1, lambda f: tfd.Exponential(tf.exp(f))),
    "categorical": (3, lambda f: tfd.Categorical(logits=f)),
    "one-hot": (3, lambda f: tfd.OneHotCategorical(probs=tf.nn.softmax(f))),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_exact_fisher_is_the_mean_outer_product_of_scores_of_drawn_labels(name):
    size, make = FAMILIES[name]
    draws = 40_000
    f = tf.constant(np.linspace(-0.6, 0.7, size)[None])
    likelihood = kfisher.losses.NegativeLogLikelihood(make).likelihood()
    root = likelihood.fisher_root(f)[0].numpy()
    many = tf.repeat(f, draws, axis=0)
    y = make(many).sample(seed=[1, 2])
    with tf.GradientTape() as tape:  # scores by autodiff of TFP's own log_prob
        tape.watch(many)
        log_prob = tf.reduce_sum(make(many).log_prob(y))
    scores = tape.gradient(log_prob, many).numpy()
    products = scores[:, :, None] * scores[:, None, :]
    deviation = products.std(0) / np.sqrt(draws)
    assert np.all(np.abs(root @ root.T - products.mean(0)) <= 4.5 * deviation + 1e-9)


def test_the_loss_is_the_negative_log_likelihood_and_its_fisher_that_of_mean_squared_error():
    # N(f, 1/2) is the likelihood of Keras' squared error for one output.
    x = np.random.default_rng(0).normal(size=(20, 3))
    y = x[:, :1] - 0.5
    loss = kfisher.losses.NegativeLogLikelihood(lambda f: tfd.Normal(f, tf.cast(np.sqrt(0.5), f.dtype)))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(loss=loss)
    mse = model(x) - y
    assert np.allclose(
        model.evaluate(x, y, verbose=0), np.mean(mse**2) + 0.5 * np.log(np.pi), rtol=1e-5
    )  # the constant of log N(., 1/2) is log(pi)/2
    for fisher in ("exact", "empirical"):
        ours = kfisher.FisherOperator(model, x, y, fisher=fisher).to_dense()
        theirs = kfisher.FisherOperator(model, x, y, fisher=fisher, loss="mse").to_dense()
        assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_labels_may_lack_or_have_one_axis_of_size_one_and_no_other():
    f = tf.zeros((5, 2))
    loss = kfisher.losses.NegativeLogLikelihood(normal)
    assert np.allclose(loss(tf.ones((5, 1)), f), loss(tf.ones(5), f))
    with pytest.raises(ValueError, match=r"labels of shape \(5, 2\)"):
        loss(tf.ones((5, 2)), f)


def test_a_family_without_known_fisher_offers_sampled():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    x, y = np.ones((4, 3)), np.ones((4, 1))
    loss = kfisher.losses.NegativeLogLikelihood(lambda f: tfd.StudentT(3.0, f, 1.0))
    with pytest.raises(ValueError, match="StudentT is not known.*Sampled"):
        kfisher.FisherOperator(model, x, y, loss=loss)
    for fisher in (kfisher.Sampled(3), "empirical"):
        matrix = kfisher.FisherOperator(model, x, y, loss=loss, fisher=fisher).to_dense().numpy()
        assert matrix.shape == (4, 4) and np.all(np.isfinite(matrix)) and np.trace(matrix) > 0


def test_a_learnt_scale_is_fitted_by_natural_gradient_and_survives_saving(tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 1)).astype("float32")
    y = 3 * x + 1 + 0.5 * rng.normal(size=(400, 1)).astype("float32")
    model = kfisher.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    options = {"fisher": "exact", "curvature": "dense", "damping": 1e-3, "trust_region": None}
    optimizer = kfisher.optimizers.NaturalGradient(0.5, **options)
    model.compile(optimizer, kfisher.losses.NegativeLogLikelihood(normal))
    model.fit(x, y, batch_size=400, epochs=30, verbose=0)
    residual = y - np.polyval(np.polyfit(x[:, 0], y[:, 0], 1), x)
    fitted = normal(model(x))
    assert np.allclose(fitted.loc.numpy().std(), np.std(y - residual), rtol=0.02)
    assert np.allclose(np.mean(fitted.scale), residual.std(), rtol=0.05)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.allclose(loaded.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0))


def test_make_distribution_must_be_a_function():
    with pytest.raises(ValueError, match="Received: make_distribution=3"):
        kfisher.losses.NegativeLogLikelihood(3)
