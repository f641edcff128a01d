"""Data on which it is known whether the empirical Fisher is right: of the table, and held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

import kfisher
from kfisher_scripts.verdicts.families import FAMILIES, POSITIONS, Family, Matrices, matrices, minimum

SIZES = (8, 16, 64, 256, 1000)
PLACES = ("untrained", "half-way", "minimum")
_POPULATION = 50_000
# A step counts as wrong, and a curvature, from where the verdict says so by default.
_LIMITS = kfisher.Thresholds()


@dataclass
class Setting:
    """One way to make labels, and a model for them.

    Attributes:
        name: For the table.
        family: Of the model: "normal", "classes", "counts" or "positions".
        draw: From a random generator and N: inputs `(N, 2)` and labels `(N,)`, or `(N, positions, ...)`.
        fitted: Whether the minimum is that of the measured examples, or that of the population.
    """

    name: str
    family: str
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
    fitted: bool = True
    _population: tuple = field(default=(), repr=False)

    @property
    def model(self) -> Family:
        return FAMILIES[self.family]

    def population(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inputs, labels and the minimum of very many examples."""
        if not self._population:
            x, y = self.draw(np.random.default_rng(12345), _POPULATION)
            self._population = (x, y, minimum(self.model, x, y))
        return self._population

    def weights(self, place: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """W at a place, for a sample that is to be measured."""
        if place == "minimum" and self.fitted:
            return minimum(self.model, x, y)
        return self.population()[2] * PLACES.index(place) / 2

    def truth(self, place: str) -> Truth:
        """What holds for very many examples at that place."""
        x, y, best = self.population()
        return Truth.of(matrices(self.model, best * PLACES.index(place) / 2, x, y), place)


@dataclass
class Truth:
    """What very many examples say.

    Attributes:
        cosine: Between the steps of EF and F; NaN at the minimum.
        length_ratio: Of the EF step over that of F; NaN at the minimum.
        smallest, largest: Eigenvalues of F⁻¹ EF; NaN elsewhere.
    """

    cosine: float
    length_ratio: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, found: Matrices, place: str) -> Truth:
        values, vectors = np.linalg.eigh(found.exact)
        damping = np.sqrt(np.finfo(np.float32).eps) * values[-1]  # as the verdict takes it
        if place == "minimum":
            kept = vectors[:, values > damping] / np.sqrt(values[values > damping])
            ratios = np.linalg.eigvalsh(kept.T @ found.empirical @ kept)
            return cls(np.nan, np.nan, float(ratios[0]), float(ratios[-1]))
        eye = damping * np.eye(len(values))
        one, two = (np.linalg.solve(m + eye, found.gradient) for m in (found.empirical, found.exact))
        lengths = np.linalg.norm(one), np.linalg.norm(two)
        cosine, ratio = one @ two / (lengths[0] * lengths[1]), lengths[0] / lengths[1]
        return cls(float(cosine), float(ratio), np.nan, np.nan)

    @property
    def wrong(self) -> set[str]:
        """The verdicts against EF that are true."""
        found = set()
        if self.cosine < 0:
            found.add("opposite")
        if self.cosine < _LIMITS.cosine or max(self.length_ratio, 1 / self.length_ratio) > _LIMITS.length:
            found.add("distorted")
        if self.largest > _LIMITS.ratio or self.smallest < 1 / _LIMITS.ratio:
            found |= {"misspecified", "distorted"}  # the steps of a wrong curvature are wrong
        return found

    def __str__(self) -> str:
        if np.isnan(self.cosine):
            return f"eigenvalues {self.smallest:.2f} to {self.largest:.2f}"
        return f"cosine {self.cosine:.2f}, {self.length_ratio:.2g} x as long"


