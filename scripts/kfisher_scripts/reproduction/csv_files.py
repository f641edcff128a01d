"""The numbers behind the figures, as CSV."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from kfisher_scripts.reproduction import tables
from kfisher_scripts.reproduction.checks import Evidence
from kfisher_scripts.reproduction.statements import Statement


def write(e: Evidence, claims: list[Statement], out: Path) -> None:
    """Every number behind the figures."""
    out.mkdir(parents=True, exist_ok=True)
    _csv(out / "statements.csv",
         ("statement", "check", "measured", "published", "holds"),
         [(s.number, c.what, c.measured, c.published, c.holds)
          for s in claims for c in s.checks])  # fmt: skip
    if e.field is not None:
        arrows = e.field.arrows.items()
        _csv(out / "vectorfield_arrows.csv", ("method", "b", "theta", "db", "dtheta"),
             [(m, *p, *a) for m, found in arrows for p, a in zip(e.field.points, found)])  # fmt: skip
        every = max(1, round(0.05 / e.field.step))
        _csv(out / "vectorfield_paths.csv", ("method", "start", "time", "b", "theta"),
             [(m, s, i * e.field.step, *path[i, s]) for m, path in e.field.paths.items()
              for s in range(path.shape[1]) for i in range(0, len(path), every)])  # fmt: skip
    if e.at_minimum:
        rows = {name: one.row() for name, one in e.at_minimum.items()}
        _csv(out / "misspecification.csv", ("data", *next(iter(rows.values()))),
             [(name, *row.values()) for name, row in rows.items()])  # fmt: skip
    if e.results:
        _results(e, out)
    if e.convergence is not None:
        c = e.convergence
        _csv(out / "joint.csv",
             ("N", "conditional", "ef_labels_of_the_model", "ef_labels_of_another_process"),
             zip(c.sizes, c.conditional, c.right, c.wrong))  # fmt: skip
    if e.definitions is not None:
        d = vars(e.definitions)
        _csv(out / "definitions.csv", tuple(d), zip(*d.values()))
    if e.capacity is not None:
        c = e.capacity
        _csv(out / "capacity.csv", ("hidden_units", "N", "misfit", "distance", "trace_share"),
             [(w, n, c.misfit[i, j], c.distance[i, j], c.share[i, j])
              for i, w in enumerate(c.widths) for j, n in enumerate(c.sizes)])  # fmt: skip


def _results(e: Evidence, out: Path) -> None:
    curves = []
    for name, r in e.results.items():
        for method, path in r.losses.items():
            for i, loss in enumerate(path):
                probe = (r.cosine[i], r.ratio[i], r.gradient[i]) if method == "EF" else ("", "", "")
                curves.append((name, method, *r.chosen[method], i, loss, *probe))
        cells = [(m, *c, v) for m, found in r.found.items() for c, v in zip(found.cells, found.losses)]
        _csv(out / f"grid_{name}.csv", ("method", "log10_step_size", "log10_damping", "loss"), cells)
    _csv(out / "optimization.csv",
         ("problem", "method", "log10_step_size", "log10_damping", "iteration", "loss", "cosine",
          "length_ratio", "gradient_norm"),
         curves)  # fmt: skip
    table = tables.best(e)
    _csv(out / "best.csv", table.header, table.rows)


def _csv(path: Path, header: tuple[str, ...], rows) -> None:
    def text(value):
        if isinstance(value, (float, np.floating)):
            return "" if math.isnan(value) else f"{value:.10g}"
        return "" if value is None else value

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([text(v) for v in row] for row in rows)
