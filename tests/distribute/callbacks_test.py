"""What callbacks say of a training on replicas is what they say of it on one device, and changes nothing."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest


def report(folder, name):
    """In a process of its own, with two logical CPUs: trainings on one and on both, with all callbacks."""
    import keras
    import tensorflow as tf

    import kfisher
    from kfisher.callbacks import _reporting

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    # A single one: TensorFlow takes what crosses in a second for what crossed in the first.
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    makers = {
        "adam": lambda: keras.optimizers.Adam(0.01, weight_decay=0.1),
        "kfac": lambda: kfisher.optimizers.NaturalGradient(seed=0),
    }
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(48, 3)), rng.normal(size=(48, 2))

    def trained(strategy, callbacks):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            layers = [keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
            model = keras.Sequential([keras.Input((3,)), *layers])
            model.compile(makers[name](), "mse")
        if name == "kfac":
            kfisher.attach(model)
        history = model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        return [w.tolist() for w in model.get_weights()], history.history

    found = {}
    for place, strategy in (("one", tf.distribute.get_strategy()), ("two", mirrored)):
        board = kfisher.callbacks.TensorBoard(os.path.join(folder, place), spectrum_freq=2, max_overhead=None)
        ends = kfisher.callbacks.TerminateOnDivergence()
        # Pictures take seconds, and say nothing that the measurements do not.
        undrawn = mock.patch.object(_reporting, "pictures", lambda measurements: {})
        with undrawn if place == "one" else contextlib.nullcontext():
            weights, history = trained(strategy, [board, ends])
        found[place] = {
            "weights": weights,
            "history": history,
            "measurements": [m.to_json() for m in board.measurements],
            "verdict": board.verdict.to_json(),
        }
    found["two"]["alone"] = trained(mirrored, [])[0]
    json.dump(found, sys.stdout)


@pytest.fixture(scope="module", params=["adam", pytest.param("kfac", marks=pytest.mark.by_hand)])
def run(request, tmp_path_factory):
    """What it reports, and where its logs are."""
    folder = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, __file__, str(folder), request.param]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stderr[-4000:]
    assert "training goes on" not in process.stderr
    return json.loads(process.stdout), folder


pytestmark = pytest.mark.slow


def test_a_training_ends_in_the_same_weights_with_callbacks_and_without(run):
    found, _ = run
    assert found["two"]["weights"] == found["two"]["alone"]


def test_each_number_is_that_of_one_device(run):
    from kfisher import read_log

    found, folder = run
    one, two = (read_log(str(folder / place)).steps for place in ("one", "two"))
    assert list(one) == list(two) and list(one["step"]) == list(two["step"]) == [1, 2, 3, 4, 5, 6]
    for tag, values in one.items():
        # Event files hold float32.
        assert np.allclose(two[tag], values, rtol=1e-6, equal_nan=True), tag
    for key, values in found["one"]["history"].items():
        assert found["two"]["history"][key] == pytest.approx(values, rel=1e-9), key


def test_spectra_are_those_of_the_whole_batch_before_its_step(run):
    one, two = (run[0][place] for place in ("one", "two"))
    assert [json.loads(m)["step"] for m in two["measurements"]] == [0, 2, 4]
    assert two["verdict"] and json.loads(two["verdict"])["step"] == 4
    for a, b in zip(one["measurements"], two["measurements"], strict=True):
        a, b = json.loads(a), json.loads(b)
        assert a["examples"] == b["examples"] == 16
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-9)
        for kind in ("exact", "sampled", "empirical"):
            values = a["spectra"][kind]["eigenvalues"]
            assert b["spectra"][kind]["eigenvalues"] == pytest.approx(values, rel=1e-6, abs=1e-12 * values[0])


def test_one_file_is_written_in_each_folder(run):
    for path in ("fisher", "train"):
        assert len(list(Path(run[1], "two", path).glob("events*"))) == 1


if __name__ == "__main__":
    report(*sys.argv[1:])
