"""Steps that are left out: none spoils the weights, and each is reported by what was seen."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import models

import kfisher
from kfisher.optimizers import NaturalGradient, SophiaG

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = np.ones((8, 1), "float32")


def network(optimizer, **options):
    return models.network(optimizer, keras.layers.Identity(), loss="mse", outputs=1, **options)


class Once(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that is bad at one step."""

    def __init__(self, bad):
        self.bad = bad

    def __call__(self, step):
        return tf.where(tf.cast(step, tf.int32) == 1, tf.constant(self.bad, tf.float32), 0.1)

    def get_config(self):
        return {"bad": self.bad}


def gram(**options):
    return NaturalGradient(
        **{
            "learning_rate": 0.1,
            "curvature": "gram",
            "damping": 0.1,
            "trust_region": None,
            "seed": 0,
            **options,
        }
    )


RATES = {
    "infinite": lambda rate: gram(learning_rate=rate(np.inf)),
    "not a number, in the region": lambda rate: gram(learning_rate=rate(np.nan), trust_region=0.01),
    "larger than float32": lambda rate: gram(learning_rate=rate(3e38), damping=1e-3),
    "with momentum": lambda rate: gram(learning_rate=rate(np.inf), momentum=0.9),
    "weight decay": lambda rate: gram(learning_rate=rate(1e38), weight_decay=1e3),
    "averages": lambda rate: gram(learning_rate=rate(np.inf), use_ema=True, clipnorm=1.0),
    "sophia": lambda rate: SophiaG(rate(np.inf), seed=0),
    "sophia, weight decay": lambda rate: SophiaG(rate(1e38), weight_decay=1e3, use_ema=True, seed=0),
}


IN_GRAPHS = ("infinite", "not a number, in the region", "sophia, weight decay")


@pytest.mark.parametrize("name", RATES)
def test_a_rate_that_would_spoil_the_weights_has_the_step_skipped(name):
    model = network(RATES[name](Once), **(models.EAGER if name not in IN_GRAPHS else {}))
    values = []
    for _ in range(3):  # the second with the bad rate
        model.train_on_batch(X, Y)
        values.append([v.numpy() for v in (*model.variables, *model.optimizer.variables)])
    assert all(np.isfinite(v).all() for v in values[-1])
    assert int(model.optimizer.skipped_steps) == 1
    weights = [v[0] for v in values]
    assert sum(np.array_equal(a, b) for a, b in zip(weights, weights[1:])) == 1


