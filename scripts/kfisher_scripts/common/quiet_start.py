"""TensorFlow's start without its lines."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


def quiet_start() -> None:
    """Imports TensorFlow; to be called before anything else imports it or NumPy."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # With other processes on the same 2 cores, the LAPACK solve of a natural-gradient step (1152 rows) took
    # 15 to 40 ms on one BLAS thread and 0.4 to 3 s on two.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with _unsaid():
        import tensorflow  # noqa: F401


@contextlib.contextmanager
def _unsaid() -> Iterator[None]:
    """Keeps what C++ writes to standard error, which no setting silences before its log is set up.

    It is said after all if there is an exception.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept, contextlib.ExitStack() as stack:
        before = os.dup(2)
        stack.callback(os.close, before)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(before, 2)
            kept.seek(0)
            os.write(2, kept.read())
            raise
        finally:
            os.dup2(before, 2)
