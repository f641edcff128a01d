"""Where the weights began, kept beside the log for a training that resumes."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
import zipfile

import numpy as np
import tensorflow as tf

from kfisher.logs import schema

MOST = 10_000_000  # entries: a log is to stay small


def save(log_dir: str, weights: list[np.ndarray]) -> None:
    """Keeps the weights; where nothing can be written the log itself says so."""
    if sum(w.size for w in weights) > MOST:
        return
    buffer = io.BytesIO()
    # NumPy's files have no half precision of other makers.
    np.savez(buffer, *[w.astype("float32") if w.dtype.itemsize < 4 else w for w in weights])
    with contextlib.suppress(OSError, tf.errors.OpError):
        path = _path(log_dir)
        tf.io.gfile.makedirs(os.path.dirname(path))
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(buffer.getvalue())


def load(log_dir: str, shapes: list[tuple[int, ...]]) -> list[np.ndarray] | None:
    """The weights that `save` kept; `None` if there are none of these shapes."""
    path = _path(log_dir)
    try:
        if not tf.io.gfile.exists(path):
            return None
        with tf.io.gfile.GFile(path, "rb") as file:
            kept = np.load(io.BytesIO(file.read()))
        weights = [kept[name] for name in kept.files]
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, tf.errors.OpError) as error:
        warnings.warn(
            f"Distances count from here on: {path!r} cannot be read. Received: {error}", stacklevel=2
        )
        return None
    return weights if [w.shape for w in weights] == shapes else None


def _path(log_dir: str) -> str:
    return os.path.join(log_dir, schema.FOLDER, schema.START_FILE)
