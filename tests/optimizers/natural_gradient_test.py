"""NaturalGradient as a Keras optimizer: steps, hyper-parameters, state, and what it refuses."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import models
from helpers.models import EAGER, crossentropy, flat
from helpers.versions import not_in_oldest

import kfisher
from kfisher.optimizers import EmpiricalNaturalGradient, NaturalGradient

pytestmark = pytest.mark.usefixtures("float64")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(22, 3))
LABELS = RNG.integers(0, 3, size=22)
START = [RNG.normal(size=(3, 4)), RNG.normal(size=4), RNG.normal(size=(4, 3)), RNG.normal(size=3)]


# The textbook update, of which no step is bounded, judged or taken back.
natural = functools.partial(NaturalGradient, trust_region=None)


@keras.saving.register_keras_serializable("kfisher_tests")
def unit_normal(f):
    return tfp.distributions.Normal(f, tf.ones((), f.dtype))


def network(optimizer, loss=None, **options):
    return models.network(optimizer, loss=loss, start=START, **options)


def fit(model, epochs=1, batch_size=22):
    history = model.fit(X, LABELS, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0)
    return history.history["loss"]


def gradient(model, x=X, y=LABELS):
    with tf.GradientTape() as tape:
        loss = crossentropy()(y, model(x))
    return flat(tape.gradient(loss, model.trainable_variables))


def empirical_fisher(model, x=X, y=LABELS):
    """sum_n w_n g_n g_n^T from one gradient for each example."""
    rows = np.stack([gradient(model, x[n : n + 1], y[n : n + 1]) for n in range(len(x))])
    return rows.T @ rows / len(x)


def gauss_newton(model, x=X):
    with tf.GradientTape() as tape:
        f = model(x)
    jacobian = np.concatenate(
        [j.numpy().reshape(len(x), 3, -1) for j in tape.jacobian(f, model.trainable_variables)], -1
    )
    p = tf.nn.softmax(f).numpy()
    hessian = np.einsum("ni,ij->nij", p, np.eye(3)) - np.einsum("ni,nj->nij", p, p)
    return np.einsum("nia,nij,njb->ab", jacobian, hessian, jacobian) / len(x)


@pytest.mark.parametrize(
    "fisher, curvature, mode",
    [
        ("exact", "gram", {}),
        ("exact", "dense", EAGER),
        ("empirical", "gram", EAGER),
        ("empirical", "dense", {}),
    ],
    ids=lambda v: v if isinstance(v, str) else "eager" if v else "graph",
)
def test_one_step_is_the_damped_solve_in_float64(fisher, curvature, mode):
    model = network(natural(0.5, fisher=fisher, curvature=curvature, damping=0.03), **mode)
    matrix = gauss_newton(model) if fisher == "exact" else empirical_fisher(model)
    expected = flat(START) - 0.5 * np.linalg.solve(matrix + 0.03 * np.eye(31), gradient(model))
    fit(model)
    assert np.allclose(flat(model.get_weights()), expected, rtol=1e-10, atol=1e-10)


def test_a_sampled_step_uses_labels_of_the_model_that_change_with_step_and_seed():
    def steps(seed):
        model = network(natural(0.1, fisher="sampled", damping=0.1, seed=seed), **EAGER)
        weights = []
        for _ in range(2):
            model.set_weights(START)
            fit(model)
            weights.append(flat(model.get_weights()))
        return weights

    first, second = steps(1)
    assert not np.allclose(first, second)  # the same batch and weights, another step: other labels
    again, _ = steps(1)
    assert np.array_equal(first, again)
    other, _ = steps(2)
    assert not np.allclose(first, other)


def test_empirical_natural_gradient_differs_in_nothing_but_the_labels():
    ours = network(EmpiricalNaturalGradient(0.3, damping=0.1, momentum=0.9), **EAGER)
    same = network(NaturalGradient(0.3, fisher="empirical", damping=0.1, momentum=0.9), **EAGER)
    other = network(NaturalGradient(0.3, fisher="exact", damping=0.1, momentum=0.9), **EAGER)
    assert fit(ours, 3) == fit(same, 3) != fit(other, 3)


# The factored damping of K-FAC takes over as its root does.
@pytest.mark.parametrize("curvature, damping", [("gram", 1e6), ("kfac", 1e12)])
def test_huge_damping_is_descent_along_the_average_of_gradients(curvature, damping):
    optimizer = natural(0.1 * damping, fisher="exact", curvature=curvature, damping=damping, momentum=0.9)
    model = network(optimizer, **EAGER)
    found = fit(model, 6)
    plain, average = network(None), np.zeros(31)
    for step in range(6):
        with tf.GradientTape() as tape:
            loss = crossentropy()(LABELS, plain(X))
        assert found[step] == pytest.approx(float(loss), rel=1e-4)
        average = 0.9 * average + 0.1 * flat(tape.gradient(loss, plain.trainable_variables))
        moved = flat(plain.get_weights()) - 0.1 * average / (1 - 0.9 ** (step + 1))
        plain.set_weights([p.reshape(s.shape) for p, s in zip(np.split(moved, [12, 16, 28]), START)])


def test_clipping_and_weight_decay_act_on_the_natural_gradient_step():
    step = flat(START) - flat(_one_step().get_weights())
    clipped = flat(START) - flat(_one_step(global_clipnorm=1e-3).get_weights())
    assert np.allclose(clipped, 1e-3 * step / np.linalg.norm(step), rtol=1e-5)
    by_value = flat(START) - flat(_one_step(clipvalue=1e-3).get_weights())
    assert np.allclose(by_value, np.clip(step, -1e-3, 1e-3), rtol=1e-5)
    decayed = flat(START) - flat(_one_step(weight_decay=0.1).get_weights())
    assert np.allclose(decayed, step + 0.1 * flat(START), rtol=1e-5)


def _one_step(**kwargs):
    model = network(natural(1.0, fisher="exact", damping=0.1, **kwargs), **EAGER)
    fit(model)
    return model


def test_ema_is_that_of_the_weights():
    ema = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 1}
    model, plain = _one_step(**ema), _one_step()
    # How Keras starts the average is its own affair.
    keras_model = network(keras.optimizers.SGD(0.0, **ema), **EAGER)
    fit(keras_model)
    ratio = flat(keras_model.get_weights()) / flat(START)
    assert np.allclose(flat(model.get_weights()), ratio * flat(plain.get_weights()), rtol=1e-5)


def test_damping_and_learning_rate_take_schedules_and_new_values_while_training():
    decay = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.5, 0.2, 0.1])
    scheduled = network(natural(decay, fisher="exact", damping=decay))
    fit(scheduled, 4)
    by_hand = network(natural(0.5, fisher="exact", damping=0.5), **EAGER)
    for value in (0.5, 0.2, 0.1, 0.1):
        by_hand.optimizer.learning_rate = value
        by_hand.optimizer.damping = value
        fit(by_hand)
    assert np.allclose(flat(scheduled.get_weights()), flat(by_hand.get_weights()), rtol=1e-6)
    with pytest.raises(TypeError, match="created with a schedule"):
        scheduled.optimizer.damping = 0.1


@pytest.mark.parametrize(
    "how, fisher, batch_size",
    [
        # Not sampled: XLA has random numbers of its own. It compiles anew for each size of batch.
        ({"jit_compile": True}, "exact", 11),
        # 22 examples: the last batch is ragged.
        ({"run_eagerly": True}, "sampled", 8),
        ({"steps_per_execution": 3}, "sampled", 8),
    ],
    ids=["xla", "eager", "steps_per_execution"],
)
def test_graph_xla_eager_and_several_steps_at_once_agree(how, fisher, batch_size):
    found, expected = after_two_epochs(fisher, batch_size, **how), in_a_graph(fisher, batch_size)
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-8)


def after_two_epochs(fisher, batch_size, **options):
    model = network(NaturalGradient(0.2, fisher=fisher, damping=0.1, seed=3), **options)
    fit(model, 2, batch_size)
    return flat(model.get_weights())


in_a_graph = functools.cache(after_two_epochs)


def test_train_on_batch_is_a_step_of_fit():
    model, same = (network(NaturalGradient(0.2, "exact", "gram", damping=0.1), **EAGER) for _ in range(2))
    fit(model, 2)
    for _ in range(2):
        same.train_on_batch(X, LABELS)
    assert np.allclose(flat(model.get_weights()), flat(same.get_weights()))


def test_mixed_precision_with_loss_scaling_follows_float32():
    weights = []
    for policy, how in (("mixed_float16", {}), ("float32", EAGER)):
        keras.config.set_dtype_policy(policy)
        model = network(NaturalGradient(0.2, fisher="exact", damping=0.1), **how)
        fit(model, 3)
        weights.append(flat(model.get_weights()))
    step = np.linalg.norm(weights[1] - flat(START))
    assert np.linalg.norm(weights[0] - weights[1]) < 0.02 * step  # half precision has 3 digits


def test_loss_scale_factor_changes_nothing():
    plain = network(NaturalGradient(0.2, fisher="exact", damping=0.1), **EAGER)
    scaled = network(NaturalGradient(0.2, fisher="exact", damping=0.1, loss_scale_factor=64.0), **EAGER)
    fit(plain), fit(scaled)
    assert np.allclose(flat(plain.get_weights()), flat(scaled.get_weights()), rtol=1e-10)


def test_resumed_training_repeats_the_uninterrupted_run_exactly(tmp_path):
    def optimizer():
        schedule = keras.optimizers.schedules.ExponentialDecay(0.3, 2, 0.9)
        return NaturalGradient(schedule, fisher=kfisher.Sampled(2), damping=schedule, momentum=0.8, seed=5)

    model = network(optimizer(), **EAGER)
    fit(model, 2, 10)
    model.save(tmp_path / "half.keras")
    resumed = keras.saving.load_model(tmp_path / "half.keras")
    for each in (model, resumed):
        fit(each, 2, 10)
    assert np.array_equal(flat(model.get_weights()), flat(resumed.get_weights()))


@pytest.mark.parametrize("cls", [NaturalGradient, EmpiricalNaturalGradient])
def test_config_round_trip_keeps_everything(cls):
    kwargs = {} if cls is EmpiricalNaturalGradient else {"fisher": kfisher.Sampled(num_samples=3)}
    optimizer = cls(
        0.3,
        curvature=kfisher.curvature.Dense(),
        damping=keras.optimizers.schedules.CosineDecay(0.1, 10),
        momentum=0.5,
        likelihood=kfisher.likelihoods.Normal(scale=2.0),
        seed=7,
        weight_decay=0.1,
        clipnorm=2.0,
        use_ema=True,
        **kwargs,
    )
    config = keras.optimizers.serialize(optimizer)
    again = keras.optimizers.deserialize(config)
    assert type(again) is cls
    assert keras.optimizers.serialize(again) == config
    assert config["registered_name"] == f"kfisher>{cls.__name__}"


def test_a_seed_is_drawn_once_and_kept_in_the_config():
    keras.utils.set_random_seed(1)
    first, second = NaturalGradient(), NaturalGradient()
    assert first.seed != second.seed
    assert NaturalGradient.from_config(first.get_config()).seed == first.seed
    keras.utils.set_random_seed(1)
    assert NaturalGradient().seed == first.seed


@pytest.mark.parametrize(
    "jit_compile",
    [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.by_hand])],  # XLA: in robustness_test
    ids=["graph", "xla"],
)
def test_a_batch_that_is_not_finite_is_skipped_counted_and_reported(jit_compile):
    optimizer = NaturalGradient(0.2, fisher="exact", damping=0.1, momentum=0.9, weight_decay=0.1)
    model = network(optimizer, jit_compile=jit_compile)
    for skipped, value in enumerate((np.nan, np.inf), 1):
        assert np.isfinite(fit(model)).all(), value
        averages = [v for v in optimizer.variables if "momentum" in v.path]
        before = [v.numpy() for v in model.variables + averages]
        bad = X.copy()
        bad[4, 1] = value
        with pytest.warns(UserWarning, match=f"skipped 1 of {2 * skipped} steps"):
            model.fit(bad, LABELS, batch_size=22, verbose=0)
        after = [v.numpy() for v in model.variables + averages]
        assert all(np.array_equal(a, b) for a, b in zip(before, after)), value
        assert int(optimizer.skipped_steps) == skipped and int(optimizer.iterations) == 2 * skipped
    assert np.isfinite(fit(model)).all()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_skipped_step_leaves_the_statistics_of_batch_normalization_alone(jit_compile):
    layers = [keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    model = kfisher.Sequential([keras.Input((3,)), *layers])
    model.compile(NaturalGradient(0.2, "exact", "gram", damping=0.1), crossentropy(), jit_compile=jit_compile)
    fit(model)
    before = model.get_weights()
    bad = np.where(np.arange(22)[:, None] == 4, np.nan, X)
    with pytest.warns(UserWarning, match="skipped 1 of 2 steps"):
        model.fit(bad, LABELS, batch_size=22, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))
    fit(model)
    assert not any(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


def test_statistics_move_beside_a_weight_that_is_infinite_for_good():
    class Mask(keras.layers.Layer):
        def build(self, shape):
            values = keras.initializers.Constant(-np.inf)
            self.mask = self.add_weight(shape=(1,), initializer=values, trainable=False)

        def call(self, x):
            return x * keras.ops.cast(keras.ops.isinf(self.mask), x.dtype)

    normalisation = keras.layers.BatchNormalization()
    model = kfisher.Sequential([keras.Input((3,)), Mask(), normalisation, keras.layers.Dense(3)])
    model.compile(NaturalGradient(0.2, seed=0), crossentropy())
    fit(model)
    assert np.all(normalisation.moving_mean.numpy() != 0) and int(model.optimizer.skipped_steps) == 0


@pytest.mark.parametrize(
    "fisher, curvature",
    [pytest.param("sampled", "gram", marks=[pytest.mark.slow, pytest.mark.by_hand]), ("exact", "dense")],
)
def test_bad_labels_under_xla_skip_the_step_for_every_fisher(fisher, curvature):
    model = network(NaturalGradient(0.2, fisher, curvature, damping=0.1), jit_compile=True)
    with pytest.warns(UserWarning, match="skipped 1 of 1 steps"):
        model.fit(X, np.full(22, 0.5), batch_size=22, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), START))


def test_skipped_steps_are_reported_once_also_after_loading(tmp_path, recwarn):
    model = network(NaturalGradient(0.2, fisher="exact", damping=0.1), **EAGER)
    model.fit(X * np.nan, LABELS, batch_size=22, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    fit(loaded), fit(model)
    assert len([w for w in recwarn if "skipped" in str(w.message)]) == 1


@pytest.mark.parametrize(
    "extra", [pytest.param("l1", marks=not_in_oldest("their L1 is float32 beside float64")), "activity"]
)
def test_a_small_loss_beside_the_likelihood_is_not_taken_for_rounding(extra):
    """Outside the row space even a small gradient moves the weights far: by 1 / damping."""
    steps = []
    for curvature in ("gram", "dense"):
        last = keras.layers.Dense(
            3,
            kernel_regularizer=keras.regularizers.L1(1e-14) if extra == "l1" else None,
            activity_regularizer=keras.regularizers.L2(1e-14) if extra == "activity" else None,
        )
        model = kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh"), last])
        model.set_weights(START)
        model.compile(natural(1.0, "exact", curvature, damping=1e-11), crossentropy(), **EAGER)
        fit(model, batch_size=5)
        steps.append(flat(model.get_weights()) - flat(START))
    assert np.linalg.norm(steps[0] - steps[1]) < 1e-5 * np.linalg.norm(steps[1])


def test_a_likelihood_of_ones_own_survives_saving(tmp_path):
    likelihood = kfisher.likelihoods.DistributionLikelihood(unit_normal)
    model = network(NaturalGradient(0.1, "exact", damping=0.1, likelihood=likelihood), "mse", **EAGER)
    model.fit(X, X, batch_size=22, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.optimizer.likelihood.make_distribution is unit_normal


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"damping": -1.0}, "damping=-1.0"),
        ({"damping": 0.0}, "damping=0.0"),
        ({"damping": "large"}, "damping='large'"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"fisher": "true"}, "fisher='true'"),
        ({"curvature": "full"}, "curvature='full'"),
        ({"likelihood": "normal"}, "likelihood='normal'"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps=1"),
        ({"trust_region": 0.0}, "trust_region=0.0"),
        ({"trust_region": "wide"}, "trust_region='wide'"),
        ({"step": "long"}, "step='long'"),
        ({"learning_rate": "fast"}, "learning_rate='fast'"),
        ({"seed": 1.5}, "seed=1.5"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_wrong_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=f"Received.*{message}"):
        NaturalGradient(**kwargs)


def test_damping_can_be_multiplied_and_negative_damping_is_refused_later_too():
    optimizer = NaturalGradient(damping=np.float32(2e-3))
    optimizer.damping *= 0.5
    with pytest.raises(ValueError, match="Received: damping=-1"):
        optimizer.damping = -1
    assert float(optimizer.damping) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    "loss, y, message, how",
    [
        (None, np.full(22, 3), "class indices|outside the valid range", {}),  # ours or Keras' own
        (None, np.full(22, 0.5), "whole numbers", EAGER),  # in graphs: labels_test
        ("huber", np.zeros((22, 3)), "Supported are.*mean_squared_error.*NegativeLogLikelihood", {}),
        ("mse", np.zeros((22, 2)), "shape", {}),
        ("mse", np.zeros((22, 1)), "shape", {}),
    ],
    ids=["out of range", "float", "no likelihood", "shape", "broadcast"],
)
def test_bad_labels_give_a_clear_error_and_change_no_weight(loss, y, message, how):
    model = network(NaturalGradient(0.2, fisher="exact"), loss, **how)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
        model.fit(X, y, batch_size=22, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), START))


def test_an_empty_batch_and_a_foreign_set_of_gradients_are_refused():
    model = network(NaturalGradient(0.2, fisher="exact"))
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="at least one|is empty"):
        model.optimizer.observe(model, X[:0], LABELS[:0])
    model.optimizer.observe(model, X, LABELS)
    variables = model.trainable_variables[:2]
    with pytest.raises(ValueError, match="gradients must be those of all trainable variables"):
        model.optimizer.apply_gradients(zip(variables, variables))
