"""The examples in docstrings run as they are written."""

import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import kfisher

MODULES = [m.name for m in pkgutil.walk_packages(kfisher.__path__, "kfisher.")]
# What these show is what all tests of callbacks look at.
SLOW = {
    "kfisher.callbacks.fisher_diagnosis.FisherDiagnosis",
    "kfisher.callbacks.fisher_spectra.FisherSpectra",
    "kfisher.callbacks.tensorboard.TensorBoard",
}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class _Anything(doctest.OutputChecker):
    """An example without an expected output may print any."""

    def check_output(self, want, got, optionflags):
        return not want.strip() or super().check_output(want, got, optionflags)


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in MODULES:
        if name == "kfisher.tensorboard.plugin":
            continue
        for test in finder.find(importlib.import_module(name), name):
            if test.examples and test.globs.get("__name__") == name:
                marks = [pytest.mark.slow] * (test.name in SLOW)
                yield pytest.param(test, id=test.name, marks=marks)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the examples may speak of: a small model that was trained, its data, and a folder of logs."""
    import pandas
    import tensorflow_probability as tfp

    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
    y = x.sum(1, keepdims=True)
    model = kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="dense")])
    model.compile(kfisher.optimizers.NaturalGradient(seed=0), "mse", run_eagerly=True)
    folder = tmp_path_factory.mktemp("runs")
    callback = kfisher.callbacks.TensorBoard(str(folder / "runs" / "yacht"), write_images=False)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    return {
        **{"kfisher": kfisher, "keras": keras, "np": np, "tf": tf, "tfd": tfp.distributions},
        **{
            "model": model,
            "x": x,
            "y": y,
            "F": kfisher.FisherOperator(model, x),
            "folder": folder,
            "path": str(folder / "events"),
            "pandas": pandas,
        },
        "gradient": tf.ones([4]),
        "EF": kfisher.FisherOperator(model, x, y, fisher="empirical"),
    }


@pytest.mark.parametrize("test", examples())
def test_an_example_runs(test, names, monkeypatch):
    monkeypatch.chdir(names["folder"])
    test.globs = {**test.globs, **names}
    runner = doctest.DocTestRunner(checker=_Anything(), optionflags=FLAGS, verbose=False)
    said = []
    runner.run(test, out=said.append, clear_globs=False)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_there_are_examples():
    assert len(list(examples())) > 40
