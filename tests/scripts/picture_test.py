"""The picture of a comparison: its panels, and the looks of optimizers."""

import math

import numpy as np
import pytest
from kfisher_scripts.common.looks import LOOKS
from kfisher_scripts.comparison import picture
from kfisher_scripts.comparison.optimizers import OPTIMIZERS
from kfisher_scripts.comparison.problem import Setting
from kfisher_scripts.comparison.run import Run
from matplotlib.figure import Figure

from kfisher.plots.style import LOOKS as KINDS


def run(name, *measured, kept=-1):
    numbers = np.geomspace(1, 0.1, 5)
    row = lambda i: {c: numbers[i] if c in measured else math.nan for c in picture._NAMES}
    return Run(name, 0, Setting(0.1), [{"step": i, "seconds": i / 10, **row(i)} for i in range(5)], kept=kept)


@pytest.mark.parametrize(
    "measured, labels",
    [
        (("loss",), ["training loss", "training loss"]),
        (("loss", "error"), ["training loss", "relative error of the solution", "training loss"]),
        (
            ("loss", "test_loss", "cosine"),
            ["training loss", "held-out loss", "training loss", "cosine of EF step and NG step"],
        ),
        (
            ("loss", "test_loss", "validation_loss", "cosine"),
            ["training loss", *2 * ["loss on rows to choose by"], "cosine of EF step and NG step"],
        ),
    ],
)
def test_held_out_curves_stand_beside_training_ones(measured, labels, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, dpi: drawn.append(figure))
    judged = "validation_loss" if "validation_loss" in measured else "loss"
    runs = [run("adam", *measured, kept=2), run("natural_gradient", *measured)]
    picture.draw(runs, "title", 0.3, judged, tmp_path / "a.png")
    (figure,) = drawn
    assert [axes.get_ylabel() for axes in figure.axes] == labels
    (kept,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert kept.get_xdata() == [2] and kept.get_color() == LOOKS["adam"]["color"]


def test_each_optimizer_has_a_look_of_its_own_and_a_kind_one_colour():
    assert set(LOOKS) == set(OPTIMIZERS)
    assert len({look["color"] for look in LOOKS.values()}) == len(LOOKS)
    of = {"natural_gradient": "exact", "natural_gradient_sampled": "sampled", "empirical_fisher": "empirical"}
    for name, kind in of.items():
        assert LOOKS[name]["color"] == KINDS[kind]["color"]