def _regression(slope: float, noise: Callable, bend: float = 0.0) -> Callable:
    """y = slope (1 + x₁ - x₂) + bend x₁² + noise."""

    def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(size, 2))
        mean = slope * (1 + x[:, 0] - x[:, 1]) + bend * x[:, 0] ** 2
        return x, mean + noise(x) * rng.normal(size=size)

    return draw


def _one(x: np.ndarray) -> float:
    return 1.0


def _two(x: np.ndarray) -> float:
    return 2.0


def _by_input(x: np.ndarray) -> np.ndarray:
    """A standard deviation with a mean square of 1 that grows with the first input."""
    return np.sqrt((1 + 2 * x[:, 0] ** 2) / 3)


def _regressions(slope: float, fitted: bool, prefix: str = "") -> list[Setting]:
    ways = {
        "well specified": (_one, 0.0),
        "wrong noise": (_two, 0.0),
        "wrong model": (_one, 0.5),
        "heteroscedastic": (_by_input, 0.0),
    }
    return [
        Setting(prefix + name, "normal", _regression(slope, noise, bend), fitted)
        for name, (noise, bend) in ways.items()
    ]


def _classes(way: str) -> Callable:
    """Labels of three classes; logits linear in x, but for a bend, random labels, or a temperature."""

    def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(size, 2))
        f = np.c_[x[:, 0], x[:, 1], -x[:, 0] - x[:, 1] + 0.5]
        if way == "wrong model":
            f = np.c_[2 * x[:, 0] ** 2 - 2, 1.5 * x[:, 1], np.zeros(size)]
        if way == "heteroscedastic":
            f = 3 * f * (x[:, :1] > 0)
        y = np.argmax(f + rng.gumbel(size=f.shape), 1)
        if way == "wrong noise":  # certain, but for one label in five
            y = np.where(rng.uniform(size=size) < 0.2, rng.integers(3, size=size), np.argmax(f, 1))
        return x, y.astype(float)

    return draw


def _counts(way: str) -> Callable:
    """Counts with the mean exp(1 + (x₁ - x₂) / 2), but for a bend or a Gamma factor on the mean."""

    def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(size, 2))
        mean = np.exp(1 + (x[:, 0] - x[:, 1]) / 2)
        if way == "wrong model":
            mean = np.exp(0.5 + 0.5 * x[:, 0] ** 2 * (np.abs(x[:, 0]) < 2) - x[:, 1] / 2)
        shape = {"wrong noise": 1.5, "heteroscedastic": np.where(x[:, 0] > 0, 1.0, 50.0)}.get(way)
        if shape is not None:
            mean = mean * rng.gamma(shape, 1 / np.asarray(shape), size=size)
        return x, rng.poisson(mean).astype(float)

    return draw


def _positions(way: str) -> Callable:
    """A regression at several positions, whose errors may have a part in common."""

    def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(size, POSITIONS, 2))
        mean = 0.3 * (1 + x[..., 0] - x[..., 1])
        if way == "wrong model":
            mean = mean + 0.5 * x[..., 0] ** 2
        noise = rng.normal(size=(size, POSITIONS))
        if way == "wrong noise":
            noise = 2 * noise
        if way == "heteroscedastic":
            noise = noise * np.sqrt((1 + 2 * x[..., 0] ** 2) / 3)
        if way == "one error for all":
            noise = np.sqrt(0.5) * (noise + rng.normal(size=(size, 1)))
        return x, mean + noise

    return draw


_WAYS = ("well specified", "wrong noise", "wrong model", "heteroscedastic")
TABLE = _regressions(1.5, fitted=True)
HELD_OUT = [
    *_regressions(0.3, fitted=False, prefix="near, "),
    *[Setting(f"classes, {way}", "classes", _classes(way), fitted=False) for way in _WAYS],
    *[Setting(f"counts, {way}", "counts", _counts(way), fitted=False) for way in _WAYS],
]
AT_POSITIONS = [
    Setting(f"positions, {way}", "positions", _positions(way)) for way in (*_WAYS, "one error for all")
]
