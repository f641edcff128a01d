"""scripts/models.py: every model can be made, and a row of its table is what its runs say."""

import importlib.util
import pathlib

import numpy as np
import pytest
from kfisher_scripts.models import measure
from kfisher_scripts.models.cases import AVAILABLE

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts" / "models.py"


def test_a_row_holds_what_each_optimizer_made_of_the_model(monkeypatch):
    spec = importlib.util.spec_from_file_location("models_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    found = {
        "adam": measure.Run(2.0, 0.01, 0.5, 0.9),
        "default": measure.Run(5.0, 0.02, 0.75, 0.5),
        "gram": measure.Run(error="ValueError: no"),
    }
    monkeypatch.setattr(script, "run", lambda case, optimizer, steps: found[optimizer])
    row = script.row("own train_step", ["adam", "default", "gram"], 3)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "own train_step" and cells[1] == "dense"
    assert cells[2] == "10 ms, first 2.0 s, 0.5 GiB, loss 0.9"
    assert cells[3] == "2.0, first 2.5 (5.0 s), 0.8 GiB, loss 0.5" and cells[4] == "ValueError: no"


@pytest.mark.slow
@pytest.mark.by_hand
@pytest.mark.parametrize("name", [name for name, case in AVAILABLE.items() if case.quick])
def test_a_model_trains_with_no_argument(name):
    found = measure.run(AVAILABLE[name], "default", 12)
    assert not found.error, found.error
    assert np.isfinite(found.after)
