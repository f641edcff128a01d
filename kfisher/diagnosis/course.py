"""The course of a run: verdicts that hold over several measurements, and one summary of all of them."""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass

import numpy as np

from kfisher.diagnosis.measurement import Finding, Verdict
from kfisher.diagnosis.summary import NUMBERS, SENTENCES, Period, Summary

_WINDOW, _MAJORITY = 5, 3  # the verdict of a run changes when three of the last five measurements say so


def deciding(verdict: Verdict) -> Finding:
    """The finding that made the verdict."""
    found = {f.name: f for f in verdict.findings}
    if verdict.verdict == "unknown":  # too few examples for anything, or a step that cannot be told
        names = ("sufficiency", "direction", "length")
        return next(found[name] for name in names if found[name].level == "unknown")
    if verdict.verdict == "fine":
        return found["specification" if found["specification"].level == "fine" else "direction"]
    against = [f for f in verdict.findings if f.values.get("verdict") == verdict.verdict]
    return min(against, key=lambda f: f.level != "bad")


@dataclass
class _Noted:
    """What is kept of the verdict on one measurement alone."""

    step: int
    verdict: str
    finding: str
    numbers: dict[str, dict[str, float]]  # of each finding


class Course:
    """The verdicts of a run so far.

    That on one measurement alone jumps from batch to batch; the one that is given stays until three of the
    last five measurements have agreed on another.
    """

    def __init__(self) -> None:
        self._noted: list[_Noted] = []
        self._given: list[str] = []
        self._recent: deque[str] = deque(maxlen=_WINDOW)

    def add(self, alone: Verdict) -> Verdict:
        """The verdict to give, after that on the latest measurement alone."""
        finding = deciding(alone)
        numbers = {
            f.name: {name: float(f.values.get(name, np.nan)) for name in NUMBERS[f.name]}
            for f in alone.findings
        }
        self._noted.append(_Noted(alone.step, alone.verdict, finding.name, numbers))
        self._recent.append(alone.verdict)
        given = self._given[-1] if self._given else alone.verdict
        changes = given != alone.verdict and self._recent.count(alone.verdict) >= _MAJORITY
        if changes:  # from the first of those that agree: the others in between are the exceptions now
            given = alone.verdict
            start = len(self._noted) - len(self._recent) + list(self._recent).index(given)
            self._given[start:] = [given] * (len(self._given) - start)
        self._given.append(given)
        agreeing, count = self._recent.count(given), len(self._recent)
        sentence = SENTENCES[given] + (
            f" ({agreeing} of the last {count} measurements.)" if count > 1 else ""
        )
        return dataclasses.replace(
            alone, verdict=given, sentence=sentence, agreeing=agreeing, measurements=count
        )

    @property
    def summary(self) -> Summary:
        """All of it."""
        starts = [i for i, name in enumerate(self._given) if i == 0 or name != self._given[i - 1]]
        ends = [*starts[1:], len(self._given)]
        return Summary([self._period(a, b) for a, b in zip(starts, ends)], len(self._given))

    def _period(self, start: int, end: int) -> Period:
        noted, verdict = self._noted[start:end], self._given[start]
        agreeing = [n for n in noted if n.verdict == verdict]
        # Several findings can make the same verdict; the most frequent one speaks, of all measurements.
        names = [n.finding for n in agreeing]
        finding = max(names, key=names.count)
        rows = [n.numbers[finding] for n in noted]
        numbers = {name: _median([row[name] for row in rows]) for name in rows[0]}
        return Period(verdict, noted[0].step, noted[-1].step, len(agreeing), len(noted), finding, numbers)


def _median(values: list[float]) -> float:
    """Of those that are known; NaN if none is."""
    known = [v for v in values if not np.isnan(v)]
    return float(np.median(known)) if known else float("nan")