def spoilt(value):
    x = X.copy()
    x[0, 0] = value
    return x


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_the_report_says_what_was_seen(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = network(gram())
        with pytest.warns(
            UserWarning,
            match="skipped 1 of 1 steps: in 1, the inputs were not finite",
        ):
            model.fit(spoilt(np.nan), Y, verbose=0)
        with pytest.warns(
            UserWarning, match="skipped 1 of 2 steps: in 1, the loss was not finite, although the batch was"
        ):
            model.fit(spoilt(3e38), Y, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(np.isfinite(w).all() for w in model.get_weights())


@pytest.mark.parametrize("what", ["inputs", "labels", "sample weights"])
def test_the_report_says_which_data_it_was(what):
    data = {"inputs": X.copy(), "labels": Y.copy(), "sample weights": np.ones(8, "float32")}
    data[what].flat[1] = np.nan
    model = network(gram(), **models.EAGER)
    with pytest.warns(UserWarning, match=f"skipped 1 of 1 steps: in 1, the {what} were not finite"):
        x, y, sample_weight = data.values()
        model.fit(x, y, sample_weight=sample_weight, verbose=0)


@pytest.mark.parametrize("what", ["inputs", "labels", "sample weights"])
def test_the_report_says_which_data_it_was_in_any_part_of_a_step(what):
    data = {"inputs": X.copy(), "labels": Y.copy(), "sample weights": np.ones(8, "float32")}
    data[what].flat[1] = np.nan  # of the first of two parts
    data["sample weights"][4:] = 0  # all of the second, which is no reason
    model = network(NaturalGradient(gradient_accumulation_steps=2, seed=0), **models.EAGER)
    with pytest.warns(UserWarning, match=f"skipped 1 steps or parts: in 1, the {what} were not finite"):
        x, y, sample_weight = data.values()
        model.fit(x, y, sample_weight=sample_weight, batch_size=4, shuffle=False, verbose=0)
    with pytest.warns(
        UserWarning, match="in 1, the loss was not finite, although"
    ):  # the next step begins anew
        model.fit(X, 1e38 * Y, batch_size=4, verbose=0)
    assert int(model.optimizer.skipped_steps) == 2


def test_weights_that_are_all_zero_are_not_blamed_on_the_inputs():
    model = network(NaturalGradient(0.1, curvature="diagonal", seed=0), **models.EAGER)
    with pytest.warns(UserWarning, match="in 1, all sample weights were zero."):
        model.fit(X, Y, sample_weight=np.zeros(8), verbose=0)


def test_a_loss_scale_that_is_too_large_is_an_overflow_of_the_gradient():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network(keras.optimizers.LossScaleOptimizer(gram(), initial_scale=1e30))
        with pytest.warns(
            UserWarning, match="skipped 1 of 1 steps: in 1, the gradient was not finite, although"
        ):
            model.fit(X, Y, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network(gram(), **models.EAGER).fit(X, Y, verbose=0)


def test_a_part_that_is_kept_back_has_its_step_begin_anew():
    """Its gradient is missing, so the step that it was to be a part of is that of the next two."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inner = NaturalGradient(
            curvature=kfisher.curvature.KFAC(update_every=1), gradient_accumulation_steps=2, seed=0
        )
        model = network(keras.optimizers.LossScaleOptimizer(inner, initial_scale=1.0), **models.EAGER)
        parts = [X, spoilt(np.nan), X, X, X]
        for i, x in enumerate(parts):
            model.train_on_batch(x, Y)
            assert int(inner.iterations) == (i > 2) and int(inner.skipped_steps) == (i > 0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(np.isfinite(v).all() for pair in inner.curvature.averages for v in map(np.array, pair))
    assert int(inner.curvature.updates) == 1


@pytest.mark.parametrize("curvature", ["kfac", "gram"])
def test_counts_of_a_row_that_is_nan_are_drawn_and_the_step_skipped(curvature):
    """The sampler of Poisson counts searches for ever where the rate is NaN."""
    x = X.copy()
    x[3] = np.nan
    model = models.network(
        NaturalGradient(curvature=curvature),
        keras.layers.Activation("exponential"),
        loss="poisson",
        outputs=1,
    )
    before = model.get_weights()
    with pytest.warns(UserWarning, match="in 1, the inputs were not finite"):
        model.fit(x, Y, batch_size=8, verbose=0)
    assert int(model.optimizer.skipped_steps) == 1
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


@pytest.mark.parametrize("curvature", ["kfac", "ekfac", "diagonal"])
def test_bad_first_batches_cost_their_own_steps_alone(curvature):
    """F is measured at the next good batch, and not only when the schedule comes round: not at the fourth."""
    x = np.tile(X, (4, 1))
    x[[3, 11, 19]] = np.nan
    model = network(NaturalGradient(curvature=curvature))
    with pytest.warns(UserWarning, match="skipped 3 of 4 steps"):
        model.fit(x, np.tile(Y, (4, 1)), batch_size=8, shuffle=False, verbose=0)
    assert int(model.optimizer.skipped_steps) == 3


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: NaturalGradient(curvature="diagonal", trust_region=None),
        lambda: NaturalGradient(trust_region=None, damping=kfisher.damping.LevenbergMarquardt()),
        lambda: SophiaG(),
    ],
    ids=["no guard", "a guard that bounds nothing", "sophia"],
)
def test_a_loss_that_is_nan_with_a_gradient_that_is_not_is_skipped(optimizer):
    """As XLA makes of one that is multiplied by NaN where Keras has clipped its outputs."""

    @tf.custom_gradient
    def spoilt(loss):
        return loss * float("nan"), lambda upstream: 0 * loss

    class Spoilt(keras.losses.MeanSquaredError):
        def __call__(self, y_true, y_pred, sample_weight=None):
            loss = super().__call__(y_true, y_pred, sample_weight)
            return tf.cond(tf.reduce_any(y_true > 9), lambda: spoilt(loss), lambda: loss)

    model = models.network(optimizer(), loss=Spoilt(), outputs=1, **models.EAGER)
    for _ in range(2):
        model.train_on_batch(X, Y)
    before = model.get_weights()
    model.train_on_batch(X, Y + 10)
    assert int(model.optimizer.skipped_steps) == 1
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before))
    if model.optimizer.guard is not None:
        assert all(np.isfinite(float(number)) for number in model.optimizer.guard.memory.read())
