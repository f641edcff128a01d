"""Small public data sets, as NumPy arrays; nothing is downloaded.

Each function returns `(x, y)` in float64: raw features `(N, D)`, not scaled and without a column of ones, and
targets `(N,)`. Regression problems regress y; class labels are 0, 1, ... in float64 as well.

Example:

>>> x, y = kfisher.datasets.yacht()
>>> print(kfisher.datasets.describe("yacht"))
"""

from kfisher.datasets.loaders import (
    NAMES,
    a1a,
    boston_with_caveat,
    breast_cancer,
    describe,
    diabetes,
    digits,
    energy,
    load,
    powerplant,
    wine,
    yacht,
)

__all__ = [
    "NAMES",
    "a1a",
    "boston_with_caveat",
    "breast_cancer",
    "describe",
    "diabetes",
    "digits",
    "energy",
    "load",
    "powerplant",
    "wine",
    "yacht",
]
