"""Workers of `tf.distribute.MultiWorkerMirroredStrategy`, as processes on this machine."""

import signal
import time

import numpy as np
import pytest
from helpers import replicated, worker

pytestmark = [pytest.mark.slow, pytest.mark.by_hand]


@pytest.fixture
def alone():
    """The weights of one process with one replica, which is a worker without others."""

    def weights(tmp_path, **settings):
        return worker.run("alone", 1, tmp_path, **settings)[0]

    return weights


@pytest.mark.parametrize(
    "workers, curvature, kinds",
    [
        *((n, c, "sampled") for n in (2, 3) for c in ("kfac", "ekfac", "gram", "diagonal")),
        *((3, c, "exact empirical") for c in ("ekfac", "diagonal")),
    ],
)
def test_workers_take_the_step_of_the_whole_batch(workers, curvature, kinds, tmp_path, alone):
    (tmp_path / "one").mkdir()
    (tmp_path / "several").mkdir()
    settings = {"CURVATURE": curvature, "FISHER": kinds}
    one = alone(tmp_path / "one", **settings)
    for weights in worker.run("fit", workers, tmp_path / "several", **settings):
        assert len(weights) == len(one) == 4 * len(kinds.split())
        assert max(np.abs(a - b).max() for a, b in zip(one, weights)) < 1e-12


def test_a_dead_worker_ends_the_others(tmp_path):
    processes = worker.launch("long", 2, tmp_path)
    until = time.monotonic() + 240
    while not (tmp_path / "running_0").exists() or not (tmp_path / "running_1").exists():
        assert time.monotonic() < until and processes[0].poll() is None, worker.said(tmp_path)
        time.sleep(0.2)
    processes[1].send_signal(signal.SIGKILL)
    code, _ = worker.ended(processes, tmp_path, 240)  # 8 s where nothing else runs: TensorFlow's heartbeats
    assert code != 0
    assert "Error" in worker.said(tmp_path)


def test_killed_and_resumed_training_is_that_which_was_not(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = worker.run("resumed", 2, whole)
    codes = worker.ended(worker.launch("resumed", 2, parts, DIES_AT=3), parts, 240)
    assert all(code != 0 for code in codes)
    for a, b in zip(expected, worker.run("resumed", 2, parts)):
        assert all(np.array_equal(x, y) for x, y in zip(a, b))


def test_the_shared_data_divide():
    assert len(replicated.X) % 6 == 0  # by 2 and by 3, so that means weigh as one does
