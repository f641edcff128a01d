"""Scalars written to TensorBoard many at a time."""

from __future__ import annotations

import os
import time
import warnings

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.scalar.metadata import create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto


class ScalarWriter:
    """Writes rows of scalars, one event for each step.

    `tf.summary.scalar` takes 0.1 ms for each number, more than the statistics themselves; here all numbers of
    a step share one event. A directory that cannot be written to gives one warning, and then nothing.

    Args:
        log_dir: String or path; the directory is made when the first rows come.
        names: The tags, one for each column.
    """

    def __init__(self, log_dir: str | os.PathLike, names: list[str]):
        self._log_dir = os.fspath(log_dir)
        self._names = names
        self._writer: EventFileWriter | None = None
        self._failed = False
        self._last_time = time.time()
        self._metadata = [SummaryMetadata.FromString(_metadata(name)) for name in names]

    def write(self, steps: np.ndarray, rows: np.ndarray) -> None:
        """Adds rows `(S, len(names))`, their times spread evenly since the last call."""
        now = time.time()
        times = np.linspace(self._last_time, now, len(steps) + 1)[1:]
        self._last_time = now
        if self._failed or not len(steps):
            return
        try:
            if self._writer is None:
                self._writer = EventFileWriter(self._log_dir)
            for step, moment, row in zip(steps, times, rows):
                self._writer.add_event(Event(step=int(step), wall_time=moment, summary=self._summary(row)))
            self._writer.flush()
        except Exception as error:  # whatever the file system says, training is worth more than its log
            self._failed = True
            warnings.warn(
                f"Nothing more is logged to {self._log_dir!r}; training goes on. Free the disk, or pass a "
                f"`log_dir` that can be written to. Received: {error}",
                stacklevel=2,
            )

    def _summary(self, row: np.ndarray) -> Summary:
        values = [
            Summary.Value(tag=name, tensor=make_tensor_proto(np.float32(value)), metadata=metadata)
            for name, value, metadata in zip(self._names, row, self._metadata)
        ]
        return Summary(value=values)

    def close(self) -> None:
        """Writes out what is buffered."""
        if self._writer is not None and not self._failed:
            self._writer.close()
        self._writer = None


def _metadata(name: str) -> bytes:
    return create_summary_metadata(display_name="", description="").SerializeToString()
