"""Tables that the tab saves, in JavaScript as the browser runs it."""

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest

import kfisher

NODE = shutil.which("node")
FOLDER = Path(kfisher.__file__).parent / "tensorboard" / "static"


@pytest.mark.skipif(NODE is None, reason="needs Node.js")
def test_no_cell_is_a_formula(tmp_path):
    module = tmp_path / "download.mjs"
    module.write_bytes((FOLDER / "download.js").read_bytes())
    names = ["=1+1", "+run", "-run", "@SUM(A1)", "\tx", 'a "b", c', "plain"]
    series = [{"name": name, "y_title": "y", "x": [1], "y": [-2.5]} for name in names]
    program = f"""
import {{asCsv}} from {str(module)!r};
const series = {series!r};
process.stdout.write(asCsv({{charts: [{{panel: "=p", run: "r", step: -1, x_title: "x", series}}]}}));
"""
    ended = subprocess.run(
        [NODE, "--input-type=module"], input=program, capture_output=True, text=True, check=True
    )
    rows = list(csv.DictReader(io.StringIO(ended.stdout, newline="")))
    marked = ["'" + name for name in names[:5]] + names[5:]
    assert [row["series"] for row in rows] == marked
    assert {(row["panel"], row["step"], row["y"]) for row in rows} == {("'=p", "-1", "-2.5")}
