"""From the name of an experiment to its figures, tables and report."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import tensorflow as tf

from kfisher import datasets
from kfisher_scripts.reproduction import (
    capacity,
    csv_files,
    definitions,
    figures,
    joint,
    misspecification,
    optimization,
    report,
    statements,
    tables,
    vectorfield,
)
from kfisher_scripts.reproduction.checks import Evidence
from kfisher_scripts.reproduction.models import KINDS, Kinds
from kfisher_scripts.reproduction.statements import Statement

_CAPTIONS = {
    "vectorfield": "Data, and the vector fields of GD, NGD and EF over (b, θ), full batch, with "
    "trajectories from four starts (dots) to the minimum (star). Arrows have the scale of "
    "their own field, gray lines are contours of the loss.",
    "misspecification": "Logistic regression. Above: the two classes. Below, around the minimum: contours "
    "of the loss, and where the quadratic approximations by F and by EF are 9/(2N).",
    "misspecification_linear": "Linear regression. Above: the data and the fit. Below, around the minimum: "
    "contours of the loss, and where the quadratic approximations by F and by "
    "EF are 9/(2N).",
    "optimization": "Above: training loss of each method at its best hyper-parameters. Below: along EF's "
    "own path, the cosine of EF's direction and the natural gradient's, both damped by EF's "
    "best damping.",
    "optimization_boston_with_caveat": "Loss and cosine for Boston housing, only because the published "
    "figure has it.",
    "optimization_appendix": "Loss and cosine for the problems of the appendix.",
    "joint": "Logistic regression on x ~ Normal(0, I): distance of each matrix, from N draws of x, to the "
    "Fisher of the joint, whose expectation over x is taken by quadrature.",
    "capacity": "Networks 1-width-1 with tanh on N examples of a curve with unit noise, at the end of "
    "training. Left: KL divergence from the truth. Right: distance of EF from F. "
    "Medians over several draws of data and first weights.",
}


def run(
    experiment: str,
    quick: bool,
    appendix: bool,
    out: Path,
    pictures: Path | None = None,
    kinds: Kinds = KINDS,
) -> list[Statement]:
    """Runs it, writes everything to `out`, and returns the statements with their checks."""
    tf.get_logger().setLevel("ERROR")  # that a program is compiled for each problem is meant
    evidence, drawn = Evidence(), {}

    def keep(name: str, figure, note: str = "") -> None:
        small = pictures if name in ("vectorfield", "misspecification", "optimization") else None
        drawn[name] = figures.save(figure, out, name, small), " ".join((_CAPTIONS[name], note)).strip()

    every = experiment == "all"
    if every or experiment == "misspecification":
        evidence.at_minimum = misspecification.run(kinds)
        found = list(evidence.at_minimum.values())
        keep("misspecification", figures.misspecification(found[:3]))
        keep("misspecification_linear", figures.misspecification(found[3:]))
    if every or experiment == "vectorfield":
        evidence.field = vectorfield.run(quick, kinds)
        keep("vectorfield", figures.vectorfield(evidence.field))
    if every:
        evidence.definitions = definitions.run(kinds)
        evidence.convergence = joint.run(quick, kinds)
        keep("joint", figures.convergence(evidence.convergence))
        evidence.capacity = capacity.run(*(capacity.QUICK if quick else capacity.FULL), kinds)
        keep("capacity", figures.capacity(evidence.capacity))
    if every or experiment == "optimization":
        names = optimization.MAIN + (optimization.APPENDIX if appendix else ())
        for name in names:
            evidence.results[name] = optimization.run(name, quick, out / "checkpoints", kinds)
        main = [evidence.results[n] for n in optimization.MAIN if n != optimization.BOSTON]
        keep("optimization", figures.optimization(main))
        boston = [evidence.results[optimization.BOSTON]]
        keep("optimization_boston_with_caveat", figures.optimization(boston, caveat()))
        if appendix:
            found = [evidence.results[n] for n in optimization.APPENDIX]
            keep("optimization_appendix", figures.optimization(found))
    claims = statements.statements(evidence)
    csv_files.write(evidence, claims, out)
    report.write(out / "report.html", claims, drawn, tables.tables(evidence), _notes(evidence, quick))
    return claims


def caveat() -> str:
    """That of the Boston data set, in its own words."""
    text = re.sub(r"\s+", " ", inspect.cleandoc(datasets.describe("boston_with_caveat")))
    return text[text.index("Caveat:") : text.index(" Origin:")].replace("`", "")


def _notes(evidence: Evidence, quick: bool) -> list[str]:
    notes = []
    if quick:
        notes.append(
            "Made with --quick: Euler steps of 0.01 instead of 0.001 in the vector field; fewer sizes for "
            "the Fisher of the joint and for networks; and a coarse grid of hyper-parameters, in steps of a "
            "decade for the step size and of two for the damping over the published range, finer around the "
            "published best cells. Without --quick the grid is the published one, 241 step sizes by 41 "
            "dampings."
        )
    if evidence.results:
        notes.append(
            "All matrices, steps and curves are float64. Losses are means over the data. In the grid search "
            "every model has a bias, features are not normalised, and all weights start at zero."
        )
    return notes
