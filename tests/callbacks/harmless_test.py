"""An error inside of a callback ends no training."""

import keras
import numpy as np
import pytest

import kfisher
from kfisher.callbacks import (
    FisherSpectra,
    StepStatistics,
    TerminateOnDivergence,
    fisher_spectra,
    step_statistics,
)

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(6, 2)).astype("float32"), RNG.normal(size=(6, 1)).astype("float32")


def raises(*args, **kwargs):
    raise RuntimeError("boom")


def trained(callbacks, optimizer=None, fits=1):
    keras.utils.set_random_seed(0)
    model = kfisher.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse")
    for _ in range(fits):
        model.fit(X, Y, batch_size=3, epochs=2, verbose=0, callbacks=callbacks)
    return model.get_weights()


@pytest.mark.parametrize(
    "module, name, callback",
    [
        (step_statistics, "StepRecorder", StepStatistics),
        (step_statistics, "ScalarWriter", StepStatistics),
        (fisher_spectra, "Meter", FisherSpectra),
        (fisher_spectra, "due_steps", FisherSpectra),
        (fisher_spectra, "damping_of", FisherSpectra),
    ],
)
def test_what_goes_wrong_gives_one_warning_and_training_goes_on(
    module, name, callback, monkeypatch, tmp_path
):
    monkeypatch.setattr(module, name, raises)
    with pytest.warns(UserWarning, match="training goes on") as warned:
        weights = trained([callback(tmp_path)])
    assert len([w for w in warned if "Received: RuntimeError: boom" in str(w.message)]) == 1
    np.testing.assert_equal(weights, trained([]))


def test_an_optimizer_that_cannot_say_what_is_wrong_trains_on():
    optimizer = keras.optimizers.SGD(0.1)
    vars(optimizer)["trouble"] = raises
    with pytest.warns(UserWarning, match="TerminateOnDivergence does nothing more") as warned:
        weights = trained([TerminateOnDivergence()], optimizer, fits=2)
    assert len(warned) == 2  # in each `fit` it tries again
    np.testing.assert_equal(weights, trained([], fits=2))
