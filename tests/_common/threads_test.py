"""One thread for LAPACK, where blocks of several threads overlap."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import threadpoolctl

from kfisher._common.threads import one_thread


def counts():
    return {p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"}


@pytest.fixture
def two():
    """BLAS with two threads, whatever the environment says."""
    with ThreadPoolExecutor(1) as once:  # no thread that lives on, which alone could set another limit
        limit = once.submit(threadpoolctl.threadpool_limits, 2, "blas").result()
    yield
    with ThreadPoolExecutor(1) as once:
        once.submit(limit.restore_original_limits).result()


def test_the_limit_holds_until_the_last_block_ends_and_not_longer(two):
    first, second, inside = threading.Event(), threading.Event(), []

    def other():
        with one_thread():
            first.set()
            second.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    first.wait(30)
    with one_thread():  # begins in the middle of the other, and ends after it
        inside.append(counts())
        second.set()
        thread.join(30)
        inside.append(counts())
    assert inside == [{1}, {1}] and counts() == {2}
    with one_thread():
        assert counts() == {1}
    assert counts() == {2}
