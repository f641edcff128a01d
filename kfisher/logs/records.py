"""The events of a file, also of one that is damaged or still being written."""

from __future__ import annotations

import itertools
import struct
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

_HEADER = struct.Struct("<QI")  # length of the record and its checksum; a checksum follows the record, too


class Faults:
    """Records that could not be read: one warning for each file."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def add(self, path: str, where: str, reason: object) -> None:
        """Notes one record; `where` is like "at step 3"."""
        self._found.setdefault(path, []).append(f"{where}: {reason}")

    def warn(self) -> None:
        """Says what was left out."""
        for path, found in self._found.items():
            what = f"{len(found)} records" if len(found) > 1 else "a record"
            warnings.warn(f"{path!r} has {what} that cannot be read, left out: {found[0]}", stacklevel=3)


def events(path: str, faults: Faults) -> Iterator[Any]:
    """The events up to the end of a file, or up to a record that is still being written.

    Args:
        path: String.
        faults: Is told of damaged records; those after them are read.

    Raises:
        FileNotFoundError: If the file is deleted meanwhile.
    """
    last = None
    for record in _records(path):
        try:
            if record is None:
                raise DecodeError("its checksum is wrong")
            event = tf.compat.v1.Event.FromString(record)
        except DecodeError as error:
            faults.add(path, "at the beginning" if last is None else f"after step {last}", error)
            continue
        last = event.step
        yield event


def _records(path: str) -> Iterator[bytes | None]:
    """The records of a file, `None` for a damaged one."""
    read = 0
    try:
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            yield record
            read += 1
    except tf.errors.DataLossError:  # TensorFlow gives up here
        with tf.io.gfile.GFile(path, "rb") as file:
            data = file.read()
        yield from itertools.islice(_salvaged(data), read, None)
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(f"The log was deleted while it was read. Received: {path!r}") from error


def _salvaged(data: bytes) -> Iterator[bytes | None]:
    """Like `_records`: a damaged length is passed over up to the next header that is right."""
    at, headers = 0, None
    while at + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, at)
        if _masked(_crc(data[at : at + 8])) != checksum:
            yield None
            headers = _headers(data) if headers is None else headers
            following = headers[np.searchsorted(headers, at) :]
            if not len(following):
                return
            at = int(following[0])
            continue
        body, end = at + _HEADER.size, at + _HEADER.size + length
        if end + 4 > len(data):
            return  # still being written
        yield data[body:end] if _masked(_crc(data[body:end])) == _uint32(data, end) else None
        at = end + 4


def _headers(data: bytes) -> np.ndarray:
    """Every place where eight bytes and their checksum follow each other."""
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, np.uint8), _HEADER.size)
    crc = np.full(len(windows), 0xFFFFFFFF, np.uint32)
    for i in range(8):
        crc = _TABLE[(crc ^ windows[:, i]) & 0xFF] ^ (crc >> np.uint32(8))
    stored = np.ascontiguousarray(windows[:, 8:]).view("<u4")[:, 0]
    return np.flatnonzero(_masked(crc ^ np.uint32(0xFFFFFFFF)) == stored)


def _uint32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _table() -> np.ndarray:
    """CRC-32C of each byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> np.uint32(1)) ^ np.uint32(0x82F63B78), table >> np.uint32(1))
    return table


_TABLE = _table()
_ENTRIES = _TABLE.tolist()


def _crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _ENTRIES[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _masked(crc: Any) -> Any:
    """As TFRecord files keep it: rotated by 15 bits, and a constant added; of an int or an array."""
    if isinstance(crc, int):
        return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF
    return (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)
