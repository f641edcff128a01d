"""Wrong arguments of everything public: told at once, by name, with what was received, and nothing changed.

A row of the table is a callable that works with the defaults here, one of its arguments, and the values that
are wrong for it. A second table holds NumPy's scalars, which pass wherever Python's numbers do.
"""

import functools
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.fisher_logs import make_measurement
from matplotlib.figure import Figure

import kfisher
from kfisher import callbacks, curvature, damping, datasets, likelihoods, losses, optimizers, plots, spectra
from kfisher._common.checks import shown

NAN, INF = float("nan"), float("inf")

# --- values that are wrong for ... ------------------------------------------------------------------

NO_NUMBER = ["1", True, np.True_, 1j, np.ones(2), [1.0], {}]
NOT_POSITIVE = [0.0, -1.0, NAN, INF, -INF, *NO_NUMBER]
# In float32 the first is 0, the second infinite.
NOT_POSITIVE_32 = [1e-50, 1e39, *NOT_POSITIVE]
NO_INTEGER = [1.5, 2.0, NAN, "2", True, np.True_, [2], np.ones(1, int)]
NOT_POSITIVE_INTEGER = [0, -1, None, *NO_INTEGER]
NO_COUNT = [0, -1, *NO_INTEGER]  # where `None` has a meaning
BELOW_1 = [-0.1, 1.0, 1.5, NAN, None, "a", True, [0.5]]
FROM_0_TO_1 = [-0.1, 1.1, 2, NAN, INF, None, "a", True]
BETWEEN_0_AND_1 = [0, 1.0, -0.5, NAN, None, "a", True]
NO_SEED = [-1, 2**31, 0.5, "a", True, np.ones(2, int)]
NO_BOOL = ["yes", 2, 0.5, NAN, None, [True]]
NO_DIRECTORY = [5, None, b"logs", "", ["a"]]
NO_MODEL = [None, "model", 3, keras.Model, keras.layers.Dense(1), {}]
NO_FISHER = ["true", None, 3, kfisher.Exact, {}, [], {"class_name": None}]
NO_CURVATURE = ["k-fac", 3, curvature.KFAC, {}, [], {"config": {}}]
NO_LIKELIHOOD = ["normal", 3, likelihoods.Normal, {}, []]
NO_RATE = [-1e-3, NAN, INF, -INF, "fast", None, True, [0.1], {}, keras.optimizers.schedules.CosineDecay]
NO_DAMPING = [*NOT_POSITIVE_32, None, "large", damping.Cautious]
NO_FREQUENCY = [0, -1, "step", None, *NO_INTEGER]
NO_THRESHOLDS = [0.7, "strict", {}, kfisher.Thresholds]
NO_FUNCTION = [3, None, "normal"]
NO_STEP = [-1, "last", *NO_INTEGER]
NO_EXAMPLES = [3, object(), [1.0, 2.0]]

# --- callables with defaults that work --------------------------------------------------------------


def network(**arguments):
    model = kfisher.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, activation="tanh"), keras.layers.Dense(1)]
    )
    model.compile(**arguments)
    return model


X = np.random.default_rng(0).normal(size=(7, 3)).astype("float32")
Y = np.ones((7, 1), "float32")
MODEL = network(optimizer=optimizers.NaturalGradient(seed=0), loss="mse")
MODEL.optimizer.build(MODEL.trainable_variables)
OPERATOR = tf.linalg.LinearOperatorDiag(tf.range(1.0, 6.0))
DENSITY = spectra.Density(np.ones((1, 2)), np.full((1, 2), 0.5), 2)
AXES = Figure().add_subplot()
MEASUREMENT = make_measurement(3, 0.5, np.random.default_rng(0), 20, 30)
LOG = kfisher.Log("log", steps={"step": np.arange(1, 4), "cosine": np.ones(3)}, measurements=[MEASUREMENT])

