"""No model, and no trouble in a callback, ends a training that would do without."""

import warnings

import keras
import numpy as np
import pytest

import kfisher
from kfisher.callbacks import FisherDiagnosis, FisherSpectra, StepStatistics, _recorder, step_statistics

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 3)).astype("float32"), RNG.normal(size=(24, 2)).astype("float32")


def fit(model, callbacks, x=X, y=Y, **kwargs):
    options = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(x, y, callbacks=callbacks, **options)


class Subclass(keras.Model):
    """Without a `build`: it has no weights before Keras has run it on a batch."""

    def __init__(self):
        super().__init__()
        self.layer = keras.layers.Dense(2, kernel_initializer="ones")

    def call(self, x):
        return self.layer(x)


def unbuilt(cls=keras.Sequential):
    keras.utils.set_random_seed(0)
    return cls([keras.layers.Dense(4), keras.layers.Dense(2)])


def two_outputs():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    return keras.Model(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(1)(inputs)])


CASES = {
    "no input": (unbuilt, Y, {}),
    "no input, kfisher": (lambda: unbuilt(kfisher.Sequential), Y, {}),
    "a subclass": (Subclass, Y, {}),
    "two outputs with weights": (
        two_outputs,
        [Y, Y[:, :1]],
        {"sample_weight": [np.ones(24, "float32"), np.full(24, 0.5, "float32")]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_model_trains_as_without_the_callback_and_is_recorded(case, tmp_path):
    make, y, how = CASES[case]
    plain, watched = make(), make()
    for model in (plain, watched):
        model.compile("sgd", ["mse"] * len(y) if isinstance(y, list) else "mse")
    fit(plain, [], y=y, **how)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*training goes on.*")
        spectra = FisherSpectra(tmp_path, freq=4, draws=1, max_overhead=None, write_images=False)
        fit(watched, [StepStatistics(tmp_path), spectra], y=y, **how)
    for a, b in zip(plain.get_weights(), watched.get_weights(), strict=True):
        assert np.array_equal(a, b)
    log = kfisher.read_log(tmp_path)
    assert log.steps["step"].tolist() == list(range(1, 7)) and (log.steps["distance"] > 0).all()
    # A model that its first step builds has no weights to look at before.
    assert [m.step for m in log.measurements] == [0 if case.startswith("two outputs") else 1, 4]


def broken(*args, **kwargs):
    raise RuntimeError("out of order")


@pytest.mark.parametrize(
    "where, name",
    [
        (_recorder.StepRecorder, "_prepared"),
        (_recorder.StepRecorder, "_row"),
        (_recorder.StepRecorder, "read"),
        (step_statistics, "StepRecorder"),
        (FisherDiagnosis, "_look"),
        (FisherDiagnosis, "_end"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_trouble_in_a_callback_is_one_warning(where, name, tmp_path, monkeypatch):
    monkeypatch.setattr(where, name, broken)
    keras.utils.set_random_seed(0)
    plain, watched = (keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "tanh")]) for _ in range(2))
    watched.set_weights(plain.get_weights())
    for model in (plain, watched):
        model.compile("sgd", "mse")
    fit(plain, [])
    diagnosis = FisherDiagnosis(tmp_path, freq=4, draws=1, max_overhead=None, write_images=False, verbose=0)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        fit(watched, [StepStatistics(tmp_path), diagnosis])
    told = [str(w.message) for w in warned if "training goes on" in str(w.message)]
    assert len(set(told)) == 1 and "out of order" in told[0]
    assert all(np.array_equal(a, b) for a, b in zip(plain.get_weights(), watched.get_weights()))
