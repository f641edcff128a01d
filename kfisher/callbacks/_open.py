"""A measurement that stays open until the step is taken."""

from __future__ import annotations

import time
from typing import Any

from kfisher.callbacks.train_function import Hook
from kfisher.diagnosis.basis import Frame
from kfisher.diagnosis.measurement import Measurement


class Open:
    """Measurement before a step, to which belongs where that step goes.

    Args:
        owner: The callback, whose `finish` is called with this in the end.
        data: The measured examples.
        measurement, frame: What was found.
        held: As for `Meter`: the model before the step, if that was taken already.

    Attributes:
        closed: When the step was over.
    """

    def __init__(self, owner: Any, data: tuple, measurement: Measurement, frame: Frame, held: Any = None):
        self.measurement, self.frame, self.closed = measurement, frame, 0.0
        self._owner, self._before, self._closed = owner, None, False
        if owner.model.steps_per_execution > 1:
            return  # the weights then change by several steps
        try:
            measurement.second_moment = owner.meter.second_moments(*data, measurement.step, held)
            self._before = owner.meter.before(*data, measurement.step, frame, held)
        except Exception as error:  # training is worth more than its log
            self._warn(error)

    def wait(self, hook: Hook) -> None:
        """Until the call of the training function that the hook is on."""
        hook.after.append(self.close)
        hook.failed.append(self.close)

    def close(self) -> None:
        """Takes in the step, if there was one."""
        if self._closed:
            return
        self._closed, self.closed = True, time.perf_counter()
        try:
            for name, value in (self._before.after() if self._before else {}).items():
                getattr(self.measurement, name)["taken"] = value
        except Exception as error:
            self._warn(error)
        self._before = None
        self._owner.finish(self)

    def _warn(self, error: Exception) -> None:
        message = f"The steps of the optimizer are not compared; training goes on. Received: {error}"
        self._owner.warn("taken", message)
