"""A process with several logical devices: TensorFlow divides the CPU only before it has done anything."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
from helpers import replicated

TIMEOUT = 900  # twenty times what the longest takes where nothing else runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the trainings of a module write."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def on_devices():
    """Calls a function of `helpers.replica_cases` in that process; what takes too long is a failure."""
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), replicated.start)

    def call(function, *arguments, **settings):
        return pool.submit(function, *arguments, **settings).result(TIMEOUT)

    yield call
    for process in pool._processes.values():  # also one that hangs
        process.kill()
    pool.shutdown(wait=False)
