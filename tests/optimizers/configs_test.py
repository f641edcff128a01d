"""Optimizers, policies and curvatures as configurations, and the wrong arguments that they name."""

import inspect

import keras
import numpy as np
import pytest

import kfisher
from kfisher import curvature as curvatures
from kfisher.curvature import EKFAC, KFAC, Dense, Diagonal, Gram, MatrixFree
from kfisher.damping import Cautious, Constant, LevenbergMarquardt
from kfisher.diagnosis.verdict import damping_of
from kfisher.optimizers import ImprovedEmpiricalFisher, NaturalGradient, SophiaG

BASE = {"seed": 7, "weight_decay": 0.1, "clipnorm": 2.0, "use_ema": True, "name": "named"}
OBJECTS = [
    KFAC(0.9, 3, 7, "reduce", 100, 64, 0.2),
    EKFAC(0.9, 3, 7, "reduce", 100, None),
    Diagonal(0.9, 3, False, 64),
    Dense(),
    Gram(0.9),
    MatrixFree(7, 1e-3),
    Constant(0.5),
    Cautious(0.5, 0.1, 2.0),
    LevenbergMarquardt(0.5, 0.9, 3, 1e-3, 10.0),
    SophiaG(0.1, 0.9, 0.8, 0.7, 1e-6, 3, **BASE),
    ImprovedEmpiricalFisher(0.1, Gram(0.9), 0.2, 0.3, 0.4, **BASE),
    NaturalGradient(
        0.1,
        kfisher.Sampled(3),
        KFAC(0.9),
        LevenbergMarquardt(0.5),
        0.3,
        0.4,
        "quadratic_model",
        kfisher.likelihoods.Normal(scale=2.0),
        gradient_accumulation_steps=3,
        **BASE,
    ),
]


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda thing: type(thing).__name__)
def test_a_config_keeps_everything(thing):
    config = keras.saving.serialize_keras_object(thing)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(thing) and again is not thing
    assert keras.saving.serialize_keras_object(again) == config
    assert config["registered_name"] == f"kfisher>{type(thing).__name__}"


def test_every_argument_is_in_the_config():
    for thing in OBJECTS[:9]:
        assert set(thing.get_config()) == set(inspect.signature(type(thing)).parameters)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: KFAC(decay=1.0), "decay=1.0"),
        (lambda: KFAC(update_every=0), "update_every=0"),
        (lambda: KFAC(invert_every=2.5), "invert_every=2.5"),
        (lambda: KFAC(sharing="both"), "sharing='both'"),
        (lambda: KFAC(max_factor_size=0), "max_factor_size=0"),
        (lambda: EKFAC(decay="slow"), "decay='slow'"),
        (lambda: EKFAC(basis_every=True), "basis_every=True"),
        (lambda: Diagonal(update_every=-1), "update_every=-1"),
        (lambda: Diagonal(max_examples=0), "max_examples=0"),
        (lambda: MatrixFree(max_iterations=0), "max_iterations=0"),
        (lambda: MatrixFree(tolerance=0.0), "tolerance=0.0"),
        (lambda: Gram(momentum=1.0), "momentum=1.0"),
        (lambda: NaturalGradient(momentum="fast"), "momentum=.fast"),
        (lambda: Constant(0.0), "initial=0.0"),
        (lambda: Cautious(-1.0), "initial=-1.0"),
        (lambda: Cautious(10.0, 0.1, 1.0), "initial=10.0, minimum=0.1, maximum=1.0"),
        (lambda: LevenbergMarquardt(omega=1.0), "omega=1.0"),
        (lambda: LevenbergMarquardt(every=0), "every=0"),
        (lambda: LevenbergMarquardt(minimum=-1.0), "minimum=-1.0"),
        (lambda: LevenbergMarquardt(10.0, maximum=1.0), "initial=10.0"),
        (lambda: ImprovedEmpiricalFisher(curvature="kfac"), "curvature='kfac'"),
        (lambda: SophiaG(gamma=0.0), "gamma=0.0"),
        (lambda: SophiaG(beta_1=1.0), "beta_1=1.0"),
        (lambda: SophiaG(beta_2=1.0), "=1.0"),
        (lambda: SophiaG(epsilon=0.0), "=0.0"),
        (lambda: SophiaG(update_every=0), "update_every=0"),
        (lambda: curvatures.get("k-fac"), "curvature='k-fac'"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=f"Received: .*{message}"):
        make()


@pytest.mark.parametrize(
    "curvature, trust_region, share",
    [
        ("kfac", "auto", 0.5),
        ("diagonal", 1.0, 0.5),
        ("kfac", None, 0.0),
        ("gram", "auto", 0.0),
        ("dense", "auto", 0.0),
        ("matrix_free", "auto", 0.0),
    ],
)
def test_gradients_are_averaged_where_curvature_is_and_steps_are_bounded(curvature, trust_region, share):
    assert NaturalGradient(curvature=curvature, trust_region=trust_region).momentum == share


@pytest.mark.parametrize("name", ["damping", "momentum", "trust_region", "step", "fisher", "curvature"])
def test_sophia_refuses_what_its_steps_leave_no_room_for(name):
    said = f"argument.*'{name}'|Argument.*'{name}': 0.5|takes no `{name}`"
    with pytest.raises((TypeError, ValueError), match=said):
        SophiaG(**{name: 0.5})


def test_sophia_has_no_damping_and_is_told_what_it_has():
    model = kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(SophiaG(), "mse", run_eagerly=True)
    x, y = np.ones((8, 3)), np.full((8, 1), np.nan)
    with pytest.warns(UserWarning, match="the labels were not finite"):
        model.fit(x, y, epochs=6, verbose=0)
    assert model.optimizer.damping is None
    for _ in range(6):
        model.train_on_batch(x, np.full((8, 1), 1e38))
    assert "a lower `learning_rate` makes steps shorter" in model.optimizer.trouble()
    assert "damping" not in model.optimizer.trouble().partition("Received: ")[2]
    assert damping_of(model) is None  # so that `diagnose` takes a share of F, and not ε


def test_a_curvature_with_state_belongs_to_one_optimizer():
    curvature = KFAC()
    for first in (True, False):
        model = kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(NaturalGradient(curvature=curvature), "mse")
        if first:
            model.optimizer.build(model.trainable_variables)
            continue
        with pytest.raises(ValueError, match="already holds the curvature of another optimizer"):
            model.optimizer.build(model.trainable_variables)


@pytest.mark.parametrize(
    "name", ["natural_gradient", "empirical_natural_gradient", "improved_empirical_fisher", "sophia_g"]
)
def test_compile_knows_each_optimizer_by_its_name(name):
    model = kfisher.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer=name, loss="mse")
    assert model.optimizer.name == name
    saved = keras.saving.serialize_keras_object(model.optimizer)
    assert saved["registered_name"] == f"kfisher>{type(model.optimizer).__name__}"