OPTIMIZERS = {
    "NaturalGradient": optimizers.NaturalGradient,
    "EmpiricalNaturalGradient": optimizers.EmpiricalNaturalGradient,
    "ImprovedEmpiricalFisher": optimizers.ImprovedEmpiricalFisher,
    "SophiaG": optimizers.SophiaG,
}
FISHER_OPTIMIZERS = [name for name in OPTIMIZERS if name != "SophiaG"]
RUNNING = {"KFAC": curvature.KFAC, "EKFAC": curvature.EKFAC, "Diagonal": curvature.Diagonal}
POLICIES = {"Cautious": damping.Cautious, "LevenbergMarquardt": damping.LevenbergMarquardt}
SPECTRA = {
    "FisherSpectra": functools.partial(callbacks.FisherSpectra, log_dir="logs"),
    "FisherDiagnosis": functools.partial(callbacks.FisherDiagnosis, log_dir="logs"),
}
MEASURING = {**SPECTRA, "TensorBoard": functools.partial(callbacks.TensorBoard, log_dir="logs")}
STEPPED = {name: getattr(plots, name) for name in ("spectra", "ratio_eigenvalues", "overlap", "layers")}
OVER_STEPS = {name: getattr(plots, name) for name in ("cosine", "gamma", "step_lengths", "steps")}


def diagnose(**arguments):
    return kfisher.diagnose(**{"model": MODEL, "x": X, "y": Y, **arguments})


def operator(**arguments):
    return kfisher.FisherOperator(**{"model": MODEL, "x": X, "y": Y, **arguments})


def chart(draw, **arguments):
    return draw(**{"source": LOG, "ax": AXES, **arguments})


def set_damping(value):
    optimizer = optimizers.NaturalGradient(damping=0.5)
    try:
        optimizer.damping = value
    finally:
        assert float(optimizer.damping) == 0.5


def likelihood_of(loss, **arguments):
    return likelihoods.from_loss(loss(**arguments))


CASES = []


def wrong(label, make, **values):
    """Rows of the table: each argument of `make` with each of its wrong values."""
    for name, each in values.items():
        CASES.append(pytest.param(make, name, each, id=f"{label}-{name}"))


for label, make in OPTIMIZERS.items():
    wrong(label, make, learning_rate=NO_RATE, seed=NO_SEED, likelihood=NO_LIKELIHOOD)
    wrong(label, make, weight_decay=[-0.1, NAN, INF, "a", True], use_ema=NO_BOOL, ema_momentum=FROM_0_TO_1)
    wrong(label, make, clipnorm=NOT_POSITIVE, clipvalue=NOT_POSITIVE, global_clipnorm=NOT_POSITIVE)
    wrong(label, make, loss_scale_factor=NOT_POSITIVE, ema_overwrite_frequency=NO_COUNT, name=[3, "", [None]])
    wrong(label, make, gradient_accumulation_steps=[1, 0, -2, 2.5, "3", True, NAN])
for label in FISHER_OPTIMIZERS:
    make = OPTIMIZERS[label]
    wrong(label, make, curvature=NO_CURVATURE, damping=NO_DAMPING, momentum=BELOW_1)
    wrong(label, make, trust_region=[*NOT_POSITIVE_32, "wide"], step=["long", None, 1, np.ones(2)])
wrong("NaturalGradient", optimizers.NaturalGradient, fisher=NO_FISHER)
wrong("ImprovedEmpiricalFisher", optimizers.ImprovedEmpiricalFisher, curvature=["kfac", curvature.EKFAC()])
# Which one it is says the class.
for label in ("EmpiricalNaturalGradient", "ImprovedEmpiricalFisher", "SophiaG"):
    wrong(label, OPTIMIZERS[label], fisher=["exact", "empirical", kfisher.Exact()])
wrong("SophiaG", optimizers.SophiaG, curvature=["kfac", curvature.Diagonal()])
wrong("SophiaG", optimizers.SophiaG, beta_1=BELOW_1, beta_2=BELOW_1, gamma=NOT_POSITIVE_32)
wrong("SophiaG", optimizers.SophiaG, epsilon=NOT_POSITIVE_32, update_every=NOT_POSITIVE_INTEGER)
wrong("damping=", lambda damping: set_damping(damping), damping=[*NOT_POSITIVE_32, None])

