"""One model under each optimizer: whether it trains, and what that costs."""

from __future__ import annotations

import contextlib
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import kfisher
from kfisher_scripts.models.cases import Case

# Adam comes first: all others are held to it.
OPTIMIZERS = ("adam", "default", "ekfac", "gram", "adam + TensorBoard")


class Run(NamedTuple):
    """What one optimizer made of one model.

    Attributes:
        first: Seconds of CPU until the first step is done.
        step: Seconds of CPU of each step after it.
        peak: GiB, the most that the process had in memory; NaN where that cannot be read.
        after: The mean loss of the steps after the first; of a `train_step` of one's own that of the last.
        error: What went wrong, in a line.
    """

    first: float = float("nan")
    step: float = float("nan")
    peak: float = float("nan")
    after: float = float("nan")
    error: str = ""


def run(case: Case, optimizer: str, steps: int) -> Run:
    """Trains for one step, then for the others."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    losses: list[float] = []
    with _policy(case.policy), tempfile.TemporaryDirectory() as folder, _quiet():
        try:
            work = case.make(case.batch * steps)
            work.model.compile(_optimizer(optimizer), **work.compiled)
            callbacks: list[Any] = [keras.callbacks.LambdaCallback()]
            callbacks[0].on_train_batch_end = lambda batch, logs=None: losses.append(logs["loss"])
            if "TensorBoard" in optimizer:
                callbacks.append(kfisher.callbacks.TensorBoard(folder))
            _forget_peak()
            taken = []
            for count in (1, steps - 1):
                started = time.process_time()
                work.model.fit(
                    work.x,
                    work.y,
                    batch_size=None if work.y is None else case.batch,
                    shuffle=False,
                    steps_per_epoch=count,
                    verbose=0,
                    callbacks=callbacks,
                )
                taken.append(time.process_time() - started)
        except Exception as error:  # whatever it is belongs into the table
            return Run(error=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}")
    good = np.all(np.isfinite(losses))
    error = "" if good else "the loss is not finite"
    return Run(taken[0], taken[1] / (steps - 1), _peak(), losses[-1], error)


def rules(case: Case) -> str:
    """The rules that its layers get, without repetition."""
    with _policy(case.policy), _quiet():
        work = case.make(case.batch)
        first, _ = _first_batch(work, case.batch)
        if not work.model.built:
            work.model(first)
        found = [
            row.rule
            for row in kfisher.coverage(work.model, x=None if getattr(work.model, "inputs", None) else first)
        ]
    return ", ".join(dict.fromkeys(found))


def _first_batch(work: Any, batch: int) -> Any:
    if work.y is None:
        return work.x[0]
    return keras.tree.map_structure(lambda t: t[:batch], (work.x, work.y))


def _optimizer(name: str) -> keras.optimizers.Optimizer:
    if name.startswith("adam"):
        return keras.optimizers.Adam(1e-3)
    options = {"ekfac": {"curvature": "ekfac"}, "gram": {"curvature": "gram", "fisher": "exact"}}
    return kfisher.optimizers.NaturalGradient(seed=0, **options.get(name, {}))


@contextlib.contextmanager
def _policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _forget_peak() -> None:
    with contextlib.suppress(OSError):  # only Linux has it
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    return float("nan")
