"""The poster's nine statements, each with its checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kfisher_scripts.reproduction import checks
from kfisher_scripts.reproduction.checks import Check, Evidence


@dataclass
class Statement:
    """Attributes: number: On the poster. text: What it says. figures: Names. checks: On what ran."""

    number: int
    text: str
    figures: tuple[str, ...]
    checks: list[Check]

    @property
    def holds(self) -> bool:
        return bool(self.checks) and all(check.holds for check in self.checks)


_ALL: tuple[tuple[str, tuple[str, ...], Callable[[Evidence], list[Check]]], ...] = (
    ("The goal is the conditional distribution of y given x: minimise L(θ) = −Σₙ log p_θ(yₙ|xₙ).",
     (), checks.goal),
    ("Natural gradient descent: θ ← θ − F(θ)⁻¹ ∇L(θ).", ("vectorfield",), checks.step),
    ("The Fisher matrix of the joint p(x) p_θ(y|x) is N · E_p(x) E_pθ(y|x) [∇log p_θ(y|x) ∇log p_θ(y|x)ᵀ].",
     ("joint",), checks.joint),
    ("The Fisher matrix of the conditional, at the inputs that there are, is Σₙ E_pθ(y|xₙ) [∇log p_θ(y|xₙ) "
     "∇log p_θ(y|xₙ)ᵀ]. "
     "It needs no p(x).", (), checks.conditional),
    ("The empirical Fisher is Σₙ ∇log p_θ(yₙ|xₙ) ∇log p_θ(yₙ|xₙ)ᵀ: the same expression with the labels of "
     "the data.",
     (), checks.empirical),
    ("Where a problem is ill-conditioned gradient descent struggles, and natural gradient adapts to the "
     "geometry.",
     ("vectorfield", "optimization"), checks.geometry),
    ("EF distorts direction and magnitude: large gradient, small update; small gradient, large update. Its "
     "step size is hard to tune, and even when tuned its direction can be opposite to the natural gradient.",
     ("vectorfield", "optimization", "optimization_boston_with_caveat", "optimization_appendix"),
     checks.distortion),
    ("EF can misestimate the curvature even at the minimum. EF ≈ F there only if the model is well "
     "specified and there is enough data, which is hard to check in advance.",
     ("misspecification", "misspecification_linear"), checks.minimum),
    ("Large models can help, as they are more likely to be well specified, but they need more data.",
     ("capacity",), checks.large),
)  # fmt: skip


def statements(evidence: Evidence) -> list[Statement]:
    """Those for which there is evidence."""
    found = [Statement(i, text, figures, check(evidence)) for i, (text, figures, check) in enumerate(_ALL, 1)]
    return [statement for statement in found if statement.checks]
