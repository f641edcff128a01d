"""Summary of the verdicts of a run: from when to when, how sure, and the numbers that decide."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from kfisher.diagnosis._as_json import AsJson

# Of a verdict on one measurement.
SENTENCES = {
    "fine": "The empirical Fisher is fine here, as far as the thresholds go.",
    "distorted": "Do not trust the empirical Fisher here: it distorts the step.",
    "opposite": "Do not trust the empirical Fisher here: its step opposes the natural-gradient step.",
    "inverted": "Do not trust the empirical Fisher here: its steps are long where the gradient is small.",
    "misspecified": "Do not trust the empirical Fisher here: it is not the curvature of this minimum, as "
    "model and loss do not describe the labels and their noise.",
    "unknown": "What was measured does not suffice to accuse the empirical Fisher here, nor to clear it.",
}
# What decides a verdict of each finding: two of its numbers, and how they are called.
NUMBERS = {
    "direction": {"cosine": "cosine of EF's step with the natural one", "sampled_cosine": "drawn labels'"},
    "length": {
        "length_ratio": "length of EF's step over the natural one's",
        "sampled_length_ratio": "drawn labels'",
    },
    "inversion": {
        "correlation": "rank correlation of EF's step length with the gradient norm",
        "natural_correlation": "the natural step's",
    },
    "specification": {"smallest": "eigenvalues of F⁻¹ EF from", "largest": "to"},
    "sufficiency": {"examples": "examples", "directions": "directions"},
}
_SAYS = {
    "fine": "EF is fine, as far as the thresholds go",
    "distorted": "EF distorts the step",
    "opposite": "EF's step opposes the natural-gradient step",
    "inverted": "EF's steps are long where the gradient is small, and short where it is large",
    "misspecified": "a minimum, and EF is not its curvature",
    "unknown": "what was measured does not suffice to tell",
}
# What to do where examples are what is missing.
_MORE = "; a larger `probe=(x, y)` is measured in place of a batch"


@dataclass
class Period:
    """Measurements in a row with one verdict.

    Attributes:
        verdict: As in `Verdict`.
        first, last: Steps.
        agreeing, measurements: How many of the measurements say so by themselves, of all in it.
        finding: The name of the finding that decides it.
        numbers: The two numbers that decide it most often, medians over all measurements in it.
    """

    verdict: str
    first: int
    last: int
    agreeing: int
    measurements: int
    finding: str
    numbers: dict[str, float]

    @property
    def known(self) -> bool:
        """True if the verdict and what decides it are among those that are given."""
        of_verdict = self.finding in NUMBERS and self.verdict in _SAYS
        return of_verdict and set(self.numbers) <= set(NUMBERS[self.finding])

    def __str__(self) -> str:
        steps = f"step {self.first}" if self.first == self.last else f"steps {self.first} to {self.last}"
        names = NUMBERS[self.finding]
        said = ", ".join(f"{names[name]} {value:.3g}" for name, value in self.numbers.items())
        more = self.verdict == "unknown" and self.finding == "sufficiency"
        return (
            f"{steps}: {_SAYS[self.verdict]} ({self.agreeing} of {self.measurements} measurements say so by "
            f"themselves; in the median {said}){_MORE if more else ''}"
        )


@dataclass
class Summary(AsJson):
    """Summary of the verdicts of a run.

    Attributes:
        periods: From the first measurement to the last.
        measurements: How many there were.
        trouble: What became of training, if it diverged: a sentence.
    """

    periods: list[Period]
    measurements: int
    trouble: str = ""

    def __str__(self) -> str:
        count = f"{self.measurements} measurement" + "s" * (self.measurements != 1)
        first, last = self.periods[0].first, self.periods[-1].last
        head = f"The empirical Fisher from step {first} to step {last}, by {count}:"
        lines = [head, *(f"  {period}" for period in self.periods)]
        return "\n".join([*lines, f"  {self.trouble}"] if self.trouble else lines)

    def _repr_html_(self) -> str:
        """What is printed, for a notebook."""
        head, *lines = map(escape, str(self).splitlines())
        return f"<b>{head}</b><br>{'<br>'.join(lines)}"

    def _check(self) -> None:
        if not self.periods or not all(p.known for p in self.periods):
            raise ValueError(f"`periods` must have known verdicts. Received: {self.periods}")
