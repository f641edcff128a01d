"""The data sets are the published ones: sizes, counts and sums that their origins or other sources state."""

import re
import sys

import numpy as np
import pytest

from kfisher import datasets

SHAPES = {
    "a1a": (1605, 123),
    "boston_with_caveat": (506, 13),
    "breast_cancer": (569, 30),
    "diabetes": (442, 10),
    "digits": (1797, 64),
    "energy": (768, 8),
    "powerplant": (9568, 4),
    "wine": (178, 13),
    "yacht": (308, 6),
}


@pytest.mark.parametrize("name", datasets.NAMES)
def test_every_data_set_is_float64_of_its_published_size(name):
    x, y = datasets.load(name)
    assert x.shape == SHAPES[name] and y.shape == (SHAPES[name][0],)
    assert x.dtype == y.dtype == np.float64
    assert np.isfinite(x).all() and np.isfinite(y).all()


@pytest.mark.parametrize("name", datasets.NAMES)
def test_every_data_set_states_its_size_origin_and_licence(name):
    text = datasets.describe(name)
    assert "%d × %d" % SHAPES[name] in text
    assert re.search(r"^Origin: \S", text, re.M) and re.search(r"^Licence: \S", text, re.M)


def test_a1a_has_the_counts_of_its_origin():
    x, y = datasets.a1a()
    assert set(np.unique(x)) == {0.0, 1.0} and x.sum() == 22249
    assert set(np.unique(y)) == {0.0, 1.0} and y.sum() == 395
    # The first line of the file: label -1, features 3 11 14 19 39 42 55 64 67 73 75 76 80 83, counted from 1.
    first = np.array([3, 11, 14, 19, 39, 42, 55, 64, 67, 73, 75, 76, 80, 83]) - 1
    np.testing.assert_array_equal(np.flatnonzero(x[0]), first)
    assert y[0] == 0


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("breast_cancer", [212, 357]),
        ("wine", [59, 71, 48]),
        ("digits", [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]),
    ],
)
def test_classes_have_their_published_sizes(name, labels):
    _, y = datasets.load(name)
    np.testing.assert_array_equal(np.bincount(y.astype(int)), labels)


@pytest.mark.parametrize(
    ("name", "first", "target", "least", "greatest"),
    [
        ("energy", [0.98, 514.5, 294, 110.25, 7, 2, 0, 0], 15.55, 6.01, 43.1),
        ("powerplant", [8.34, 40.77, 1010.84, 90.01], 480.48, 420.26, 495.76),
        ("yacht", [-2.3, 0.568, 4.78, 3.99, 3.17, 0.125], 0.11, 0.01, 62.42),
        ("diabetes", None, 151.0, 25.0, 346.0),
    ],
)
def test_regressions_have_features_and_target_apart(name, first, target, least, greatest):
    x, y = datasets.load(name)
    if first is not None:
        np.testing.assert_array_equal(x[0], first)
    assert (y[0], y.min(), y.max()) == (target, least, greatest)


@pytest.mark.parametrize(
    ("name", "optimum"),
    # Least squares with a bias on half the squared error: the optima in PAPER.md, "Experiments C".
    [("wine", 0.029839), ("boston_with_caveat", 10.947)],
)
def test_the_least_squares_optimum_is_the_published_one(name, optimum):
    x, y = datasets.load(name)
    x = np.column_stack([x, np.ones(len(x))])
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(np.mean(residual**2) / 2, optimum, rtol=1e-4)


def test_boston_is_there_only_under_a_name_that_warns():
    assert "boston" not in datasets.NAMES and not hasattr(datasets, "boston")
    assert "racist" in datasets.describe("boston_with_caveat")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"one of \['a1a'.*Received: name='mnist'"):
        datasets.load("mnist")


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install 'kfisher\[scripts\]'"):
        datasets.wine()
    datasets.yacht()  # needs nothing but NumPy
