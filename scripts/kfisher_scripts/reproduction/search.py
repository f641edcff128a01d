"""The grid search of experiment C, which goes on where it was interrupted."""

from __future__ import annotations

import hashlib
import inspect
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import kfisher
from kfisher_scripts.reproduction.grid import Descent, Objective
from kfisher_scripts.reproduction.models import KINDS, Kinds

STEPS = 100
# Losses that differ by less are equal up to rounding: which cell of them is best is an accident.
_TIE = 1e-9


@dataclass(frozen=True)
class Grid:
    """Pairs of step size and damping, as their decimal logarithms.

    Attributes:
        rates, dampings: The axes.
        extra: Pairs beside the grid.
    """

    rates: tuple[float, ...]
    dampings: tuple[float, ...]
    extra: tuple[tuple[float, float], ...] = ()

    def cells(self, damped: bool) -> np.ndarray:
        """log10 of (step size, damping), `(B, 2)`; without damping it is NaN."""
        rates = {rate for rate, _ in self.extra} | set(self.rates)
        if not damped:
            return np.array([(rate, np.nan) for rate in sorted(rates)])
        return np.array(sorted({(r, d) for r in self.rates for d in self.dampings} | set(self.extra)))


def published_grid() -> Grid:
    """241 step sizes 1e-20 ... 1e10 and 41 dampings 1e-10 ... 1e10, evenly spaced logarithms."""
    return Grid(tuple(np.linspace(-20, 10, 241)), tuple(np.linspace(-10, 10, 41)))


def coarse_grid(best: Iterable[tuple[float, float | None]]) -> Grid:
    """The same range in steps of a decade and of two decades, and finer around the published best cells."""
    around = {
        (rate + i / 8, damping + j / 2)
        for rate, damping in best
        if damping is not None
        for i in (-2, -1, 0, 1, 2)
        for j in (-1, 0, 1)
        if damping + j / 2 >= -10
    }
    plain = {(rate + i / 8, -10.0) for rate, damping in best if damping is None for i in (-1, 0, 1)}
    return Grid(tuple(np.linspace(-20, 10, 31)), tuple(np.linspace(-10, 10, 11)), tuple(around | plain))


@dataclass
class Found:
    """The losses after the last step of one method on all cells of its grid; infinite where dropped."""

    cells: np.ndarray
    losses: np.ndarray

    @property
    def best(self) -> tuple[float, float]:
        """log10 of (step size, damping) of the least loss."""
        return tuple(float(c) for c in self.cells[np.argmin(self.losses)])

    @property
    def least(self) -> float:
        return float(self.losses.min())

    def loss_at(self, rate: float, damping: float | None) -> float:
        """The loss of one cell of the grid."""
        same = np.isclose(self.cells[:, 0], rate)
        if damping is not None:
            same &= np.isclose(self.cells[:, 1], damping)
        return float(self.losses[np.flatnonzero(same)[0]]) if same.any() else float("nan")

    def ties(self, rate: float, damping: float | None) -> bool:
        """Whether a cell is the best one, up to rounding."""
        return self.loss_at(rate, damping) <= self.least * (1 + _TIE)


def search(
    objective: Objective, method: str, grid: Grid, checkpoint: Path, label: str, kinds: Kinds = KINDS
) -> Found:
    """The loss after 100 steps from zero in every cell.

    Args:
        objective: The problem.
        method: `"GD"`, `"NGD"` or `"EF"`.
        grid: The cells.
        checkpoint: A file that holds what is done; what it holds of another problem or grid is not used.
        label: For the progress bar.
        kinds: Which matrix the methods use.
    """
    fisher = {"GD": None, "NGD": kinds.ngd, "EF": kinds.ef}[method]
    cells = grid.cells(damped=fisher is not None)
    signature = _signature(objective, fisher, cells)
    losses = _load(checkpoint, signature, len(cells))
    todo = np.flatnonzero(np.isnan(losses))
    done = len(cells) - len(todo)
    bar = tqdm(total=len(cells), initial=done, desc=f"{label:<24}", unit="cell", dynamic_ncols=True)
    descent = Descent(objective, fisher)
    for chunk in (todo[i : i + descent.cells] for i in range(0, len(todo), descent.cells)):
        rates = 10.0 ** cells[chunk, 0]
        dampings = 10.0 ** np.nan_to_num(cells[chunk, 1])
        losses[chunk] = descent(rates, dampings, STEPS)
        _save(checkpoint, signature, losses)
        bar.update(len(chunk))
    bar.close()
    return Found(cells, losses)


def _signature(objective: Objective, fisher: str | None, cells: np.ndarray) -> str:
    """Of all that the losses depend on, the code of the descent among it."""
    known = hashlib.sha256(repr((fisher, STEPS, kfisher.__version__)).encode())
    known.update(Path(inspect.getfile(Objective)).read_bytes())
    zero = np.zeros([1, objective.size])
    f = objective.outputs(zero)
    for part in (cells, objective.jacobian.numpy(), objective.loss(f).numpy(), objective.gradient(f).numpy()):
        known.update(np.ascontiguousarray(part).tobytes())
    return known.hexdigest()


def _load(path: Path, signature: str, count: int) -> np.ndarray:
    """Losses that are done, NaN for the others."""
    if path.exists():
        try:
            with np.load(path) as saved:
                if str(saved["signature"]) == signature:
                    return saved["losses"]
        except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
            tqdm.write(f"{path} cannot be read ({error}); its part of the grid is searched anew")
    return np.full(count, np.nan)


def _save(path: Path, signature: str, losses: np.ndarray) -> None:
    """In one go, so that an interruption leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of this process: another may search into the same folder.
    partial = path.with_suffix(f".{os.getpid()}.npz")
    try:
        np.savez(partial, signature=signature, losses=losses)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
