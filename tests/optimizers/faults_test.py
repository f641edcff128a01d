"""A table of faults in front of every optimizer: whatever goes wrong in a step, no weight is ever not finite.

A model is traced once, and is put back to where it was before each fault: in front of a step at which running
curvatures look at the batch, and of one at which they do not.
"""

import contextlib
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import kfisher
from kfisher.curvature import _damped_inverse, _factorisation
from kfisher.damping import LevenbergMarquardt
from kfisher.optimizers import ImprovedEmpiricalFisher, NaturalGradient, SophiaG

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(8, 3)).astype("float32"), RNG.normal(size=(8, 2)).astype("float32")
RATE = tf.Variable(0.1, trainable=False)


class Given(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that is whatever RATE is set to."""

    def __call__(self, step):
        return tf.convert_to_tensor(RATE)

    def get_config(self):
        return {}


OPTIMIZERS = {
    f"{curvature}, {fisher}": lambda c=curvature, f=fisher: NaturalGradient(Given(), f, c, seed=0)
    for curvature, fisher in itertools.product(
        ("kfac", "ekfac", "diagonal", "gram", "dense", "matrix_free"), ("exact", "sampled", "empirical")
    )
}
OPTIMIZERS |= {
    "textbook": lambda: NaturalGradient(Given(), momentum=0.9, trust_region=None, seed=0),
    "quadratic model": lambda: NaturalGradient(
        Given(), step="quadratic_model", damping=LevenbergMarquardt(1e-2, every=1), seed=0
    ),
    "spring": lambda: NaturalGradient(
        Given(), "exact", kfisher.curvature.Gram(0.9), weight_decay=1e-3, use_ema=True, clipnorm=1.0, seed=0
    ),
    "improved": lambda: ImprovedEmpiricalFisher(Given(), seed=0),
    "sophia": lambda: SophiaG(Given(), update_every=4, seed=0),
}


class Passing(keras.layers.Layer):
    """The identity, whose gradient is multiplied by a number."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, x):
        factor = tf.convert_to_tensor(self.factor)
        return tf.custom_gradient(lambda x: (tf.identity(x), lambda gradient: gradient * factor))(x)


def network(optimizer):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, "tanh"), keras.layers.BatchNormalization(), Passing()]
    model = kfisher.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(2)])
    model.compile(optimizer, keras.losses.MeanSquaredError())
    return model


def inner(model):
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


# --- the faults: a block in which a step is taken, and its batch --------------------------------------


def first(array, value):
    changed = array.copy()
    changed.flat[0] = value
    return changed


def batch(x=X, y=Y, weights=None):
    return lambda model: contextlib.nullcontext(), (
        x,
        y,
        np.ones(8, "float32") if weights is None else weights,
    )


def put(variables, value):
    """The same batch, with some variables at a value for the length of the step."""

    @contextlib.contextmanager
    def block(model):
        found = variables(model)
        before = [v.numpy() for v in found]
        for v in found:
            v.assign(tf.fill(v.shape, tf.cast(value, v.dtype)))
        yield
        for v, old in zip(found, before):
            v.assign(old)

    return block, batch()[1]


class Broken:
    """LAPACK, of which every routine says that it failed."""

    def __getattr__(self, name):
        results = {"syevd": (None, None, 1), "pstrf": (np.zeros((1, 1)), None, 0, 1)}
        return lambda *args, **kwargs: results.get(name, (None, 1))

    def get_lapack_funcs(self, names, *args, **kwargs):
        return [getattr(self, name) for name in names]


@contextlib.contextmanager
def without_lapack(model):
    with pytest.MonkeyPatch.context() as patch:
        for module in (_factorisation, _damped_inverse):
            patch.setattr(module, "lapack", Broken())
        yield


def factors(model):
    """What a running curvature keeps: averages, and what was made of them."""
    kept = [getattr(inner(model).curvature, name, []) for name in ("averages", "eigenvalues", "inverses")]
    flat = [v for v in keras.tree.flatten(kept) if v is not None]
    flat = [v for thing in flat for v in getattr(thing, "variables", [thing])]
    return [v for v in flat if tf.as_dtype(v.dtype).is_floating]


def scale(model):
    return [model.optimizer.dynamic_scale] if model.optimizer is not inner(model) else []


