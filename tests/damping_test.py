"""Rules of the damping, number by number."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import kfisher
from kfisher.damping import Cautious, LevenbergMarquardt
from kfisher.optimizers import NaturalGradient
from kfisher.optimizers._adaptive_damping import AdaptiveDamping
from kfisher.optimizers._judgement import Judgement

NAN = float("nan")


@pytest.mark.parametrize(
    "ratio, factor",
    [(1.0, 0.25), (0.76, 0.25), (0.74, 1.0), (0.5, 1.0), (0.26, 1.0), (0.24, 4.0), (-1.0, 4.0), (NAN, 4.0)],
)
def test_lambda_falls_above_three_quarters_and_grows_below_one_quarter(ratio, factor):
    policy = LevenbergMarquardt(1.0, omega=0.5, every=2)  # omega^T = 1/4
    found = policy.adapted(tf.constant(1.0), tf.constant(ratio))
    assert found.numpy() == pytest.approx(factor)


def test_lambda_stays_within_its_bounds():
    policy = LevenbergMarquardt(1.0, omega=0.5, every=1, minimum=0.75, maximum=1.5)
    assert policy.adapted(tf.constant(1.0), tf.constant(1.0)).numpy() == pytest.approx(0.75)
    assert policy.after_rejection(tf.constant(1.0)).numpy() == pytest.approx(1.5)


def state(shape, initializer, dtype="float32", **kwargs):
    return keras.Variable(keras.initializers.get(initializer)(shape, dtype), dtype=dtype, trainable=False)


@pytest.mark.parametrize(
    "gradient, change, factor",
    [
        (-1.0, -1.5, 0.5),  # the model promises -1 - 1/2 and the loss keeps it
        (-1.0, -0.75, 1.0),
        (-1.0, 0.5, 2.0),
        (1.0, 0.5, 2.0),  # it promises a growth of 1/2, and is right: no reason to trust it further
        (1.0, 0.1, 2.0),
    ],
)
def test_a_step_of_which_no_decrease_is_promised_makes_lambda_grow(gradient, change, factor):
    damping = AdaptiveDamping(LevenbergMarquardt(1.0, omega=0.5, every=1), True, state)
    damping.build(state)
    damping.bent.assign(1.0)  # delta^T F delta
    loss, before = tf.constant(3.0 + change, tf.float64), tf.constant(3.0, tf.float64)
    no = tf.constant(False)
    judgement = Judgement(no, no, no, loss, before, no, no, no, past=None)
    damping.after_step(judgement, [tf.constant([gradient])], lambda: [tf.constant([1.0])], None, 1.0, None)
    assert damping.value(0).numpy() == pytest.approx(factor)
    assert damping.bent.numpy() == -1  # judged once


def test_caution_goes_by_the_examples_and_falls_back_in_steps():
    policy = Cautious(0.1, minimum=1e-3, maximum=1.0)
    lambdas = [policy.cautious(tf.constant(1.0), tf.constant(n)).numpy() for n in (0.0, 16.0, 64.0, 1e9)]
    assert np.allclose(lambdas, [0.1, 0.1, 0.025, 1e-3])
    assert policy.cautious(tf.constant(1e4), tf.constant(1e9)).numpy() == pytest.approx(1.0)


def test_caution_grows_where_more_than_one_gradient_in_nine_is_a_surprise():
    policy = Cautious(0.1, minimum=1e-3, maximum=1.0)
    damping = AdaptiveDamping(policy, False, state)
    known = types.SimpleNamespace(averages_batches=True, weight=2.0)
    no, one = tf.constant(False), tf.ones((), tf.float64)
    judgement = Judgement(no, no, no, one, one, no, no, no, past=None)

    def step(surprise):
        u = tf.constant(surprise, tf.float64)
        damping.after_step(judgement, [one], lambda: [one], known, 160.0, u)
        return float(damping.variable.numpy())

    assert step(1.0) == pytest.approx(0.02)  # 0.1 * 16 / 160, for a weight of 2
    for calm, grows in ((7, True), (8, None), (9, False)):
        damping.caution.assign(10.0)
        step(1.1)
        for _ in range(calm):
            step(0.9)
        after = float(damping.caution.numpy())
        assert after == pytest.approx(10.0, rel=1e-5) if grows is None else (after > 10.1) == grows
    for surprise, times in ((1.1, 0.95**-8), (8.0, 2.0), (1e6, 10.0)):
        damping.caution.assign(10.0)
        step(surprise)
        assert damping.caution.numpy() == pytest.approx(10.0 * times, rel=1e-5)
    for _ in range(40):
        step(1.1)
    assert damping.caution.numpy() == pytest.approx(1e3)  # as much as the largest has, and no more
    assert damping.variable.numpy() == pytest.approx(2.0)
    for _ in range(200):
        step(0.9)
    assert damping.variable.numpy() == pytest.approx(0.02)


def test_caution_stays_finite_whatever_the_bounds():
    damping = AdaptiveDamping(Cautious(1.0, minimum=1e-30, maximum=1e30), False, state)
    damping.caution.assign(1e38)
    damping.after_rejection(types.SimpleNamespace(weight=1.0))
    assert np.isfinite(damping.caution.numpy())


def line(dtype, optimizer):
    """A regression without noise, in this dtype; its steps are eager."""
    model = kfisher.Sequential([keras.Input((3,), dtype=dtype), keras.layers.Dense(1, dtype=dtype)])
    model.compile(optimizer, keras.losses.MeanSquaredError(dtype=dtype), run_eagerly=True)
    x = np.random.default_rng(0).normal(size=(40, 3))
    return model, x, x @ np.ones((3, 1))


@pytest.mark.parametrize("dtype, falls", [("float64", True), ("float32", False)])
def test_the_damping_of_an_exact_fisher_follows_a_whole_data_set_in_float64(dtype, falls):
    model, x, y = line(dtype, NaturalGradient(fisher="exact", curvature="gram", seed=0))
    dampings = []
    for _ in range(25):
        model.train_on_batch(x, y)
        dampings.append(float(model.optimizer.damping))
    assert dampings[0] == pytest.approx(1e-4)
    assert dampings == sorted(dampings, reverse=True)
    assert (dampings[-1] < 1e-6) == falls and (dampings[-1] == dampings[0]) != falls


def test_batches_that_differ_leave_it_where_it_was():
    model, x, y = line("float64", NaturalGradient(fisher="exact", curvature="gram", seed=0))
    noise = np.random.default_rng(1).normal(size=(60, 40, 1))
    for n in noise:
        model.train_on_batch(x, y + 0.1 * n)
    assert float(model.optimizer.damping) > 1e-5


@pytest.mark.parametrize(
    "fisher, damping", [("exact", 1e-4), ("sampled", 0.08 / 40), ("empirical", 0.08 / 40)]
)
def test_of_an_estimate_from_one_batch_the_damping_goes_by_its_examples(fisher, damping):
    model, x, y = line("float32", NaturalGradient(fisher=fisher, curvature="gram", seed=0))
    for _ in range(2):
        model.train_on_batch(x, y)
    assert float(model.optimizer.damping) == pytest.approx(damping, rel=1e-5)
    # 20 with four times the weight of the others: 50² / 85 of equal weight, whose mean is 50 / 40.
    model, x, y = line("float32", NaturalGradient(fisher=fisher, curvature="gram", seed=0))
    for _ in range(2):
        model.train_on_batch(x, y, np.repeat([2.0, 0.5], 20))
    known = 1.25 * (damping if fisher == "exact" else 0.08 / (50**2 / 85))
    assert float(model.optimizer.damping) == pytest.approx(known, rel=1e-5)


def test_that_of_an_estimate_does_not_follow_the_loss():
    model, x, y = line("float64", NaturalGradient(fisher="sampled", curvature="gram", seed=0))
    for _ in range(25):
        model.train_on_batch(x, y)
    assert float(model.optimizer.damping) == pytest.approx(0.08 / 40, rel=1e-5)


def test_a_sum_over_the_examples_is_followed_as_their_mean_is():
    """λ is in the units of the loss, and so is how far it falls with it."""
    dampings = []
    for reduction in ("sum_over_batch_size", "sum"):
        model, x, y = line("float64", NaturalGradient(fisher="exact", curvature="gram", seed=0))
        loss = keras.losses.MeanSquaredError(reduction, dtype="float64")
        model.compile(model.optimizer, loss, run_eagerly=True)
        model.set_weights([np.zeros((3, 1)), np.zeros(1)])
        for _ in range(25):
            model.train_on_batch(x, y)
        dampings.append(float(model.optimizer.damping))
    assert dampings[1] == pytest.approx(40 * dampings[0], rel=1e-4) and dampings[0] < 1e-6


@pytest.mark.parametrize("curvature", ["kfac", "gram"])
def test_without_a_region_it_goes_by_the_examples_and_the_units_of_the_loss(curvature):
    model, x, y = line("float64", NaturalGradient(curvature=curvature, trust_region=None, seed=0))
    model.compile(model.optimizer, keras.losses.MeanSquaredError("sum", dtype="float64"), run_eagerly=True)
    for _ in range(1 if curvature == "gram" else 2):  # K-FAC has its inverses before
        model.train_on_batch(x, y)
    known = 40 * (1 + 0.95) if curvature == "kfac" else 40
    assert float(model.optimizer.damping) == pytest.approx(40 * 0.08 / known, rel=1e-5)


def test_without_a_region_what_is_set_falls_back_too():
    model, x, y = line("float32", NaturalGradient(curvature="gram", trust_region=None, seed=0))
    for step in range(160):
        if step == 1:
            model.optimizer.damping = 1.0
        model.train_on_batch(x, y)
    assert float(model.optimizer.damping) == pytest.approx(0.08 / 40, rel=1e-3)


@pytest.mark.parametrize("curvature", ["gram", "dense", "matrix_free"])
@pytest.mark.parametrize("region", ["auto", None])
def test_a_first_batch_without_weight_costs_its_own_step_alone(curvature, region):
    """The damping is in the units of what values weigh together: of nothing it would be zero, for good."""
    options = {"fisher": "exact", "curvature": curvature, "trust_region": region}
    model, x, y = line("float64", NaturalGradient(learning_rate=0.1, seed=0, **options))
    model.train_on_batch(x, y, np.zeros(len(x)))
    for _ in range(3):
        model.train_on_batch(x, y)
    assert int(model.optimizer.skipped_steps) == 1
    assert 0 < float(model.optimizer.damping) < 1


@pytest.mark.parametrize("policy", [Cautious, LevenbergMarquardt])
def test_bounds_alone_move_the_first_damping_between_them(policy):
    default = policy().initial
    assert policy(minimum=2 * default).initial == 2 * default
    assert policy(maximum=default / 2).initial == default / 2
    assert policy(minimum=default / 2, maximum=2 * default).initial == default
    assert policy.from_config(policy(minimum=2 * default).get_config()).minimum == 2 * default
    with pytest.raises(ValueError, match="between `minimum` and `maximum`"):
        policy(default, minimum=2 * default)  # what is given is not changed
