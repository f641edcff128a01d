"""Where findings change their level, and which of them makes the verdict; without any model."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from kfisher.diagnosis import chance, findings, verdict
from kfisher.diagnosis.chance import Interval
from kfisher.diagnosis.measurement import Finding
from kfisher.diagnosis.thresholds import Thresholds
from kfisher.diagnosis.verdict import of_findings

ALL, SOME, NONE = (True, True), (False, True), (False, False)  # EF may be cleared, accused


def steps(may=ALL, **given):
    """What `Steps` finds, by hand."""
    both = {"clears": may[0], "accuses": may[1], "thresholds": Thresholds(), "nothing": ""}
    return SimpleNamespace(**both, **given)


@pytest.mark.parametrize(
    "cosine, half, drawn, margin, may, level",
    [
        (0.8, 0.05, 0.9, 0.1, ALL, "fine"),
        (0.8, 0.15, 0.9, 0.1, ALL, "unknown"),  # its interval reaches below 0.7
        (0.8, 0.05, 0.9, 0.1, SOME, "unknown"),  # too few examples to clear
        (0.5, 0.1, 0.9, 0.1, ALL, "warning"),
        (0.5, 0.1, 0.9, 0.1, SOME, "warning"),
        (0.5, 0.1, 0.9, 0.1, NONE, "unknown"),
        (0.5, 0.3, 0.9, 0.1, ALL, "unknown"),  # its interval reaches above 0.7
        (0.5, 0.1, 0.55, 0.1, ALL, "unknown"),  # drawn labels may do the same
        (-0.3, 0.1, 0.9, 0.1, ALL, "bad"),
        (-0.05, 0.01, 0.9, 0.1, ALL, "warning"),  # opposite only below the margin of drawn labels,
        (-0.3, 0.4, 0.9, 0.1, ALL, "warning"),  # and with its whole interval
        (-0.3, 0.1, 0.9, np.inf, ALL, "unknown"),  # of one draw, nobody knows what another would do
    ],
)
def test_a_direction_is_judged_by_its_interval_and_by_drawn_labels(cosine, half, drawn, margin, may, level):
    now = SimpleNamespace(cosine={"empirical": cosine, "sampled": drawn})
    given = steps(may, now=now, margins={"cosine": margin}, cosine=Interval(cosine - half, cosine + half))
    found = findings.direction(given)
    assert found.level == level
    assert found.values.get("verdict") == {"warning": "distorted", "bad": "opposite"}.get(level)


@pytest.mark.parametrize(
    "ratio, factor, drawn, margin, may, level",
    [
        (2.0, 1.2, 1.0, 0.1, ALL, "fine"),
        (0.5, 1.2, 1.0, 0.1, ALL, "fine"),
        (2.0, 1.2, 1.0, 0.1, SOME, "unknown"),
        (2.0, 1.8, 1.0, 0.1, ALL, "unknown"),  # perhaps 3.6
        (4.0, 1.2, 1.0, 0.1, SOME, "warning"),
        (0.25, 1.2, 1.0, 0.1, ALL, "warning"),
        (4.0, 1.5, 1.0, 0.1, ALL, "unknown"),  # perhaps 2.7
        (4.0, 1.2, 1.0, 0.1, NONE, "unknown"),
        (4.0, 1.2, 3.5, 0.5, ALL, "unknown"),  # so it may be for drawn labels
    ],
)
def test_a_length_is_judged_by_its_interval_and_by_drawn_labels(ratio, factor, drawn, margin, may, level):
    now = SimpleNamespace(length_ratio=ratio, step_norm={"sampled": 2 * drawn, "exact": 2.0})
    interval = Interval(np.log(ratio / factor), np.log(ratio * factor))
    given = steps(may, now=now, margins={"step_norm": margin}, log_length=interval)
    assert findings.length(given).level == level


FRAME = SimpleNamespace(
    values=np.array([2.0, 1.0]),
    gradient=np.ones(2),
    damping=0.1,
    shares=np.full(64, 1 / 64),
    total_weight=1.0,
    layout=SimpleNamespace(counts={"sampled": 2}),
)


def measured(directions):
    return SimpleNamespace(
        spectra={"exact": SimpleNamespace(effective_dimension=directions)},
        error={},
        damping=0.1,
        cosine={"empirical": 0.1, "sampled": 0.9},
        step_norm={"empirical": 1.0, "exact": 1.0, "sampled": 1.0},
        length_ratio=1.0,
    )


@pytest.mark.parametrize(
    "examples, directions, expected", [(64, 6.4, ALL), (64, 6.5, SOME), (63, 6.5, NONE), (21, 2, NONE)]
)
def test_ten_examples_a_direction_suffice_and_with_64_drawn_labels_are_a_measure(
    examples, directions, expected
):
    frame = SimpleNamespace(**{**vars(FRAME), "shares": np.full(examples, 1 / examples)})
    flat = SimpleNamespace(**{**vars(frame), "gradient": np.zeros(2)})  # no intervals are taken
    now = measured(directions)
    enough = findings.sufficiency(now, frame, Thresholds())
    found = findings.Steps([now], flat, enough, Thresholds())
    assert (found.clears, found.accuses) == expected
    assert ("do not suffice" in enough.text) == (expected != ALL)


def test_without_gradient_or_curvature_nothing_is_said_of_a_step():
    changes = [
        ({"gradient": np.zeros(2)}, "The gradient vanishes"),
        ({"damping": 2.0}, "The damping is larger than every eigenvalue"),
        ({"values": np.zeros(2)}, "F is zero"),
    ]
    for change, said in changes:
        frame = SimpleNamespace(**{**vars(FRAME), **change})
        now = measured(1.0)
        given = findings.Steps([now], frame, findings.sufficiency(now, frame, Thresholds()), Thresholds())
        for finding in (findings.direction(given), findings.length(given)):
            assert finding.level == "unknown" and finding.text.startswith(said)


def test_a_gradient_in_flat_directions_is_a_step():
    few = {"values": np.array([2.0, 0.0]), "gradient": np.array([0.0, 1.0]), "shares": np.full(63, 1 / 63)}
    frame, now = SimpleNamespace(**{**vars(FRAME), **few}), measured(6.5)
    given = findings.Steps([now], frame, findings.sufficiency(now, frame, Thresholds()), Thresholds())
    assert given.nothing == ""


@pytest.mark.parametrize("count", [5, 6, 7])
def test_an_order_that_has_just_the_correlation_of_chance_is_no_inversion(count):
    """Rounding does not decide: of seven, SciPy has it one bit below the quantile."""
    ranks, limit, seen = np.arange(count) - (count - 1) / 2, findings._by_chance(count, 0.95), 0
    for order in itertools.permutations(range(1, count + 1)):
        if abs((np.array(order) - (count + 1) / 2) @ ranks / (ranks @ ranks) - limit) < 1e-6:
            grows = list(range(1, count + 1))
            assert findings.inversion(history(grows, order, grows), steps(ALL)).level == "fine"
            seen += 1
    assert seen


def history(gradients, empirical, exact):
    return [
        SimpleNamespace(gradient_norm=g, step_norm={"empirical": e, "exact": n})
        for g, e, n in zip(gradients, empirical, exact)
    ]


UP, DOWN = [1, 2, 3, 4, 5], [5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    "gradients, empirical, exact, may, level",
    [
        (DOWN, UP, DOWN, ALL, "bad"),
        (DOWN, UP, DOWN, NONE, "unknown"),
        (DOWN, DOWN, DOWN, ALL, "fine"),
        (DOWN, UP, UP, ALL, "fine"),  # natural gradient does so, too
        (DOWN, [2, 1, 4, 3, 5], DOWN, ALL, "fine"),  # -0.8 of five has a chance of 7 %
        (DOWN[:4], UP[:4], DOWN[:4], ALL, "unknown"),  # too few
        ([5, 4.5, 4, 3.5, 3], UP, DOWN, ALL, "unknown"),  # too close
        ([5, 4, 3, 2, 0], UP, DOWN, ALL, "unknown"),  # a gradient of 0 does not count
        # It was so at first, by the largest numbers, and is no more in the last ten measurements.
        ([20, *range(19, 9, -1)], [1, *range(12, 2, -1)], [20, *range(19, 9, -1)], ALL, "fine"),
        (list(range(40, 0, -1)), [*range(30), *range(19, 9, -1)], list(range(40, 0, -1)), ALL, "fine"),
    ],
)
def test_inversion_takes_gradients_that_differ_and_more_than_chance(gradients, empirical, exact, may, level):
    assert findings.inversion(history(gradients, empirical, exact), steps(may)).level == level


# --- which finding makes the verdict --------------------------------------------------------------


@pytest.mark.parametrize(
    "direction, length, inversion, specification, expected",
    [
        ("fine", "fine", "unknown", "fine", "fine"),
        ("fine", "fine", "unknown", "unknown", "fine"),
        ("unknown", "unknown", "fine", "fine", "fine"),
        # Neither of these clears: a step has a direction and a length.
        ("fine", "unknown", "unknown", "unknown", "unknown"),
        ("unknown", "fine", "fine", "unknown", "unknown"),
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
    direction, length, inversion, specification, expected
):
    names = {"direction": "opposite", "length": "distorted", "inversion": "inverted"}
    names["specification"] = "misspecified"
    levels = dict(zip(names, (direction, length, inversion, specification)))
    found = of_findings(3, [Finding(n, level, "", {"verdict": names[n]}) for n, level in levels.items()])
    assert found.verdict == names.get(expected, expected) and found.step == 3
    assert [f.name for f in found.findings] == list(levels)
    assert found.trusted == (expected == "fine")
    assert found.sentence == verdict.SENTENCES[found.verdict]


@pytest.mark.parametrize(
    "ratio, drawn, level",
    [(6.6, 44.0, "unknown"), (44.0, 6.6, "warning"), (1 / 44, 1 / 6.6, "warning"), (1 / 20, 6.6, "warning")],
)
def test_a_length_is_told_of_where_it_is_off_by_more_than_that_of_drawn_labels(ratio, drawn, level):
    now = SimpleNamespace(step_norm={"empirical": ratio, "exact": 1.0, "sampled": drawn}, length_ratio=ratio)
    interval = chance.Interval(np.log(ratio) - 0.1, np.log(ratio) + 0.1)
    given = SimpleNamespace(
        now=now,
        thresholds=Thresholds(),
        margins={"step_norm": 0.5},
        nothing="",
        log_length=interval,
        clears=False,
        accuses=True,
    )
    assert findings.length(given).level == level
