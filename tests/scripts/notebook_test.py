"""The notebook for a class runs as written, and shows its three panels."""

import ast
import json
import pathlib
import re

import pytest

BOOK = pathlib.Path(__file__).parents[2] / "scripts" / "three_panels.ipynb"


def shown(source, names):
    """What a cell ends with, as a notebook would show it."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return last and eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.slow
@pytest.mark.by_hand
def test_the_notebook_shows_the_three_panels(capsys):
    cells = json.loads(BOOK.read_text(encoding="utf-8"))["cells"]
    names = {}
    found = [shown("".join(c["source"]), names) for c in cells if c["cell_type"] == "code"]
    pictures = [one._repr_png_() for one in found if hasattr(one, "_repr_png_")]
    assert len(pictures) == 4 and all(p.startswith(b"\x89PNG") and len(p) > 10_000 for p in pictures)
    said = capsys.readouterr().out
    *after, minimum = re.search(r"b = (.*), θ = (.*); least squares: \[(.*)\]", said).groups()
    assert [float(v) for v in after] == pytest.approx([float(v) for v in minimum.split()], abs=2e-3)
    assert said.count("eigenvalues of F⁻¹EF") == 3