LEFT_OUT, REFUSED, ANY = "left out", "refused", "taken or left out"
NAN, INF = np.nan, np.inf
FAULTS = {
    "NaN in an input": (LEFT_OUT, *batch(first(X, NAN))),
    "infinite input": (LEFT_OUT, *batch(first(X, INF))),
    "an input of 3e38": (ANY, *batch(first(X, 3e38))),
    "all inputs 1e30": (ANY, *batch(1e30 * X)),
    "NaN label": (LEFT_OUT, *batch(y=first(Y, NAN))),
    "infinite label": (LEFT_OUT, *batch(y=first(Y, INF))),
    "labels of another problem": (ANY, *batch(y=1e6 * Y)),
    "labels whose squares overflow": (LEFT_OUT, *batch(y=1e30 * Y)),
    "NaN weight": (LEFT_OUT, *batch(weights=first(np.ones(8, "float32"), NAN))),
    "infinite weight": (LEFT_OUT, *batch(weights=first(np.ones(8, "float32"), INF))),
    "negative weight": (REFUSED, *batch(weights=first(np.ones(8, "float32"), -1))),
    "no example counts": (ANY, *batch(weights=np.zeros(8, "float32"))),
    "NaN gradient": (LEFT_OUT, *put(lambda model: [model.layers[2].factor], NAN)),
    "infinite gradient": (LEFT_OUT, *put(lambda model: [model.layers[2].factor], INF)),
    "a gradient of 1e30": (ANY, *put(lambda model: [model.layers[2].factor], 1e30)),
    "infinite rate": (LEFT_OUT, *put(lambda model: [RATE], INF)),
    "NaN rate": (LEFT_OUT, *put(lambda model: [RATE], NAN)),
    "a rate of 3e38": (ANY, *put(lambda model: [RATE], 3e38)),
    "NaN factors": (ANY, *put(factors, NAN)),
    "infinite factors": (ANY, *put(factors, INF)),
    "LAPACK fails": (ANY, without_lapack, batch()[1]),
    "NaN weight of the model": (ANY, *put(lambda model: [model.layers[-1].kernel], NAN)),
    "a weight of 1e30": (ANY, *put(lambda model: [model.layers[-1].kernel], 1e30)),
    "a loss scale of 3e38": (ANY, *put(scale, 3e38)),
}


def failures(model, name):
    """What is wrong with one step in front of each fault, and with two good ones behind it."""
    optimizer, outcome = inner(model), FAULTS[name][0]
    _, block, (x, y, weights) = FAULTS[name]
    if "rate" in name and getattr(optimizer, "step", "") == "quadratic_model":
        outcome = ANY  # it chooses its own

    def count():
        return int(optimizer.skipped_steps) + int(getattr(optimizer, "rejected_steps", 0))

    # An error in a graph may come after the statistics of BatchNormalization have moved, but before a weight.
    kept = model.trainable_variables if outcome == REFUSED else model.variables
    steps, counted, before = int(optimizer.iterations), count(), [v.numpy() for v in kept]
    try:
        with block(model):
            model.train_on_batch(x, y, sample_weight=weights)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        if outcome != REFUSED:
            yield f"raised {error}"
        if int(optimizer.iterations) != steps:
            yield "was refused and counted"
    else:
        if int(optimizer.iterations) != steps + 1:
            yield "was not counted"
        if outcome == LEFT_OUT and count() != counted + 1:
            yield "was not counted as left out"
        if outcome == REFUSED:
            yield "was not refused"
    if not all(np.isfinite(w).all() for w in model.get_weights()):
        yield "left a weight that is not finite"
    if outcome in (LEFT_OUT, REFUSED) and any(not np.array_equal(a, v) for a, v in zip(before, kept)):
        yield "changed a weight"
    for _ in range(2):
        model.train_on_batch(X, Y, sample_weight=np.ones(8, "float32"))
        if not all(np.isfinite(w).all() for w in model.get_weights()):
            yield "left a weight that is not finite after it"


SCALED = [
    (name, True) for name in ("kfac, sampled", "gram, exact", "matrix_free, empirical", "spring", "sophia")
]


@pytest.mark.slow
@pytest.mark.by_hand
@pytest.mark.parametrize("name, scaled", [(name, False) for name in OPTIMIZERS] + SCALED)
def test_no_fault_makes_a_weight_not_finite(name, scaled):
    optimizer = OPTIMIZERS[name]()
    model = network(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer)
    found = []
    for steps in (
        3,
        1,
    ):  # to step 3, at which running curvatures rest, and on to step 4, at which they do not
        for _ in range(steps):
            model.train_on_batch(X, Y, sample_weight=np.ones(8, "float32"))
        kept = [(v, v.numpy()) for v in (*model.variables, *model.optimizer.variables, *optimizer.variables)]
        for fault in FAULTS:
            for variable, value in kept:
                variable.assign(value)
            found += [
                f"{fault} at step {int(optimizer.iterations)}: {what}" for what in failures(model, fault)
            ]
        for variable, value in kept:
            variable.assign(value)
    assert not found, "\n".join(found)
