"""The charts of the dashboard, drawn with matplotlib from a log or from an object.

Nothing is shown and nothing global is touched: each function returns the `Axes` (of a new `Figure`, if none
are given), `overview` its `Figure`. They need no display, and draw in any thread (matplotlib: one at a time).
"""

from kfisher.plots.of_one_step import layers, overlap, ratio_eigenvalues, spectra
from kfisher.plots.over_steps import cosine, gamma, step_lengths, steps
from kfisher.plots.overview import overview

__all__ = [
    "cosine",
    "gamma",
    "layers",
    "overlap",
    "overview",
    "ratio_eigenvalues",
    "spectra",
    "step_lengths",
    "steps",
]