for label, make in RUNNING.items():
    wrong(label, make, decay=BELOW_1, update_every=NOT_POSITIVE_INTEGER, max_examples=NO_COUNT)
for make in (curvature.KFAC, curvature.EKFAC):
    wrong(make.__name__, make, sharing=["both", None, 3, ["expand"]], max_factor_size=NOT_POSITIVE_INTEGER)
    wrong(make.__name__, make, max_memory=[0, -1, NAN, INF, "all", True, [1e9]])
    wrong(make.__name__, make, share_factorisations=NO_BOOL)
wrong("KFAC", curvature.KFAC, invert_every=NO_COUNT, tail=FROM_0_TO_1)
wrong("EKFAC", curvature.EKFAC, basis_every=NOT_POSITIVE_INTEGER)
wrong("Diagonal", curvature.Diagonal, corrected=NO_BOOL)
wrong("Gram", curvature.Gram, momentum=BELOW_1)
wrong("MatrixFree", curvature.MatrixFree, max_iterations=NOT_POSITIVE_INTEGER, tolerance=BETWEEN_0_AND_1)
wrong("curvature.get", lambda curvature: kfisher.curvature.get(curvature), curvature=[*NO_CURVATURE, None])
wrong(
    "coverage", lambda **a: kfisher.coverage(**{"model": MODEL, **a}), model=NO_MODEL, curvature=NO_CURVATURE
)
wrong("coverage", lambda **a: kfisher.coverage(**{"model": MODEL, **a}), x=NO_EXAMPLES)

wrong("Constant", damping.Constant, initial=[*NOT_POSITIVE_32, None])
for label, make in POLICIES.items():
    wrong(label, make, initial=[*NOT_POSITIVE_32, 1e4, 1e-20], minimum=[*NOT_POSITIVE_32, 1e4])
    wrong(label, make, maximum=[*NOT_POSITIVE_32, 1e-9])
wrong("LevenbergMarquardt", damping.LevenbergMarquardt, omega=BETWEEN_0_AND_1, every=NOT_POSITIVE_INTEGER)

wrong("Sampled", kfisher.Sampled, num_samples=NOT_POSITIVE_INTEGER)
wrong("Normal", likelihoods.Normal, scale=NOT_POSITIVE_32)
wrong("Laplace", likelihoods.Laplace, scale=NOT_POSITIVE_32)
wrong("Bernoulli", likelihoods.Bernoulli, from_logits=NO_BOOL, label_smoothing=FROM_0_TO_1)
wrong(
    "Categorical", likelihoods.Categorical, from_logits=NO_BOOL, sparse=NO_BOOL, label_smoothing=FROM_0_TO_1
)
wrong("Categorical", likelihoods.Categorical, axis=["a", None, *NO_INTEGER], ignore_class=["a", *NO_INTEGER])
wrong("DistributionLikelihood", likelihoods.DistributionLikelihood, make_distribution=NO_FUNCTION)
wrong("from_loss", likelihoods.from_loss, loss=["nonsense", None, 3, object(), "hinge", {}, int])
SMOOTHED = [keras.losses.BinaryCrossentropy, keras.losses.CategoricalCrossentropy]
for loss in SMOOTHED:
    wrong(loss.__name__, functools.partial(likelihood_of, loss), label_smoothing=[2, -0.5, NAN])
wrong("NegativeLogLikelihood", losses.NegativeLogLikelihood, make_distribution=NO_FUNCTION)
make = functools.partial(losses.NegativeLogLikelihood, lambda f: f)
wrong("NegativeLogLikelihood", make, reduction=["average", 3])

make = functools.partial(callbacks.StepStatistics, log_dir="logs")
wrong("StepStatistics", make, log_dir=NO_DIRECTORY, every=NOT_POSITIVE_INTEGER, per_layer=NO_BOOL)
for label, make in SPECTRA.items():
    wrong(label, make, freq=NO_FREQUENCY, examples=NOT_POSITIVE_INTEGER, write_images=NO_BOOL)
