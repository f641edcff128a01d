"""Event files: what TensorBoard reads, written many values at a time."""

from __future__ import annotations

import math
import os
import socket
import time
import uuid
import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto import summary_pb2

from kfisher.logs import schema
from kfisher.logs.custom_scalars import custom_scalars_layout

Value = Any  # tf.compat.v1.Summary.Value


class EventWriter:
    """Writes events to a file of TFRecords of its own; `shared` is where callbacks get theirs.

    `tf.summary.scalar` takes 0.1 ms for each number, more than most of the statistics themselves; here all
    values of a step share one event. A directory that cannot be written to gives one warning, and then
    nothing.

    Args:
        log_dir: String or path; the directory is made when the first event comes.
    """

    def __init__(self, log_dir: str | os.PathLike):
        self._log_dir = os.fspath(log_dir)
        self._charts: tuple[tuple[str, ...], bool] = ((), False)
        self._layouts = 0
        self._file: Any = None
        self._path = ""
        self.failed = False

    def add_charts(self, step_names: Iterable[str] = (), fisher: bool = False) -> None:
        """Has "Custom Scalars" show statistics of steps, by their names, and the Fishers."""
        names, has_fisher = self._charts
        charts = (tuple(dict.fromkeys([*names, *step_names])), has_fisher or fisher)
        if charts != self._charts:
            self._charts = charts
            if self._file is not None:
                self.write([self._layout()])

    def _layout(self) -> tuple[int, float, list[Value]]:
        """An event with the layout; TensorBoard takes that of the last step."""
        self._layouts += 1
        return self._layouts - 1, time.time(), list(custom_scalars_layout(*self._charts).value)

    def write(self, events: list[tuple[int, float, list[Value]]]) -> None:
        """Adds `(step, wall time, values)` triples."""
        if self.failed or not events:
            return
        try:
            if self._file is None:
                self._open()
                events = [self._layout(), *events]
            elif self.lost:  # the system would let us write on, for nobody
                raise FileNotFoundError(f"{self._path!r} was deleted")
            for step, moment, values in events:
                summary = tf.compat.v1.Summary(value=values)
                event = tf.compat.v1.Event(step=step, wall_time=moment, summary=summary)
                self._file.write(event.SerializeToString())
            self._file.flush()
        except (OSError, tf.errors.OpError) as error:  # training is worth more than its log
            self.failed = True
            warn_once(os.path.dirname(self._log_dir), error)

    @property
    def lost(self) -> bool:
        """True if nothing that is written arrives: it failed, or the file was deleted."""
        return self.failed or (self._file is not None and not tf.io.gfile.exists(self._path))

    def _open(self) -> None:
        tf.io.gfile.makedirs(self._log_dir)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{uuid.uuid4().hex}"
        self._path = os.path.join(self._log_dir, name)
        self._file = tf.io.TFRecordWriter(self._path)
        version = tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2")
        self._file.write(version.SerializeToString())


_open: weakref.WeakValueDictionary[str, EventWriter] = weakref.WeakValueDictionary()


def shared(log_dir: str) -> EventWriter:
    """The writer to our folder in a `log_dir`: one file for all callbacks that log there.

    TensorBoard reads the files of a folder one after the other, and never looks back. To be asked for at the
    start of each `fit`: where the last file was deleted there is a new one, and trouble is told of again.
    """
    key = os.path.abspath(log_dir)
    found = _open.get(key)
    if found is None or found.lost:
        _warned.discard(os.path.dirname(os.path.join(log_dir, schema.FOLDER)))
        found = _open[key] = EventWriter(os.path.join(log_dir, schema.FOLDER))
    return found


_warned: set[str] = set()


def warn_once(log_dir: str, error: Exception) -> None:
    """One warning for a directory, however many write to it."""
    if log_dir not in _warned:
        _warned.add(log_dir)
        warnings.warn(
            f"Nothing more is logged to {log_dir!r}; training goes on. Pass a `log_dir` that can be written "
            f"to, with space on its disk, and keep it. Received: {error}",
            stacklevel=3,
        )


class ScalarWriter:
    """Writes rows of scalars, one event for each step.

    Args:
        writer: Of the file.
        names: The tags, one for each column.
    """

    def __init__(self, writer: EventWriter, names: list[str]):
        self._writer = writer
        self._names = names
        self._last_time = time.time()

    def write(self, steps: np.ndarray, rows: np.ndarray) -> None:
        """Adds rows `(S, len(names))`, their times spread evenly since the last call."""
        now = time.time()
        times = np.linspace(self._last_time, now, len(steps) + 1)[1:]
        self._last_time = now
        self._writer.write(
            [
                (step, moment, scalars(dict(zip(self._names, row))))
                for step, moment, row in zip(steps.tolist(), times.tolist(), rows.tolist())
            ]
        )


def scalars(values: dict[str, float]) -> list[Value]:
    """Numbers that are not NaN, which stands for what there was not."""
    make = tf.compat.v1.Summary.Value
    return [make(tag=tag, simple_value=value) for tag, value in values.items() if not math.isnan(value)]


def text(tag: str, content: str, plugin: str) -> Value:
    """A string as a tensor that belongs to one of TensorBoard's plugins."""
    return _tensor(tag, content, plugin)


def image(tag: str, png: bytes, width: int, height: int) -> Value:
    """A picture for TensorBoard's "Images"."""
    return _tensor(tag, [str(width).encode(), str(height).encode(), png], "images", blob=True)


def _tensor(tag: str, content: Any, plugin: str, blob: bool = False) -> Value:
    data = tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin)
    data_class = summary_pb2.DATA_CLASS_BLOB_SEQUENCE if blob else summary_pb2.DATA_CLASS_TENSOR
    metadata = tf.compat.v1.SummaryMetadata(plugin_data=data, data_class=data_class)
    return tf.compat.v1.Summary.Value(tag=tag, metadata=metadata, tensor=tf.make_tensor_proto(content))
