"""A process with several logical devices: TensorFlow divides the CPU only before it has done anything."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest
from helpers import replicated

TIMEOUT = 900  # twenty times what the longest takes where nothing else runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the trainings of a module write."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def on_devices():
    """Calls a function of `helpers.replica_cases` in that process; if it hangs or dies, the test fails."""
    pools = []

    def pool():
        if not pools:
            pools.append(ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), replicated.start))
        return pools[0]

    def end():
        for each in pools:
            for process in each._processes.values():  # also one that hangs
                process.kill()
            each.shutdown(wait=False)
        pools.clear()

    def call(function, *arguments, **settings):
        try:
            return pool().submit(function, *arguments, **settings).result(TIMEOUT)
        except (TimeoutError, BrokenProcessPool):  # the next test has a process of its own
            end()
            raise

    yield call
    end()