for label, make in MEASURING.items():
    wrong(label, make, log_dir=NO_DIRECTORY, probe=[3, (X,), [X, Y], (X, None), (X, Y[:3]), (3, 4), "x"])
    wrong(label, make, draws=NOT_POSITIVE_INTEGER, damping=NOT_POSITIVE, seed=[None, *NO_SEED])
    wrong(label, make, max_overhead=[0, 1.5, -0.1, NAN, "a", True], likelihood=NO_LIKELIHOOD)
    if label != "FisherSpectra":
        wrong(label, make, thresholds=NO_THRESHOLDS, verbose=["loud", 2, None])
make = MEASURING["TensorBoard"]
wrong("TensorBoard", make, statistics_freq=[-1, None, *NO_INTEGER], statistics_per_layer=NO_BOOL)
wrong(
    "TensorBoard", make, spectrum_freq=[-1, "step", None, *NO_INTEGER], spectrum_examples=NOT_POSITIVE_INTEGER
)
unused = functools.partial(make, spectrum_freq=0, statistics_freq=0)
wrong("TensorBoard-unused", unused, seed=NO_SEED, statistics_per_layer=NO_BOOL)

wrong("Thresholds", kfisher.Thresholds, cosine=[1.1, -2, NAN, "a", None, True], correlation=[-1.1, NAN, "a"])
wrong(
    "Thresholds", kfisher.Thresholds, length=[0.5, -1, NAN, INF, "a", None], ratio=[0.9, NAN, INF, "a", None]
)
wrong("Thresholds", kfisher.Thresholds, confidence=BETWEEN_0_AND_1, replicates=NOT_POSITIVE_INTEGER)
wrong("Thresholds", kfisher.Thresholds, directions=NOT_POSITIVE_INTEGER, gradient=[*NOT_POSITIVE_32, None])

for label, make in {"diagnose": diagnose, "FisherOperator": operator}.items():
    wrong(label, make, model=[*NO_MODEL, keras.Sequential([keras.layers.Dense(1)])], seed=[None, *NO_SEED])
    wrong(
        label,
        make,
        likelihood=NO_LIKELIHOOD,
        x=[None, *NO_EXAMPLES],
        sample_weight=[3.0, object(), "a", X[:2]],
    )
    wrong(label, make, y=[3.0, object(), np.array(["a"] * 7), Y[:5]])
wrong(
    "diagnose", diagnose, y=[None], draws=NOT_POSITIVE_INTEGER, damping=NOT_POSITIVE, thresholds=NO_THRESHOLDS
)
wrong("FisherOperator", operator, fisher=NO_FISHER, training=NO_BOOL, loss=["nonsense", 3, {"a": object()}])
wrong("attach", kfisher.attach, model=NO_MODEL)
wrong("detach", kfisher.detach, model=NO_MODEL)

for label in ("eigenvalues", "density"):
    wrong(label, getattr(spectra, label), operator=[np.eye(3), None, 3, "F"])
wrong("eigenvalues", functools.partial(spectra.eigenvalues, OPERATOR), k=[5, 6, *NO_COUNT])
make = functools.partial(spectra.density, OPERATOR)
wrong(
    "density", make, num_vectors=NOT_POSITIVE_INTEGER, num_steps=NOT_POSITIVE_INTEGER, seed=[None, *NO_SEED]
)
wrong("Density", lambda **a: DENSITY(**{"points": [0.5], "width": 0.1, **a}), width=[None, *NOT_POSITIVE])
wrong(
    "Density",
    lambda **a: DENSITY(**{"points": [0.5], "width": 0.1, **a}),
    points=["a", object(), [[1], [1, 2]]],
)
wrong("Density.mean", DENSITY.mean, function=NO_FUNCTION)

for label, draw in STEPPED.items():
    wrong(label, functools.partial(chart, draw), step=NO_STEP)
for label, draw in {**STEPPED, **OVER_STEPS}.items():
    wrong(
        label, functools.partial(chart, draw), source=[3, None, [], {}, "", MODEL], ax=[3, "ax", Figure(), []]
    )
wrong("layers", functools.partial(chart, plots.layers), most=NO_COUNT)
wrong("steps", functools.partial(chart, plots.steps), names=["cosine", [], [3], 3, ["nothing"], {}])
wrong("overview", lambda **a: plots.overview(**{"source": LOG, **a}), source=[3, None, ""], step=NO_STEP)

