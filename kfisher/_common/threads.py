"""LAPACK on one thread: beside TensorFlow's own threads two are slower, at times by a factor of ten."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import threadpoolctl

_controller = threadpoolctl.ThreadpoolController()
_lock, _limit, _inside = threading.Lock(), contextlib.ExitStack(), 0
# threadpoolctl lets the thread that has set a limit take it back, and no other.
_keeper = ThreadPoolExecutor(1, "kfisher_blas")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within it, BLAS and LAPACK start no threads of their own.

    The limit is that of the process. Blocks of several threads overlap, as those of replicas do: the last to
    end takes it back, or BLAS would have more threads in the middle of another block, and one for ever.
    """
    global _inside
    with _lock:
        if not _inside:
            _keeper.submit(
                lambda: _limit.enter_context(_controller.limit(limits=1, user_api="blas"))
            ).result()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _keeper.submit(_limit.close).result()
