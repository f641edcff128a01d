"""Two workers on this machine: one writes, and both end in the weights that they have without callbacks."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from kfisher_scripts.common import workers

OPTIMIZERS = ("adam", "kfac")


def report(folder):
    """What each worker does."""
    import keras
    import tensorflow as tf

    import kfisher

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    makers = {
        "adam": lambda: keras.optimizers.Adam(0.01),
        "kfac": lambda: kfisher.optimizers.NaturalGradient(seed=0),
    }
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(48, 3)), rng.normal(size=(48, 2))

    def trained(name, callbacks):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            layers = [keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
            model = kfisher.Sequential([keras.Input((3,)), *layers])
            model.compile(makers[name](), "mse")
        history = model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        return {"weights": [w.tolist() for w in model.get_weights()], "history": history.history}

    found = {}
    for name in OPTIMIZERS:
        # The number of measurements differs between workers, for the others make none.
        board = kfisher.callbacks.TensorBoard(f"{folder}/{name}", spectrum_freq=2, max_overhead=None)
        found[name] = trained(name, [board, kfisher.callbacks.TerminateOnDivergence()])
        found[name]["measured"] = [m.step for m in board.measurements]
        found[name]["alone"] = trained(name, [])["weights"]
    print(json.dumps(found))


@pytest.fixture(scope="module")
def found(folder):
    command = [sys.executable, __file__, str(folder)]
    return [json.loads(text.splitlines()[-1]) for text in workers.run(command, 2, seconds=900)]


pytestmark = [pytest.mark.slow, pytest.mark.by_hand]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_are_equal_on_both_with_callbacks_and_without(found, name):
    first, second = (each[name] for each in found)
    assert first["weights"] == second["weights"] == first["alone"] == second["alone"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_statistics_are_equal_on_both_and_one_of_them_writes(found, folder, name):
    from kfisher import read_log

    first, second = (each[name] for each in found)
    assert first["history"] == second["history"]
    assert first["history"]["gradient_norm"][1] > 0
    assert first["measured"] == [0, 2, 4] and second["measured"] == []
    log = read_log(str(folder / name))
    assert list(log.steps["step"]) == [1, 2, 3, 4, 5, 6]
    assert [v.step for v in log.verdicts] == [0, 2, 4]
    for path in ("fisher", "train"):
        assert len(list(Path(folder, name, path).glob("events*"))) == 1


if __name__ == "__main__":
    report(sys.argv[1])