for label in ("load", "describe"):
    wrong(label, getattr(datasets, label), name=["iris", None, 3, ["a1a"], ""])

# --- the tests --------------------------------------------------------------------------------------


def state(directory):
    """All that a call could change."""
    return (
        [v.numpy().tobytes() for v in [*MODEL.variables, *MODEL.optimizer.variables]],
        {name: id(value) for name, value in vars(MODEL).items() if name != "_lock"},
        keras.layers.Layer.__call__,
        (keras.config.floatx(), keras.config.epsilon()),
        len(AXES.get_children()),
        sorted(directory.iterdir()),
    )


def test_the_table_is_long():
    assert sum(len(case.values[2]) for case in CASES) >= 300


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("arguments")


@pytest.mark.parametrize("make, name, values", CASES)
def test_a_wrong_argument_is_told_at_once_and_changes_nothing(make, name, values, directory, monkeypatch):
    monkeypatch.chdir(directory)
    before = state(directory)
    for value in values:
        with pytest.raises((TypeError, ValueError)) as error:
            make(**{name: value})
            pytest.fail(f"{name}={value!r} was accepted")
        what, _, received = str(error.value).partition("Received: ")
        assert received, f"{name}={value!r}: without what was received: {what}"
        assert len(what.split()) >= 4
        assert re.search(rf"\b{name}\b", f"{what} {received}"), f"{name}={value!r}: {error.value}"
    assert state(directory) == before


@pytest.mark.parametrize(
    "name, value",
    [
        ("curvature", curvature.KFAC),
        ("fisher", kfisher.Exact),
        ("damping", damping.Cautious),
        ("likelihood", likelihoods.Normal),
    ],
)
def test_a_class_without_brackets_is_told_how_to_make_an_instance(name, value):
    with pytest.raises(ValueError, match=rf"Received: .*\(a class; an instance is {value.__name__}\(\)\)$"):
        optimizers.NaturalGradient(**{name: value})


@pytest.mark.parametrize("name", ["curvature", "trust_region", "learning_rate"])
def test_a_class_of_which_no_instance_would_do_is_told_nothing_of_it(name):
    with pytest.raises(ValueError, match="Received") as error:
        optimizers.NaturalGradient(**{name: curvature.Curvature if name == "curvature" else curvature.KFAC})
    assert "an instance is" not in str(error.value)


def test_a_class_with_an_argument_that_is_needed_is_told_of_it():
    with pytest.raises(ValueError, match=r"an instance is Constant\(initial=\.\.\.\)"):
        optimizers.NaturalGradient(damping=damping.Constant)


def test_a_dataset_of_single_examples_is_told_to_make_batches():
    data = tf.data.Dataset.from_tensor_slices((X, Y))
    model = network(optimizer=optimizers.NaturalGradient(seed=0), loss="mse")
    for call in (lambda: model.fit(data, verbose=0), lambda: kfisher.diagnose(model, data)):
        with pytest.raises(ValueError, match=r"\.batch\(32\).*Received: .*\(3,\)"):
            call()


@pytest.mark.parametrize("make", [diagnose, operator], ids=["diagnose", "FisherOperator"])
def test_a_model_that_is_not_compiled_is_told_so(make):
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"not compiled with a loss.*model\.compile\(loss=.*Received: "):
        make(model=plain)
    assert not plain.compiled


@pytest.mark.parametrize("subclass", [False, True], ids=["functional", "subclass"])
def test_a_wrong_width_of_inputs_is_told_with_the_shape_that_was_given(subclass):
    class Plain(kfisher.FisherMixin, keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, inputs):
            return self.dense(inputs)

    model = Plain() if subclass else kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model(X)
    model.compile(optimizers.NaturalGradient(), "mse")
    wide = np.ones((7, 4), "float32")
    for call in (
        lambda: kfisher.FisherOperator(model, wide),
        lambda: kfisher.diagnose(model, wide, Y),
        lambda: kfisher.coverage(model, x=wide),
        lambda: model.optimizer.observe(model, wide, Y),
    ):
        with pytest.raises(ValueError, match=r"shape.*\(7, 4\)") as error:
            call()
        assert "10007" not in str(error.value)


