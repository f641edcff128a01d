"""Measurements of the Fisher matrix beside the empirical one: numbers, and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import Any

from kfisher.diagnosis._as_json import AsJson
from kfisher.diagnosis._parts import Curved, LayerTraces, SpectrumError
from kfisher.logs import schema
from kfisher.logs.schema import fisher_tag

# Attributes of a measurement that are logged under their own names.
_NUMBERS = (schema.TRACE_RATIO, schema.LENGTH_RATIO, schema.GRADIENT_NORM, schema.DAMPING, schema.SECONDS)
_NUMBERS_BY_KIND = (schema.COSINE, schema.STEP_NORM, schema.GAMMA, schema.SECOND_MOMENT)


@dataclass
class Spectrum:
    """The eigenvalues of one Fisher on the examples, and what they add up to.

    Attributes:
        eigenvalues: The non-zero ones, descending; of the sampled Fisher, means over draws of labels.
        complete: Whether these are all of them, or only the leading ones.
        trace: The sum of all, also where only the leading ones are known.
        effective_dimension: Σ_i lambda_i / (lambda_i + damping): how many rise above the damping.
        condition: Largest over smallest non-zero eigenvalue; NaN if these are not all.
        error: One standard error over draws of labels, of `trace`, `effective_dimension` and the
            `eigenvalues` (a list); empty where nothing is drawn.
    """

    eigenvalues: list[float]
    complete: bool
    trace: float
    effective_dimension: float
    condition: float
    error: SpectrumError = field(default_factory=SpectrumError)


@dataclass
class Measurement(AsJson):
    """F (exact), the same with drawn labels, and EF (labels of the data), on the same examples.

    Attributes:
        step: Of the optimizer.
        examples: N.
        parameters: P.
        damping: λ, in the units of F.
        gradient_norm: ‖∇L‖ on the examples.
        spectra: By kind: "exact", "sampled", "empirical".
        overlap_sizes: Numbers k of leading eigenvectors.
        overlap: By kind ("sampled", "empirical"): for each k, ‖U_kᵀ V_k‖_F² / k between the leading
            eigenspaces of F and of that kind: 1 for the same space, about k / P for unrelated ones.
        ratio_eigenvalues: Of (F + λ I)⁻¹ (EF + λ I) in the joint span, descending; 1 if EF = F.
        trace_ratio: tr((F + λ I)⁻¹ EF); the effective dimension of F, if EF = F. NaN unless `complete`.
        cosine: By kind ("sampled", "empirical"), between its (M + λ I)⁻¹ ∇L and that of F; and between
            the step that was "taken" and the latter, if that is known.
        step_norm: ‖(M + λ I)⁻¹ ∇L‖ for the matrix M of each kind; of the step that was "taken", with the
            learning rate, ‖Δθ‖.
        gamma: √(dᵀ F d) / |dᵀ ∇L| for the direction d of each kind, and of the step that was "taken", over
            that of the gradient; the natural gradient has the least.
        layers: For each layer: its name, how many parameters, and the trace of each kind: `{"name",
            "parameters", "exact", "sampled", "empirical"}`.
        error: One standard error over draws of labels of the "sampled" entries: `{"cosine", "step_norm",
            "gamma"}`.
        dimension: Of the space in which the matrices were compared.
        complete: Whether that is the whole joint span of the rows; otherwise it is that of the leading
            eigenvectors and the steps of each kind, and of the gradient.
        seconds: That it took, without tracing.
        drawn: 0 if F is exact; else from how many drawn labels of each example it was estimated, as all its
            rows were too many.
        curved: By kind ("sampled", of one draw, and "empirical"): how it relates to F in the directions in
            which F rises above the damping.
        second_moment: By kind ("sampled", "empirical"): the rank correlation over parameters of the second
            moments that an optimizer such as Adam keeps with the diagonal of that matrix; empty if it keeps
            none.
    """

    step: int
    examples: int
    parameters: int
    damping: float
    gradient_norm: float
    spectra: dict[str, Spectrum]
    overlap_sizes: list[int]
    overlap: dict[str, list[float]]
    ratio_eigenvalues: list[float]
    trace_ratio: float
    cosine: dict[str, float]
    step_norm: dict[str, float]
    gamma: dict[str, float]
    layers: list[LayerTraces]
    error: dict[str, float]
    dimension: int
    complete: bool
    seconds: float = math.nan
    drawn: int = 0
    curved: dict[str, Curved] = field(default_factory=dict)
    second_moment: dict[str, float] = field(default_factory=dict)

    @property
    def length_ratio(self) -> float:
        """Length of the empirical step over that of the natural-gradient step, at the same damping."""
        return self.step_norm["empirical"] / self.step_norm["exact"] if self.step_norm["exact"] else math.nan

    def scalars(self) -> dict[str, float]:
        """Every number that is one, by the tag that TensorBoard shows it under."""
        found = {}
        for kind, spectrum in self.spectra.items():
            for name in (schema.TRACE, schema.EFFECTIVE_DIMENSION, schema.CONDITION):
                found[fisher_tag(name, kind)] = getattr(spectrum, name)
            if spectrum.eigenvalues:
                found[fisher_tag(schema.LARGEST_EIGENVALUE, kind)] = spectrum.eigenvalues[0]
        for kind, values in self.overlap.items():
            for k, value in zip(self.overlap_sizes, values):
                found[fisher_tag(f"{schema.OVERLAP}{k}", kind)] = value
        if self.ratio_eigenvalues:
            found[fisher_tag(schema.RATIO_EIGENVALUE, "largest")] = self.ratio_eigenvalues[0]
            found[fisher_tag(schema.RATIO_EIGENVALUE, "smallest")] = self.ratio_eigenvalues[-1]
        for name in _NUMBERS:
            found[fisher_tag(name)] = getattr(self, name)
        for name in _NUMBERS_BY_KIND:
            found |= {fisher_tag(name, kind): v for kind, v in getattr(self, name).items()}
        return found

    def _check(self) -> None:
        if not {"exact", "empirical"} <= set(self.step_norm):
            raise ValueError(f"`step_norm` must have F and EF. Received: {self.step_norm}")


@dataclass
class Finding:
    """One thing that was judged.

    Attributes:
        name: "direction", "length", "inversion", "specification", or "sufficiency" of the examples.
        level: "fine", "warning", "bad", or "unknown" where it cannot be judged here.
        text: A plain sentence with the numbers behind it.
        values: The numbers.
    """

    name: str
    level: str
    text: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass
class Verdict(AsJson):
    """Verdict on whether the empirical Fisher can stand in for the Fisher matrix here.

    Attributes:
        step: Of the optimizer.
        verdict: "fine", "distorted", "opposite", "inverted", "misspecified", or "unknown" where what was
            measured does not suffice; the worst finding. In a run, what most of the last measurements say.
        sentence: It in one plain sentence.
        findings: What it rests on: those on the measurement at this step.
        agreeing, measurements: How many of the last measurements say so by themselves.
        notes: On the step that the optimizer took, beside those of F and EF: sentences.
    """

    step: int
    verdict: str
    sentence: str
    findings: list[Finding]
    agreeing: int = 1
    measurements: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def trusted(self) -> bool:
        """True if EF is fine here."""
        return self.verdict == "fine"

    def _repr_html_(self) -> str:
        """What is printed, beside a bar in the colour of the verdict, for a notebook."""
        kind = {"fine": "sampled", "unknown": "gradient"}.get(self.verdict, "empirical")
        sentence, *rest = map(escape, str(self).splitlines())
        style = f"border-left: 6px solid {schema.LOOKS[kind].colour}; padding-left: 0.8em"
        return f"<div style='{style}'><b>{sentence}</b><br>{'<br>'.join(rest)}</div>"

    def __str__(self) -> str:
        findings = [f"{f.name}: {f.text}" for f in self.findings]
        return "\n  ".join([self.sentence, *findings, *self.notes])
