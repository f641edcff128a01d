"""What a callback that measures says besides its numbers: what was left out, trouble, pictures."""

from __future__ import annotations

import json
import time
import warnings
from typing import Any

from kfisher.callbacks._pictures import pictures
from kfisher.logs import schema, writer


class Reporting:
    """The part of `FisherSpectra` that writes."""

    measurements: Any
    write_images: bool
    _writer: Any
    _measures: bool
    _budget: Any
    _said: dict[str, str]
    _step: int
    _due: Any
    _unlogged_picture: bool

    def _end(self) -> None:
        """What was left out, and the pictures of the last measurement."""
        self._write(self._step, [self._notes()])
        if not (self.write_images and self._unlogged_picture):
            return
        started, self._unlogged_picture = time.perf_counter(), False
        drawn = pictures(list(self.measurements))
        images = [writer.image(f"{schema.PICTURE}{name}", *png) for name, png in drawn.items()]
        self._write(self.measurements[-1].step, images)
        self._budget.add(time.perf_counter() - started)

    def _notes(self) -> Any:
        """What whoever looks at the measurements has to know."""
        notes = [*self._said.values(), self._due.left_out(self._budget)]
        return writer.text(schema.NOTES_TAG, json.dumps([n for n in notes if n]), schema.PLUGIN)

    def _write(self, step: int, values: list[Any]) -> None:
        if self._measures:  # of several workers one
            self._writer.write([(step, time.time(), values)])

    def warn(self, kind: str, message: str) -> None:
        """Each kind of trouble once."""
        if kind not in self._said:
            self._said[kind] = message
            self._write(self._step, [self._notes()])
            warnings.warn(message, stacklevel=2)