def test_axes_of_classes_that_outputs_do_not_have():
    for axis in (0, 3, -3, -4):
        with pytest.raises(ValueError, match=rf"`axis`.*Received: axis={axis}, outputs of shape \(2, 4, 5\)"):
            likelihoods.Categorical(axis=axis).coordinates(tf.ones([2, 4, 5]))


# NumPy's scalars where Python's numbers go: a callable, and the attributes or config that they end in.
OF_NUMPY = [
    (curvature.KFAC, {"update_every": np.int64(5), "decay": np.float32(0.5), "tail": np.float64(0.25)}),
    (
        curvature.KFAC,
        {"invert_every": np.int32(5), "max_examples": np.int64(5), "max_factor_size": np.uint8(9)},
    ),
    (curvature.EKFAC, {"basis_every": np.int64(5), "update_every": np.int16(2)}),
    (curvature.Diagonal, {"corrected": np.bool_(False), "update_every": np.int64(2)}),
    (curvature.Gram, {"momentum": np.float32(0.5)}),
    (curvature.MatrixFree, {"max_iterations": np.int64(5), "tolerance": np.float16(0.5)}),
    (damping.Constant, {"initial": np.float32(0.5)}),
    (damping.Cautious, {"initial": np.float32(0.5), "minimum": np.float32(0.25), "maximum": np.int64(2)}),
    (damping.LevenbergMarquardt, {"omega": np.float32(0.5), "every": np.int64(3)}),
    (kfisher.Sampled, {"num_samples": np.int64(3)}),
    (likelihoods.Normal, {"scale": np.float32(0.5)}),
    (likelihoods.Laplace, {"scale": np.int64(2)}),
    (likelihoods.Bernoulli, {"from_logits": np.bool_(True), "label_smoothing": np.float32(0.5)}),
    (likelihoods.Categorical, {"sparse": np.bool_(True), "axis": np.int64(1), "ignore_class": np.int64(-1)}),
    *[
        (make, {"learning_rate": np.float32(0.5), "seed": np.int64(3), "weight_decay": np.float64(0.5)})
        for make in OPTIMIZERS.values()
    ],
    *[
        (make, {"use_ema": np.bool_(True), "ema_momentum": np.float32(0.5), "clipnorm": np.float32(2)})
        for make in OPTIMIZERS.values()
    ],
    *[
        (make, {"gradient_accumulation_steps": np.int64(2), "ema_overwrite_frequency": np.int64(2)})
        for make in OPTIMIZERS.values()
    ],
    *[
        (
            OPTIMIZERS[name],
            {"damping": np.float32(0.5), "momentum": np.float32(0.5), "trust_region": np.int64(2)},
        )
        for name in FISHER_OPTIMIZERS
    ],
    (optimizers.SophiaG, {"beta_1": np.float32(0.5), "gamma": np.float32(0.5), "update_every": np.int64(3)}),
    (optimizers.SophiaG, {"beta_2": np.float32(0.5), "epsilon": np.float32(0.5)}),
    (optimizers.NaturalGradient, {"learning_rate": 1, "damping": np.array(0.5)}),
    (callbacks.StepStatistics, {"log_dir": "logs", "every": np.int64(2), "per_layer": np.bool_(True)}),
    (callbacks.FisherDiagnosis, {"log_dir": "logs", "freq": np.int64(2), "examples": np.int64(3)}),
    (callbacks.FisherSpectra, {"log_dir": "logs", "draws": np.int64(2), "max_overhead": np.float32(0.5)}),
    (
        callbacks.FisherSpectra,
        {"log_dir": "logs", "damping": np.float32(0.5), "write_images": np.bool_(False)},
    ),
]


