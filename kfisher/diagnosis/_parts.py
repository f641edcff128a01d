"""Parts of a measurement that are dicts."""

from __future__ import annotations

from typing import TypedDict


class SpectrumError(TypedDict, total=False):
    """One standard error over draws of labels."""

    trace: float
    effective_dimension: float
    eigenvalues: list[float]


class LayerTraces(TypedDict):
    """The trace of each kind in one layer."""

    name: str
    parameters: int
    exact: float
    sampled: float
    empirical: float


class Curved(TypedDict):
    """Eigenvectors v of (F + λ I)⁻¹ (M + λ I) in the span of the directions in which F is above λ.

    Of more than 256 directions, the most curved.

    `ratio` has their eigenvalues, 1 if M = F, and `curvature` has vᵀ F v of those of unit length, descending.
    """

    curvature: list[float]
    ratio: list[float]
