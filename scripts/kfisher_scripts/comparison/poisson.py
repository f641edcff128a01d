"""Poisson's equation Δu = -2π² sin(πx) sin(πy) on the unit square, u = 0 at its edge, by a network.

The loss asks for the equation inside and for the value at the edge. The solution is sin(πx) sin(πy), so that
the error of what is learnt is known. The outputs hold second derivatives in the inputs, as in all
physics-informed learning.
"""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

import kfisher
from kfisher_scripts.comparison.problem import Data

_POINTS = 400  # inside, and as many at the edge
_GRID = 101


class Solution(kfisher.FisherMixin, keras.Model):
    """u 2-32-32-1 with tanh in float64; called on points inside and at the edge, it gives what is to be 0."""

    def __init__(self):
        super().__init__(dtype="float64")
        hidden = [keras.layers.Dense(32, "tanh", dtype="float64") for _ in range(2)]
        self.u = keras.Sequential([*hidden, keras.layers.Dense(1, dtype="float64")])

    def call(self, points):
        return {"residual": self._residual(points["inside"]), "edge": self.u(points["edge"])}

    def _residual(self, x):
        """Δu + 2π² sin(πx) sin(πy)."""
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                u = self.u(x)
            slope = inner.gradient(u, x)
            slopes = slope[:, 0], slope[:, 1]
        laplacian = outer.gradient(slopes[0], x)[:, 0] + outer.gradient(slopes[1], x)[:, 1]
        return (laplacian + 2 * math.pi**2 * solution(x))[:, tf.newaxis]


def solution(x):
    """sin(πx) sin(πy), `(N,)`."""
    return tf.sin(math.pi * x[:, 0]) * tf.sin(math.pi * x[:, 1])


def model() -> keras.Model:
    made = Solution()
    made({name: tf.constant(points[:1]) for name, points in data().x.items()})
    return made


def data() -> Data:
    """Points at random inside, and at random on the four sides."""
    rng = np.random.default_rng(0)
    along, side = rng.uniform(size=_POINTS), rng.integers(4, size=_POINTS)
    across = np.floor(side / 2)
    edge = np.where(
        (side % 2 == 0)[:, np.newaxis], np.stack([along, across], 1), np.stack([across, along], 1)
    )
    x = {"inside": rng.uniform(size=(_POINTS, 2)), "edge": edge}
    y = {"residual": np.zeros((_POINTS, 1)), "edge": np.zeros((_POINTS, 1))}
    nothing = [{name: array[:0] for name, array in part.items()} for part in (x, y)]
    return Data(x, y, *nothing)


def loss() -> dict[str, keras.losses.Loss]:
    return {name: keras.losses.MeanSquaredError(dtype="float64") for name in ("residual", "edge")}


def error(model: keras.Model) -> float:
    """||u - u*|| / ||u*|| on a grid."""
    side = np.linspace(0, 1, _GRID)
    points = tf.constant(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))
    true = solution(points)
    return float(tf.norm(model.u(points)[:, 0] - true) / tf.norm(true))