@pytest.mark.parametrize(
    "make, arguments", OF_NUMPY, ids=lambda v: getattr(v, "__name__", None) or "-".join(v)
)
def test_scalars_of_numpy_are_numbers(make, arguments):
    thing = make(**arguments)
    found = thing.get_config() if hasattr(thing, "get_config") else vars(thing)
    for name, value in arguments.items():
        plain = value.item() if hasattr(value, "item") else value
        assert found[name] == plain and not isinstance(found[name], np.generic)
    if hasattr(thing, "get_config"):
        json.dumps({name: found[name] for name in arguments})


def test_scalars_of_numpy_in_functions(tmp_path):
    assert len(spectra.eigenvalues(OPERATOR, np.int64(2))) == 2
    assert spectra.density(OPERATOR, np.int64(1), np.int32(2), np.int64(3))([1.0], np.float32(0.5)).shape == (
        1,
    )
    assert plots.layers(LOG, np.int64(3), np.int64(2)).figure is not None
    limits = kfisher.Thresholds(np.float32(0.5), np.int64(3), replicates=np.int64(50))
    given = {"damping": np.float32(0.5), "draws": np.int64(2), "seed": np.int64(1), "thresholds": limits}
    assert diagnose(**given).findings
    assert operator(seed=np.int64(1), training=np.bool_(False)).shape == (11, 11)
    board = callbacks.TensorBoard(tmp_path, spectrum_freq=np.int64(0), statistics_freq=np.int64(2))
    assert board.verdict is None


def test_a_damping_that_float32_cannot_hold_is_told_and_float64_holds_it(float64):
    optimizer = optimizers.NaturalGradient(damping=1e-50)
    assert float(optimizer.damping) == 1e-50


def test_long_values_are_told_in_short():
    assert shown(np.ones((300, 2))) == "<ndarray of shape (300, 2)>"
    assert shown(np.float32(0.5)) == "0.5" and len(shown("a" * 1000)) < 210


# --- a likelihood that the optimizer was given ------------------------------------------------------


def absolute(y, f):
    """A loss that is known to nobody."""
    return tf.reduce_mean(tf.abs(y - f) ** 2, -1)


def linear(loss, optimizer):
    model = kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(optimizer, loss)
    return model


@functools.cache
def of_squared_error():
    known = linear("mse", "sgd")
    return kfisher.FisherOperator(known, X).to_dense(), str(
        kfisher.diagnose(known, X, Y, damping=0.5, draws=2)
    )


@pytest.mark.parametrize("own", [True, False], ids=["of the optimizer", "asked for"])
def test_a_likelihood_reaches_everything_that_asks_for_one(own, tmp_path):
    normal, (matrix, verdict) = likelihoods.Normal(), of_squared_error()
    natural = optimizers.NaturalGradient(curvature="gram", trust_region=None, likelihood=normal)
    model, asked = linear(absolute, natural if own else "sgd"), {} if own else {"likelihood": normal}
    for function in (kfisher.FisherOperator, kfisher.diagnose) if not own else ():
        with pytest.raises(ValueError, match="pass `likelihood=`"):
            function(model, X, Y)
    assert np.allclose(kfisher.FisherOperator(model, X, **asked).to_dense(), matrix)
    assert str(kfisher.diagnose(model, X, Y, damping=0.5, draws=2, **asked)) == verdict
    board = callbacks.TensorBoard(
        tmp_path, statistics_freq=0, spectrum_freq=1, max_overhead=None, write_images=False, **asked
    )
    model.fit(X, Y, batch_size=7, verbose=0, callbacks=[board])
    assert len(board.measurements) == 1 and board.verdict is not None


def test_a_likelihood_that_is_asked_for_comes_first():
    model = linear(absolute, optimizers.NaturalGradient(likelihood=likelihoods.Normal()))
    narrow = kfisher.FisherOperator(model, X, likelihood=likelihoods.Normal(0.5)).to_dense()
    wide = kfisher.FisherOperator(model, X, likelihood=likelihoods.Normal(1.0)).to_dense()
    assert np.allclose(narrow, 4 * wide)
    # A loss of its own has its own likelihood.
    model.optimizer.likelihood = likelihoods.Normal(5.0)
    assert np.allclose(kfisher.FisherOperator(model, X, loss="mse").to_dense(), 2 * wide)
