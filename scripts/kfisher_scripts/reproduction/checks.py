"""What is asked of each of the poster's nine statements, computed from what was measured."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from kfisher_scripts.reproduction import misspecification, published
from kfisher_scripts.reproduction.capacity import MIDDLE, Capacity
from kfisher_scripts.reproduction.definitions import Definitions
from kfisher_scripts.reproduction.joint import Convergence
from kfisher_scripts.reproduction.misspecification import AtMinimum
from kfisher_scripts.reproduction.optimization import BOSTON, Result
from kfisher_scripts.reproduction.published import units_off
from kfisher_scripts.reproduction.vectorfield import Field


@dataclass
class Evidence:
    """What was measured; `None` or empty where an experiment did not run."""

    field: Field | None = None
    at_minimum: dict[str, AtMinimum] = dataclasses.field(default_factory=dict)
    results: dict[str, Result] = dataclasses.field(default_factory=dict)
    convergence: Convergence | None = None
    definitions: Definitions | None = None
    capacity: Capacity | None = None


@dataclass(frozen=True)
class Check:
    """Attributes: what: What is asked. measured: The answer in numbers. holds: Whether it is so.
    published: The numbers to compare it with, if there are any."""

    what: str
    measured: str
    holds: bool
    published: str = ""


# Rounding of float64 in sums over some hundred examples, with room.
_ROUNDING = 1e-10


def goal(e: Evidence) -> list[Check]:
    if not e.at_minimum:
        return []
    found = e.at_minimum.values()
    gradient, likelihood = (max(getattr(a, key) for a in found) for key in ("gradient", "likelihood"))
    recovered = [a.recovered for a in found if not math.isnan(a.recovered)]
    return [
        Check("the loss is −1/N Σ log p(y|x) of TensorFlow Probability's Bernoulli or Normal, up to a "
              "constant", f"off by {likelihood:.0e}", likelihood < _ROUNDING),
        Check("15 natural-gradient steps end at a minimum of L on all six data sets: ‖∇L‖ falls below 1e-8 "
              "of what it was",
              f"at most {gradient:.1e}", gradient < 1e-8),
        Check("where the model is right the minimum is the process that made the labels: N dᵀFd, with d from "
              "its parameters, is within the 99 % of χ² with 2 degrees of freedom (9.2)",
              " and ".join(f"{value:.2f}" for value in recovered), max(recovered) < 9.2),
    ]  # fmt: skip


def step(e: Evidence) -> list[Check]:
    checks = []
    if "Wine" in e.results:
        loss, printed = e.results["Wine"].losses["NGD"][1], published.LOSSES["Wine"]["NGD"][1]
        checks.append(Check("one step solves a linear regression: loss on Wine after it",
                            f"{loss:.5f}", units_off(loss, printed) == 0, printed))  # fmt: skip
    if e.field is not None:
        turn, missed = e.field.turn("NGD").max(), e.field.misses("NGD").max()
        checks.append(Check("from every start the trajectory is straight (within 0.01°) and ends at the "
                            "minimum",
                            f"{turn:.0e}° off, ends {missed:.0e} away",
                            turn < 0.01 and missed < 1e-8))  # fmt: skip
    return checks


def joint(e: Evidence) -> list[Check]:
    c = e.convergence
    if c is None:
        return []
    f, ef = c.slope(c.conditional), c.slope(c.right)
    return [
        Check("with p(x) known, the operator gives the formula, here E[p (1 − p) a aᵀ] with a = (x, 1), by "
              "quadrature in NumPy", f"off by {c.formula:.0e}", c.formula < _ROUNDING),
        Check("it is what the Fisher of the conditional converges to, as 1/√N (exponent −0.5 ± 0.1)",
              f"{c.conditional[0]:.3f} at N = {c.sizes[0]}, {c.conditional[-1]:.4f} at {c.sizes[-1]}; "
              f"exponent {f:.2f}", abs(f + 0.5) < 0.1),
        Check("so does EF with labels drawn from the model (exponent −0.5 ± 0.1), further off by their noise",
              f"{c.right[0]:.3f} and {c.right[-1]:.4f}; exponent {ef:.2f}",
              abs(ef + 0.5) < 0.1 and bool(np.all(c.right > c.conditional))),
        Check("EF does not converge to it where labels come from another process: it stays 10 times as far "
              "off",
              f"{c.wrong[-1]:.2f} at N = {c.sizes[-1]}", bool(c.wrong[-1] > 10 * c.conditional[-1])),
    ]  # fmt: skip


def conditional(e: Evidence) -> list[Check]:
    d = e.definitions
    if d is None:
        return []
    return [
        Check("F is the sum over n of the expectation over both labels, written out",
              f"off by {max(d.expectation):.0e}", max(d.expectation) < _ROUNDING),
        Check("F is the Hessian of L here (logistic regression: GGN and Hessian coincide)",
              f"off by {max(d.hessian):.0e}", max(d.hessian) < _ROUNDING),
        Check("F does not change when all labels of the data are flipped",
              f"changed by {max(d.labels):.1g}", max(d.labels) < _ROUNDING),
    ]  # fmt: skip


def empirical(e: Evidence) -> list[Check]:
    d = e.definitions
    if d is None:
        return []
    shares = ", ".join(f"{share:.2f} after {steps}" for steps, share in zip(d.steps, d.share))
    return [
        Check("EF is the same sum over both labels with all the weight on those of the data",
              f"off by {max(d.data):.0e}", max(d.data) < _ROUNDING),
        Check("EF/N is the covariance of the gradients of single examples plus ∇L ∇Lᵀ, with L the mean loss",
              f"off by {max(d.noise):.0e}; share of ∇L ∇Lᵀ in its trace: {shares} steps",
              max(d.noise) < _ROUNDING),
    ]  # fmt: skip


def geometry(e: Evidence) -> list[Check]:
    checks = []
    if e.field is not None:
        gd, ngd = e.field.half_life("GD"), e.field.half_life("NGD")
        turn = e.field.turn("GD").max()
        checks += [
            Check("gradient descent bends: at some point more than 30° off the direction to the minimum",
                  f"{turn:.0f}°", turn > 30),
            Check("natural gradient needs the same time from everywhere (half of the way in log 2 = 0.69, "
                  "within 0.02); gradient descent needs 5 times as long from one start as from another",
                  f"NGD {ngd.min():.2f} to {ngd.max():.2f}, GD {gd.min():.2f} to {gd.max():.2f}",
                  bool(np.all(np.abs(ngd - np.log(2)) < 0.02) and gd.max() > 5 * gd.min())),
        ]  # fmt: skip
    if "BreastCancer" in e.results:
        last = {method: losses[-1] for method, losses in e.results["BreastCancer"].losses.items()}
        checks.append(
            Check("BreastCancer, raw features, each at its best: after 100 steps NGD's loss is below a "
                  "hundredth of GD's, and below a tenth of EF's",
                  f"GD {last['GD']:.4f}, NGD {last['NGD']:.3e}, EF {last['EF']:.3e}",
                  bool(last["NGD"] < last["GD"] / 100 and last["NGD"] < last["EF"] / 10)),
        )  # fmt: skip
    return checks


def distortion(e: Evidence) -> list[Check]:
    checks = []
    if e.field is not None:
        turn, half = e.field.turn("EF"), e.field.half_life("EF")
        checks.append(
            Check("some EF trajectory moves away from the minimum, more than 90° off its direction; half of "
                  "the way takes 5 times as long from one start as from another",
                  f"up to {turn.max():.0f}°; {half.min():.2f} to {half.max():.2f}",
                  bool(turn.max() > 90 and half.max() > 5 * half.min())),
        )  # fmt: skip
    wine = e.results.get("Wine")
    if wine is not None:
        known, ratio, norm = published.WINE, wine.ratio, wine.gradient
        lowest = int(np.argmin(wine.cosine))
        checks += [
            Check("Wine: large gradient, small update; small gradient, large update: length of EF's "
                  "direction over NGD's at the start, and at iteration 50, where the gradient is a tenth or "
                  "less",
                  f"{ratio[0]:.2f} and {ratio[50]:.1f}; gradient {norm[0]:.1f} and {norm[50]:.2f}",
                  units_off(ratio[0], known["ratio at 0"]) == 0
                  and units_off(ratio[50], known["ratio at 50"]) == 0 and bool(norm[50] < norm[0] / 10),
                  f"{known['ratio at 0']} and {known['ratio at 50']}"),
            Check("Wine: at EF's best hyper-parameters its direction is at some point more than 90° off "
                  "NGD's: the least cosine; and that at iteration 60",
                  f"{wine.cosine[lowest]:.2f} at iteration {lowest}; {wine.cosine[60]:.3f} at 60",
                  units_off(wine.cosine[lowest], known["cosine"]) == 0
                  and lowest == known["iteration"] and bool(wine.cosine[60] > known["cosine at 60"]),
                  f"{known['cosine']} at {known['iteration']}; above {known['cosine at 60']}"),
        ]  # fmt: skip
    if BOSTON in e.results:
        cosine = e.results[BOSTON].cosine
        checks.append(
            Check("Boston: EF starts in the wrong direction: its first ten cosines to NGD's are negative, "
                  "and the least of all is below −0.9",
                  f"{cosine[:10].min():.2f} to {cosine[:10].max():.2f}; least {cosine.min():.2f}",
                  bool(np.all(cosine[:10] < 0) and cosine.min() < -0.9),
                  f"about {published.BOSTON_COSINE}"),
        )  # fmt: skip
    if len(e.results) > 1:
        best = {m: [r.chosen[m][0] for r in e.results.values()] for m in ("NGD", "EF")}
        spread = {m: max(rates) - min(rates) for m, rates in best.items()}
        checks.append(
            Check("the best step size of EF differs between problems by more decades than that of NGD",
                  ", ".join(f"{m} 10^{min(v):g} to 10^{max(v):g}" for m, v in best.items()),
                  spread["EF"] > spread["NGD"]),
        )  # fmt: skip
    return checks


def minimum(e: Evidence) -> list[Check]:
    if not e.at_minimum:
        return []
    found = e.at_minimum
    off = max(units for one in found.values() for units in misspecification.agreement(one).values())
    right = max(found[name].distance for name in ("logistic, correct", "linear, correct"))
    wrong = min(one.distance for name, one in found.items() if "correct" not in name)
    b, printed = found["logistic B"], published.AT_MINIMUM["logistic B"]
    few, many = b.by_size

    def sizes(size: int, correct: bool) -> list[float]:
        return [one.by_size[size] for name, one in found.items() if ("correct" in name) == correct]

    def at(size: int, correct: bool) -> str:
        values = sizes(size, correct)
        return f"{min(values):.2g} to {max(values):.2g}"

    return [
        Check(f"at the minimum ‖EF − F‖ / ‖F‖ is below 0.1 where the model is right, and above 0.5 where it "
              f"is wrong, with N = {misspecification.SIZE}",
              f"{right:.3f} at most, {wrong:.3f} at least", right < 0.1 and wrong > 0.5),
        Check(f"more data help the right models, and not the wrong ones: with N = {many} it is below 0.02, "
              "and above 0.5",
              f"{at(few, True)} with N = {few}, {at(many, True)} with {many}; wrong models {at(many, False)}",
              bool(max(sizes(many, True)) < 0.02 < 0.1 < min(sizes(few, True))
                   and min(sizes(many, False)) > 0.5)),
        Check("all numbers of the table come out, to within a unit of the last digit",
              f"{off:g} at most", off <= 1),
        Check("the trace can hide it: logistic B has tr(F⁻¹EF) = P, within 0.01, while an eigenvalue is more "
              "than 0.5 away from 1",
              f"{b.trace:.2f}; {b.eigenvalues[0]:.2f}, {b.eigenvalues[1]:.2f}; axes {180 - b.angle:.1f}° or "
              f"{b.angle:.1f}° apart",
              abs(b.trace - 2) < 0.01 and abs(b.eigenvalues[0] - 1) > 0.5,
              f"{printed['trace']}; {printed['low']}, {printed['high']}; {printed['angle']}°"),
    ]  # fmt: skip


def large(e: Evidence) -> list[Check]:
    c = e.capacity
    if c is None:
        return []
    narrow, middle, wide = 0, c.widths.index(MIDDLE), -1
    few, many = 0, -1

    def pair(values: np.ndarray, size: int) -> str:
        return f"{values[middle, size]:.2g} and {values[wide, size]:.2g}"

    def wide_is_less(values: np.ndarray, size: int) -> bool:
        return bool(values[wide, size] < values[middle, size])

    units, label = f"{c.widths[middle]} and {c.widths[wide]} hidden units", "misfit {}, ‖EF − F‖ / ‖F‖ {}"
    return [
        Check(f"with N = {c.sizes[many]}, the wide network has less misfit than the middle one, and EF is "
              f"closer to F ({units})",
              label.format(pair(c.misfit, many), pair(c.distance, many)),
              wide_is_less(c.misfit, many) and wide_is_less(c.distance, many)),
        Check(f"it needs the data: with N = {c.sizes[few]} both are the other way round",
              label.format(pair(c.misfit, few), pair(c.distance, few)),
              not wide_is_less(c.misfit, few) and not wide_is_less(c.distance, few)),
        Check("misfit makes EF too large (tr EF > 2 tr F in the narrowest), too few data make it too small "
              "(tr EF < tr F / 2 in the widest)",
              f"tr EF / tr F = {c.share[narrow, many]:.2f} and {c.share[wide, few]:.2f}",
              bool(c.share[narrow, many] > 2 and c.share[wide, few] < 0.5)),
    ]  # fmt: skip
