"""LAPACK on one thread: beside TensorFlow's own threads two are slower, at times by a factor of ten."""

from __future__ import annotations

import contextlib

import threadpoolctl

_controller = threadpoolctl.ThreadpoolController()


def one_thread() -> contextlib.AbstractContextManager:
    """Within it, BLAS and LAPACK start no threads of their own."""
    return _controller.limit(limits=1, user_api="blas")
