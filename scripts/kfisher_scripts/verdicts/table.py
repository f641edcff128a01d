"""False alarms and misses of the verdict, cell by cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

import kfisher
from kfisher.diagnosis.meter import Meter, examples
from kfisher.diagnosis.verdict import judge
from kfisher_scripts.verdicts.settings import PLACES, SIZES, Setting, Truth

DRAWS = 8  # as `kfisher.diagnose`
ENOUGH = 256  # examples, from which on a miss counts


@dataclass
class Cell:
    """The verdicts of all seeds in one case.

    Attributes:
        setting, place, size: The case.
        truth: What very many examples say.
        verdicts: How often each was given.
    """

    setting: str
    place: str
    size: int
    truth: Truth
    verdicts: Counter

    @property
    def count(self) -> int:
        return sum(self.verdicts.values())

    @property
    def accused(self) -> int:
        return self.count - self.cleared - self.verdicts["unknown"]

    @property
    def cleared(self) -> int:
        return self.verdicts["fine"]

    @property
    def false_alarms(self) -> float:
        """Share of verdicts against EF that are not true."""
        return (self.accused - sum(self.verdicts[name] for name in self.truth.wrong)) / self.count

    @property
    def falsely_cleared(self) -> float:
        """Share of verdicts that clear an EF that is wrong."""
        return self.cleared / self.count if self.truth.wrong else 0.0

    @property
    def misses(self) -> float:
        """Share of verdicts that do not accuse an EF that is wrong."""
        return 1 - self.accused / self.count if self.truth.wrong else 0.0


def measure(
    settings: list[Setting], seeds: int, sizes: tuple[int, ...] = SIZES, first_seed: int = 0
) -> list[Cell]:
    """All cells; one model for each family, traced once for each size."""
    meters: dict[str, Meter] = {}
    cells = []
    cases = [(s, place, size) for s in settings for place in PLACES for size in sizes]
    for setting, place, size in tqdm(cases, desc="verdicts", dynamic_ncols=True):
        if setting.family not in meters:
            meters[setting.family] = Meter(setting.model.model(2), DRAWS, seed=0)
        meter, of_samples = meters[setting.family], range(first_seed, first_seed + seeds)
        found = Counter(_verdict(meter, setting, place, size, seed) for seed in of_samples)
        cells.append(Cell(setting.name, place, size, setting.truth(place), found))
    return cells


def _verdict(meter: Meter, setting: Setting, place: str, size: int, seed: int) -> str:
    x, y = setting.draw(np.random.default_rng([seed, size]), size)
    w = setting.weights(place, x, y)
    meter.model.set_weights([w[:-1], w[-1]])
    data = examples((x.astype("float32"), y[..., np.newaxis].astype("float32"), None), None)
    measurement, frame = meter(*data, step=seed)
    return judge([measurement], frame, kfisher.Thresholds(), seed).verdict


def as_markdown(cells: list[Cell]) -> str:
    """A row for each setting and place: % accused / cleared, and the rest did not suffice."""
    sizes = sorted({c.size for c in cells})
    lines = ["| labels | weights | EF on very many examples | " + " | ".join(map(str, sizes)) + " |"]
    lines.append("|---" * (3 + len(sizes)) + "|")
    for setting, place in dict.fromkeys((c.setting, c.place) for c in cells):
        row = {c.size: c for c in cells if (c.setting, c.place) == (setting, place)}
        truth = row[sizes[0]].truth
        said = f"{'wrong' if truth.wrong else 'right'}: {truth}"
        shares = [f"{_percent(row[n].accused, row[n])} / {_percent(row[n].cleared, row[n])}" for n in sizes]
        lines.append(f"| {setting} | {place} | {said} | " + " | ".join(shares) + " |")
    return "\n".join(lines)


def _percent(part: int, cell: Cell) -> str:
    return f"{100 * part / cell.count:.0f}"


def summary(cells: list[Cell]) -> str:
    """The worst cells, each kind of error over those in which it can be made, and where nothing is said."""
    right, wrong = ([c for c in cells if bool(c.truth.wrong) is kind] for kind in (False, True))
    many = [c for c in wrong if c.size >= ENOUGH]
    few = [c for c in cells if c.size <= min(c.size for c in cells) * 2]
    silent = sum(c.verdicts["unknown"] for c in few) / max(sum(c.count for c in few), 1)
    return "\n".join(
        [
            f"EF accused of what is not so: {_all(c.false_alarms for c in cells)} (bar: 5 %)",
            f"EF accused where it is right: {_all(c.false_alarms for c in right)}",
            f"EF cleared where it is wrong: {_all(c.falsely_cleared for c in wrong)} (bar: 5 %)",
            f"misses where it is wrong, from {ENOUGH} examples: {_all(c.misses for c in many)} (bar: 10 %)",
            f"at {', '.join(map(str, sorted({c.size for c in few})))} examples "
            f"{100 * silent:.0f} % say that they do not suffice",
        ]
    )


def _all(shares: Iterable[float]) -> str:
    shares = list(shares)
    if not shares:
        return "no cells"
    return f"{100 * np.mean(shares):.1f} % in {len(shares)} cells, {100 * max(shares):.0f} % in the worst"
