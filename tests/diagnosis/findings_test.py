"""Where findings change their level, and which of them makes the verdict; without any model."""

from types import SimpleNamespace

import numpy as np
import pytest

from kfisher.diagnosis import findings
from kfisher.diagnosis.findings import Thresholds
from kfisher.diagnosis.measurement import Finding
from kfisher.diagnosis.verdict import judge

FRAME = SimpleNamespace(
    values=np.array([2.0, 1.0]),
    gradient=np.ones(2),
    damping=0.1,
    shares=np.full(4, 0.25),
    total_weight=1.0,
)


def measurement(empirical, sampled, error=0.0):
    return SimpleNamespace(cosine={"empirical": empirical, "sampled": sampled}, error={"cosine": error})


@pytest.mark.parametrize(
    "empirical, sampled, error, level",
    [
        (0.7, 0.9, 0.0, "fine"),
        (0.6, 0.65, 0.0, "unknown"),  # drawn labels do no better, by a tenth ...
        (0.6, 0.71, 0.0, "warning"),
        (0.4, 0.65, 0.1, "unknown"),  # ... and two standard errors
        (0.3, 0.65, 0.1, "warning"),
        (-0.1, 0.9, 0.0, "bad"),
        (-0.1, -0.05, 0.0, "unknown"),
        (float("nan"), 0.9, 0.0, "unknown"),
    ],
)
def test_a_direction_is_wrong_only_if_drawn_labels_do_better_by_a_margin(empirical, sampled, error, level):
    found = findings.direction(measurement(empirical, sampled, error), FRAME, Thresholds())
    assert found.level == level


@pytest.mark.parametrize(
    "ratio, sampled, level",
    [
        (2.9, 1.0, "fine"),
        (0.35, 1.0, "fine"),
        (3.1, 1.0, "warning"),
        (0.32, 1.0, "warning"),
        (3.1, 1.1, "unknown"),  # so it is for drawn labels, within the factor
        (0.3, 0.7, "unknown"),
    ],
)
def test_a_length_is_wrong_only_beyond_its_factor_and_that_of_drawn_labels(ratio, sampled, level):
    now = SimpleNamespace(length_ratio=ratio, step_norm={"sampled": 2 * sampled, "exact": 2.0})
    assert findings.length(now, FRAME, Thresholds()).level == level


def test_without_gradient_or_curvature_nothing_is_said_of_a_step():
    flat = SimpleNamespace(**{**vars(FRAME), "gradient": np.zeros(2)})
    assert findings.direction(measurement(0.1, 0.9), flat, Thresholds()).level == "unknown"
    damped = SimpleNamespace(**{**vars(FRAME), "damping": 2.0})
    assert findings.direction(measurement(0.1, 0.9), damped, Thresholds()).level == "unknown"


def history(gradients, empirical, exact):
    return [
        SimpleNamespace(gradient_norm=g, step_norm={"empirical": e, "exact": n})
        for g, e, n in zip(gradients, empirical, exact)
    ]


@pytest.mark.parametrize(
    "gradients, empirical, exact, level",
    [
        ([5, 4, 3, 2, 1], [1, 2, 3, 4, 5], [5, 4, 3, 2, 1], "bad"),
        ([5, 4, 3, 2, 1], [5, 4, 3, 2, 1], [5, 4, 3, 2, 1], "fine"),
        ([5, 4, 3, 2, 1], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], "fine"),  # natural gradient does so, too
        ([5, 4, 3, 2], [1, 2, 3, 4], [4, 3, 2, 1], "unknown"),  # too few
        ([5, 4.5, 4, 3.5, 3], [1, 2, 3, 4, 5], [5, 4, 3, 2, 1], "unknown"),  # too close
        ([5, 4, 3, 2, 0], [1, 2, 3, 4, 5], [5, 4, 3, 2, 1], "unknown"),  # a gradient of 0 does not count
    ],
)
def test_inversion_takes_five_gradients_that_differ_and_a_natural_gradient_that_does_not(
    gradients, empirical, exact, level
):
    found = findings.inversion(history(gradients, empirical, exact), Thresholds())
    assert found.level == level


def test_the_intervals_are_those_of_the_basic_bootstrap():
    """One example of 20 among nineteen of 1: the mean is 1.95, and skewed.

    The outlier is drawn 0 to 3 times, in the middle nine tenths of all draws, so that the percentiles are 1
    and 3.85; the basic interval reflects them (in the logarithm) at the mean.
    """
    exact, empirical = np.ones((20, 1, 1)), np.ones((20, 1, 1))
    empirical[0] = 20
    thresholds = Thresholds(confidence=0.9, replicates=4000)
    low, high = findings._interval(exact, empirical, np.array([1.95]), thresholds, seed=0)
    assert low == pytest.approx(1.95**2 / 3.85) and high == pytest.approx(1.95**2 / 1)


@pytest.mark.parametrize(
    "shift, expected", [(0.0, (False, False)), (0.6, (True, False)), (-0.6, (False, True))]
)
def test_a_difference_beyond_chance_has_its_sign(shift, expected):
    rng = np.random.default_rng(0)
    differences = rng.normal(shift, 1.0, size=(100, 1, 1))
    assert (
        findings._beyond_chance(differences - (shift == 0) * differences.mean(), Thresholds(), 0) == expected
    )


# --- which finding makes the verdict --------------------------------------------------------------


@pytest.mark.parametrize(
    "direction, length, inversion, specification, expected",
    [
        ("fine", "fine", "unknown", "fine", "fine"),
        ("fine", "unknown", "unknown", "unknown", "fine"),
        ("unknown", "unknown", "fine", "fine", "fine"),
        ("unknown", "fine", "fine", "unknown", "unknown"),  # neither of these clears
        # Of equals the first decides ...
        ("bad", "fine", "bad", "bad", "direction"),
        ("unknown", "fine", "bad", "bad", "inversion"),
        ("warning", "warning", "fine", "unknown", "direction"),
        ("fine", "warning", "fine", "fine", "length"),
        # ... and else the worst.
        ("warning", "warning", "unknown", "bad", "specification"),
        ("warning", "unknown", "bad", "fine", "inversion"),
    ],
)
def test_the_worst_finding_makes_the_verdict_and_of_equals_the_first(
    direction, length, inversion, specification, expected, monkeypatch
):
    levels = {
        "direction": direction,
        "length": length,
        "inversion": inversion,
        "specification": specification,
    }
    names = {"direction": "opposite", "length": "distorted", "inversion": "inverted"}
    names["specification"] = "misspecified"
    for name, level in levels.items():
        found = Finding(name, level, "", {"verdict": names[name]})
        monkeypatch.setattr(findings, name, lambda *args, found=found: found)
    verdict = judge([SimpleNamespace(step=3)], FRAME, Thresholds())
    assert verdict.verdict == names.get(expected, expected) and verdict.step == 3
    assert [f.name for f in verdict.findings] == list(levels)
    assert verdict.trusted == (expected == "fine")
