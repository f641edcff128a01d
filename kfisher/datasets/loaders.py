"""One function for each data set; its docstring says what it is, where it comes from, and its licence."""

from __future__ import annotations

import inspect
from importlib import resources
from typing import Any

import numpy as np

from kfisher._common.checks import one_of

Data = tuple[np.ndarray, np.ndarray]


def a1a() -> Data:
    """Census income: does a person earn more than 50 000 dollars a year?

    1605 × 123 binary features (22 249 of them ones), y in {0, 1} with 395 ones.

    Origin: the LIBSVM data sets, made from UCI "Adult" (Becker, Kohavi 1996).
    Licence: CC BY 4.0 (UCI).
    """
    lines = _file("a1a.libsvm").read_text().splitlines()
    x, y = np.zeros((len(lines), 123)), np.zeros(len(lines))
    for n, line in enumerate(lines):
        label, *entries = line.split()
        y[n] = float(label) > 0
        for entry in entries:
            column, value = entry.split(":")
            x[n, int(column) - 1] = float(value)
    return x, y


def energy() -> Data:
    """Energy efficiency of buildings: the heating load from the shape of the building.

    768 × 8, y in kWh/m².

    Origin: UCI "Energy Efficiency" (Tsanas, Xifara 2012).
    Licence: CC BY 4.0 (UCI).
    """
    return _table("energy.csv")


def powerplant() -> Data:
    """Combined-cycle power plant: the electrical output from the weather.

    9568 × 4, y in MW.

    Origin: UCI "Combined Cycle Power Plant" (Tüfekci, Kaya 2014).
    Licence: CC BY 4.0 (UCI).
    """
    return _table("powerplant.csv")


def yacht() -> Data:
    """Yacht hydrodynamics: the residuary resistance from the shape of the hull and its speed.

    308 × 6, y per unit weight of displacement.

    Origin: UCI "Yacht Hydrodynamics" (Gerritsma, Onnink, Versluis 1981).
    Licence: CC BY 4.0 (UCI).
    """
    return _table("yacht.csv")


def boston_with_caveat() -> Data:
    """Boston housing: the median value of homes. Only for reproducing a published figure.

    506 × 13, y in 1000 dollars.

    Caveat: column 11, `b` = 1000 (B - 0.63)² with B the share of Black residents, was made on the racist
    premise that segregation raises the value of homes. Do not use these data for anything but figures that
    already exist; `energy` and `yacht` are regressions of about the same size.

    Origin: Harrison, Rubinfeld 1978, through StatLib and UCI.
    Licence: none is stated by its origin.
    """
    return _table("boston.csv")


def breast_cancer() -> Data:
    """Wisconsin breast cancer: benign (1) or malignant (0) from the shape of cell nuclei.

    569 × 30, y in {0, 1} with 357 ones. Raw features span five orders of magnitude.

    Origin: UCI "Breast Cancer Wisconsin (Diagnostic)" (Wolberg et al. 1993), as shipped by scikit-learn.
    Licence: CC BY 4.0 (UCI).
    """
    return _scikit_learn("breast_cancer")


def wine() -> Data:
    """Three cultivars of wine from a chemical analysis.

    178 × 13, y in {0, 1, 2}.

    Origin: UCI "Wine" (Aeberhard, Forina 1992), as shipped by scikit-learn.
    Licence: CC BY 4.0 (UCI).
    """
    return _scikit_learn("wine")


def digits() -> Data:
    """Handwritten digits as images of 8 × 8 pixels.

    1797 × 64, each pixel from 0 to 16, row by row; y in {0, ..., 9}.

    Origin: UCI "Optical Recognition of Handwritten Digits" (Alpaydin, Kaynak 1998), its test set, as shipped
    by scikit-learn.
    Licence: CC BY 4.0 (UCI).
    """
    return _scikit_learn("digits")


def diabetes() -> Data:
    """Progression of diabetes within a year, from age, sex, body mass, blood pressure and blood serum.

    442 × 10, columns centred and of unit length as scikit-learn ships them; y from 25 to 346.

    Origin: Efron, Hastie, Johnstone, Tibshirani 2004, as shipped by scikit-learn.
    Licence: none is stated by its origin; scikit-learn ships it under BSD-3-Clause.
    """
    return _scikit_learn("diabetes")


_LOADERS = {
    loader.__name__: loader
    for loader in (a1a, boston_with_caveat, breast_cancer, diabetes, digits, energy, powerplant, wine, yacht)
}

NAMES = tuple(_LOADERS)


def load(name: str) -> Data:
    """The data set of that name.

    Args:
        name: One of `kfisher.datasets.NAMES`.

    Returns:
        x, `(N, D)`, and y, `(N,)`: NumPy arrays, as they were published.

    Raises:
        ValueError: If there is none of that name.
        ImportError: If it ships with scikit-learn, which is missing.

    Example:

    >>> x, y = kfisher.datasets.load("yacht")
    >>> x.shape, y.shape
    ((308, 6), (308,))
    """
    return _LOADERS[_known(name)]()


def describe(name: str) -> str:
    """Description of a data set: what it is, its origin and its licence.

    Args:
        name: One of `kfisher.datasets.NAMES`.

    Raises:
        ValueError: If there is none of that name.

    Example:

    >>> print(kfisher.datasets.describe("yacht").splitlines()[0])
    Yacht hydrodynamics: the residuary resistance from the shape of the hull and its speed.
    """
    return inspect.cleandoc(_LOADERS[_known(name)].__doc__ or "")


def _known(name: str) -> str:
    return one_of("name", name, NAMES)


def _file(name: str) -> Any:
    return resources.files(__package__) / name


def _table(name: str) -> Data:
    """A CSV file with a header; the last column is the target."""
    with _file(name).open() as lines:
        table = np.loadtxt(lines, delimiter=",", skiprows=1)
    return table[:, :-1], table[:, -1]


def _scikit_learn(name: str) -> Data:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            f"The data set {name!r} ships with scikit-learn. Install it with: pip install 'kfisher[scripts]'"
        ) from error
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return x.astype(np.float64), y.astype(np.float64)
