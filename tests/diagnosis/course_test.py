"""Verdicts of a run: they hold until three of five agree on another, and one summary says it all."""

import pytest

from kfisher.diagnosis.course import Course, deciding
from kfisher.diagnosis.measurement import Finding, Verdict
from kfisher.diagnosis.summary import SENTENCES, Summary


def alone(step, name, cosine=0.1, enough=True):
    """A verdict on one measurement."""
    levels = {"fine": "fine", "unknown": "unknown", "misspecified": "unknown", "distorted": "warning"}
    level = levels[name]
    steps = {"verdict": name} if level == "warning" else {}
    at_minimum = {"verdict": name} if name == "misspecified" else {}
    findings = [
        Finding("direction", level, "", {"cosine": cosine, "sampled_cosine": 0.9, **steps}),
        Finding("length", level, "", {"length_ratio": 2.0, "sampled_length_ratio": 1.0, **steps}),
        Finding("inversion", "unknown", ""),
        Finding(
            "specification",
            "bad" if at_minimum else "unknown",
            "",
            {"smallest": 3.0, "largest": 4.0, **at_minimum},
        ),
        Finding("sufficiency", "fine" if enough else "unknown", "", {"examples": 64.0, "directions": 3.0}),
    ]
    return Verdict(step, name, SENTENCES[name], findings)


NAMES = {"f": "fine", "u": "unknown", "d": "distorted", "m": "misspecified"}


def given(letters):
    course = Course()
    verdicts = [course.add(alone(10 * i, NAMES[c], i / 100, c != "u")) for i, c in enumerate(letters)]
    short = {name: letter for letter, name in NAMES.items()}
    return "".join(short[v.verdict] for v in verdicts), course, verdicts


@pytest.mark.parametrize(
    "letters, expected",
    [
        ("dddd", "dddd"),
        ("dufdudfd", "dddddddd"),  # exceptions change nothing
        ("duuu", "dddu"),
        ("dudud", "ddddd"),
        ("ffmfmm", "fffffm"),  # three of the last five
        ("fmfmf", "fffff"),  # the majority still says so
        ("uuudddmmm", "uuuuudddm"),
    ],
)
def test_a_verdict_stays_until_three_of_the_last_five_agree_on_another(letters, expected):
    assert given(letters)[0] == expected


def test_a_verdict_says_how_many_agree_and_shows_what_was_found_now():
    _, _, verdicts = given("ddudd")
    last = verdicts[3]
    assert (last.agreeing, last.measurements) == (3, 4)
    assert last.sentence.endswith("it distorts the step. (3 of the last 4 measurements.)")
    third = verdicts[2]
    assert third.verdict == "distorted" and third.findings[0].level == "unknown"
    assert verdicts[0].sentence == SENTENCES["distorted"]


def test_the_summary_has_periods_that_begin_with_the_first_that_agree():
    _, course, _ = given("dduduuumm")
    (first, second) = course.summary.periods
    assert (first.verdict, first.first, first.last, first.agreeing, first.measurements) == (
        "distorted", 0, 10, 2, 2
    )  # fmt: skip
    assert (second.verdict, second.first, second.last, second.agreeing, second.measurements) == (
        "unknown", 20, 80, 4, 7
    )  # fmt: skip
    assert first.numbers == {"cosine": pytest.approx(0.005), "sampled_cosine": 0.9}  # medians
    assert second.numbers == {"examples": 64.0, "directions": 3.0}
    text = str(course.summary)
    assert "from step 0 to step 80, by 9 measurements" in text
    assert "steps 0 to 10: EF distorts the step (2 of 2 measurements" in text and "0.005" in text
    # What to do is said of the one in which examples are missing.
    assert ["probe=" in line for line in text.splitlines()] == [False, False, True]


def test_a_summary_comes_back_from_json_and_nothing_else_does():
    _, course, _ = given("ddmmm")
    good = course.summary.to_json()
    assert Summary.from_json(good) == course.summary
    other = good.replace("misspec", "x"), good.replace("sampled_cosine", "x")  # in one of two periods
    for text in ('{"periods": [], "measurements": 0}', "3", *other):
        with pytest.raises(ValueError):
            Summary.from_json(text)


def test_the_finding_that_decides_is_the_worst_that_says_so():
    assert deciding(alone(0, "misspecified")).name == "specification"
    assert deciding(alone(0, "distorted")).name == "direction"
    assert deciding(alone(0, "unknown", enough=False)).name == "sufficiency"
    unclear = alone(0, "unknown")  # of examples that suffice
    assert deciding(unclear).name == "direction"
    unclear.findings[0].level = "fine"
    assert deciding(unclear).name == "length"
    at_minimum = alone(0, "fine")
    at_minimum.findings[3].level = "fine"
    assert deciding(at_minimum).name == "specification"


def test_the_numbers_of_a_period_are_those_of_all_measurements_in_it():
    """Not of those alone in which the finding decided: they would be chosen by what they show."""
    course = Course()
    for step, (cosine, name) in enumerate([(0.1, "distorted"), (0.2, "distorted"), (0.8, "unknown")]):
        course.add(alone(step, name, cosine, enough=False))
    (period,) = course.summary.periods
    assert period.numbers["cosine"] == 0.2 and (period.agreeing, period.measurements) == (2, 3)
    course.add(alone(3, "unknown", 0.9, enough=False))
    assert course.summary.periods[0].numbers["cosine"] == 0.5
