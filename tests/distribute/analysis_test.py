"""FisherOperator, diagnose and coverage of a model on replicas: what they say of it on one device."""

import json
import os
import subprocess
import sys

import pytest


def report():
    """In a process of its own, with two logical CPUs: what each says, by place."""
    import keras
    import numpy as np
    import tensorflow as tf

    import kfisher

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 5)).astype("float32"), rng.integers(0, 3, 12)

    def made():
        keras.utils.set_random_seed(0)
        layers = [
            keras.layers.Dense(4, "tanh", kernel_regularizer=keras.regularizers.L2(0.1), name="first"),
            keras.layers.BatchNormalization(name="second"),
            keras.layers.Dense(3, name="third"),
        ]
        model = keras.Sequential([keras.Input((5,)), *layers], name="network")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
        return model

    def analysed(model):
        F = kfisher.FisherOperator(model, x)
        ones = tf.ones(F.shape[-1])
        return {
            "trace": float(F.trace()),
            "dense": F.to_dense().numpy().tolist(),
            "product": F.matvec(ones).numpy().tolist(),
            "solution": F.damped(0.1).solvevec(ones).numpy().tolist(),
            "another loss": float(kfisher.FisherOperator(model, x, loss="mse").trace()),
            "diagnose": kfisher.diagnose(model, x, y, draws=2).to_json(),
            "coverage": str(kfisher.coverage(model, "kfac")),
        }

    found = {"one device": analysed(made())}
    with strategy.scope():
        model = made()
        found["inside"] = analysed(model)
    found["outside"] = analysed(model)

    def trace():
        return kfisher.FisherOperator(model, x).trace()

    traces = tf.function(lambda: strategy.run(trace), autograph=False)()
    found["in a replica"] = [float(t) for t in strategy.experimental_local_results(traces)]
    json.dump(found, sys.stdout)


@pytest.fixture(scope="module")
def found():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=900
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads(process.stdout)


pytestmark = [pytest.mark.slow, pytest.mark.by_hand]


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_the_scope_of_a_strategy_changes_no_number(found, place):
    one = found["one device"]
    assert one["trace"] > 1
    for name, value in one.items():
        assert found[place][name] == value, name


def test_replicas_ask_for_the_matrix_of_all_that_they_hand_over(found):
    one = found["one device"]["trace"]
    assert found["in a replica"] == pytest.approx([one] * 2, rel=1e-6)


if __name__ == "__main__":
    report()
