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

    def weights(case, tmp_path, **settings):
        tmp_path.mkdir()
        return worker.run(case, 1, tmp_path, ALONE=1, **settings)[0]

    return weights


@pytest.mark.parametrize(
    "workers, curvature, kinds",
    [
        *((n, c, "sampled") for n in (2, 3) for c in ("kfac", "ekfac", "gram", "dense", "diagonal")),
        *((3, c, "exact empirical") for c in ("ekfac", "diagonal")),
    ],
)
def test_workers_take_the_step_of_the_whole_batch(workers, curvature, kinds, tmp_path, alone):
    settings = {"CURVATURE": curvature, "FISHER": kinds}
    one = alone("fit", tmp_path / "one", **settings)
    for weights in worker.run("fit", workers, tmp_path, **settings):
        assert len(weights) == len(one) == 4 * len(kinds.split())
        assert max(np.abs(a - b).max() for a, b in zip(one, weights)) < 1e-12


@pytest.mark.parametrize("case", ["others", "looks"])
def test_workers_do_what_one_does(case, tmp_path, alone):
    one = alone(case, tmp_path / "one")
    for found in worker.run(case, 2, tmp_path):
        assert len(found) == len(one)
        assert all(np.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(one, found))


@pytest.mark.parametrize("workers", [2, 3])
def test_what_is_bad_on_one_worker_is_skipped_on_all(workers, tmp_path):
    first, *others = worker.run("spoilt", workers, tmp_path)
    assert len(first) == 8
    for weights in others:
        assert all(np.array_equal(a, b) for a, b in zip(first, weights))


def test_a_dead_worker_ends_the_others(tmp_path):
    processes = worker.launch("long", 2, tmp_path)
    until = time.monotonic() + 240
    while not (tmp_path / "running_0").exists() or not (tmp_path / "running_1").exists():
        assert time.monotonic() < until and processes[0].poll() is None, worker.said(tmp_path)
        time.sleep(0.2)
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    code, _ = worker.ended(processes, tmp_path, 240)
    # 8 s where nothing else runs: TensorFlow's heartbeats. Three times the bar, for a machine that is busy.
    assert code != 0 and time.monotonic() - killed < 90
    assert "Error" in worker.said(tmp_path)


def test_killed_and_resumed_training_is_that_which_was_not(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = worker.run("resumed", 2, whole)
    codes = worker.ended(worker.launch("resumed", 2, parts, DIES_AT=5), parts, 240)
    assert all(code != 0 for code in codes)
    for a, b in zip(expected, worker.run("resumed", 2, parts)):
        assert all(np.array_equal(x, y) for x, y in zip(a, b))


def test_workers_draw_the_same_labels_without_a_seed(tmp_path):
    one, two = worker.run("unseeded", 2, tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(one, two))


def test_the_shared_data_divide():
    assert len(replicated.X) % 6 == 0  # by 2 and by 3, so that means weigh as one does
