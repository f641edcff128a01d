"""Statement 9: networks of several widths on samples of several sizes, where training ends."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from tqdm import tqdm

import kfisher
from kfisher.optimizers import NaturalGradient
from kfisher_scripts.common.half_squared_error import HalfSquaredError
from kfisher_scripts.reproduction.models import KINDS, Kinds, double_precision, matrices, train

# Hidden units, N, and how many draws of data and first weights.
QUICK = (1, 4, 16), (30, 300, 3000), 3
FULL = (1, 2, 4, 8, 16, 32), (30, 100, 300, 1000, 3000, 10000), 5
# Hidden units that are hardly enough for the curve.
MIDDLE = 4
_STEPS = 150


@dataclass
class Capacity:
    """One row for each width, one column for each N; medians over the draws.

    Attributes:
        widths: Hidden units.
        sizes: N.
        misfit: KL divergence from the truth to the model, E_x (f - f*)² / 2, in nats for each example.
        distance: ||EF - F|| / ||F||.
        share: tr(EF) / tr(F).
        draws: How many.
    """

    widths: tuple[int, ...]
    sizes: tuple[int, ...]
    misfit: np.ndarray
    distance: np.ndarray
    share: np.ndarray
    draws: int


def truth(x: np.ndarray) -> np.ndarray:
    """f*: more bends than a narrow network has."""
    return 3 * np.sin(3 * x) + x


def run(widths: tuple[int, ...], sizes: tuple[int, ...], draws: int, kinds: Kinds = KINDS) -> Capacity:
    """y = f*(x) + Normal(0, 1), x uniform on [-2, 2], a network 1-width-1 with tanh."""
    cells = [(width, size, draw) for width in widths for size in sizes for draw in range(draws)]
    with double_precision():
        bar = tqdm(cells, desc=f"{'networks, width and N':<24}", unit="run", dynamic_ncols=True)
        rows = [_one(*cell, kinds) for cell in bar]
    found = np.median(np.reshape(rows, (len(widths), len(sizes), draws, 3)), 2)
    return Capacity(widths, sizes, *np.moveaxis(found, 2, 0), draws)


def _one(width: int, size: int, draw: int, kinds: Kinds) -> tuple[float, float, float]:
    rng = np.random.default_rng([size, draw])
    x = rng.uniform(-2, 2, (size, 1))
    y = truth(x[:, 0]) + rng.normal(size=size)
    keras.utils.set_random_seed(draw)
    hidden = keras.layers.Dense(
        width, "tanh", kernel_initializer=keras.initializers.RandomNormal(stddev=2.0),
        bias_initializer=keras.initializers.RandomUniform(-3, 3),
    )  # fmt: skip
    model = kfisher.Sequential([keras.Input((1,)), hidden, keras.layers.Dense(1)])
    # Trained alike in both roles of `kinds`: what is asked is how the two matrices compare where it ends. The
    # bound keeps wide networks on few examples from a step out of all proportion shortly before the end.
    optimizer = NaturalGradient(
        fisher=KINDS.ngd, curvature="dense", step="quadratic_model",
        damping=kfisher.damping.LevenbergMarquardt(1e-1), trust_region=0.1,
    )  # fmt: skip
    model.compile(optimizer, HalfSquaredError())
    train(model, x, y, _STEPS)
    f, ef = matrices(model, x, y, kinds)
    grid = np.linspace(-2, 2, 2001)
    misfit = np.mean((model(grid[:, np.newaxis]).numpy()[:, 0] - truth(grid)) ** 2) / 2
    distance = np.linalg.norm(ef - f) / np.linalg.norm(f)
    return float(misfit), float(distance), float(np.trace(ef) / np.trace(f))
