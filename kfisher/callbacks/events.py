"""Scalars written to TensorBoard many at a time."""

from __future__ import annotations

import os
import socket
import time
import uuid
import warnings
from typing import Any

import numpy as np
import tensorflow as tf


class ScalarWriter:
    """Writes rows of scalars, one event for each step.

    `tf.summary.scalar` takes 0.1 ms for each number, more than the statistics themselves; here all numbers of
    a step share one event, and an event file is a file of TFRecords. A directory that cannot be written to
    gives one warning, and then nothing.

    Args:
        log_dir: String or path; the directory is made when the first rows come.
        names: The tags, one for each column.
    """

    def __init__(self, log_dir: str | os.PathLike, names: list[str]):
        self._log_dir = os.fspath(log_dir)
        self._names = names
        self._file: Any = None
        self._failed = False
        self._last_time = time.time()

    def write(self, steps: np.ndarray, rows: np.ndarray) -> None:
        """Adds rows `(S, len(names))`, their times spread evenly since the last call."""
        now = time.time()
        times = np.linspace(self._last_time, now, len(steps) + 1)[1:]
        self._last_time = now
        if self._failed or not len(steps):
            return
        try:
            if self._file is None:
                self._open(now)
            for step, moment, row in zip(steps.tolist(), times.tolist(), rows.tolist()):
                self._file.write(self._event(step, moment, row))
            self._file.flush()
        except (OSError, tf.errors.OpError) as error:  # training is worth more than its log
            self._failed = True
            warnings.warn(
                f"Nothing more is logged to {self._log_dir!r}; training goes on. Free the disk, or pass a "
                f"`log_dir` that can be written to. Received: {error}",
                stacklevel=2,
            )

    def _open(self, now: float) -> None:
        tf.io.gfile.makedirs(self._log_dir)
        name = f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{uuid.uuid4().hex}"
        self._file = tf.io.TFRecordWriter(os.path.join(self._log_dir, name))
        self._file.write(tf.compat.v1.Event(wall_time=now, file_version="brain.Event:2").SerializeToString())

    def _event(self, step: int, moment: float, row: list[float]) -> bytes:
        event = tf.compat.v1.Event(step=step, wall_time=moment)
        for name, value in zip(self._names, row):
            event.summary.value.add(tag=name, simple_value=value)
        return event.SerializeToString()
