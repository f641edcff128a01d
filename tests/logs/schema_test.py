"""Names in a log are spelled once; kinds look the same in the plots and in the tab."""

import ast
import dataclasses
import json
import re
from pathlib import Path

import pytest
from werkzeug.test import Client

import kfisher
from kfisher.diagnosis.measurement import Measurement, Spectrum, Verdict
from kfisher.logs import schema
from kfisher.plots import over_steps
from kfisher.plots.style import LOOKS
from kfisher.tensorboard.plugin import _serve_static

ROOT = Path(kfisher.__file__).parent
ROOMS = ("logs", "callbacks", "plots", "tensorboard")
FILES = [ROOT / "diagnosis" / "measurement.py"] + [
    path
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*"))
    if path.suffix in (".py", ".js") and path.name != "schema.py"
]
# Words that mean something else, too: fields of what is logged as JSON.
FIELDS = {field.name for cls in (Measurement, Spectrum, Verdict) for field in dataclasses.fields(cls)}
NAMES = {
    value
    for name, value in vars(schema).items()
    if name.isupper() and isinstance(value, str) and value not in (*FIELDS, schema.PLUGIN)
}
PREFIXES = (schema.STEP, schema.LAYER, schema.FISHER)


def strings(path):
    """The string literals of a file, comments, docstrings and `__all__` left out."""
    if path.suffix == ".js":
        code = re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.M)
        keys = re.findall(r"[{,\s](\w+):", code)
        return [a or b for a, b in re.findall(r"'([^'\n]*)'|`([^`\n]*)`", code)] + keys
    tree = ast.parse(path.read_text())
    left_out = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    left_out += [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    docstrings = {
        id(node)
        for value in left_out
        if isinstance(value, (ast.Constant, ast.List))
        for node in ast.walk(value)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_folder_tag_or_statistic_is_spelled_a_second_time(path):
    found = {text for text in strings(path) if text in NAMES or any(prefix in text for prefix in PREFIXES)}
    if path.parent.name in ("tensorboard", "static"):
        found.discard("steps")  # what the page calls its list of them
    assert not found


def test_statistics_have_words_for_the_tab_and_a_colour_in_the_plots():
    of_steps = {*over_steps._LOOKS}
    assert of_steps == set(schema.STATISTICS) and set(schema.LAYER_STATISTICS) <= of_steps
    looks = [*over_steps._LOOKS.values()]
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == len(looks)


def test_kinds_look_the_same_in_the_plots_and_in_the_tab():
    answer = Client(_serve_static).get("/static/schema.js")
    assert answer.status_code == 200 and answer.content_type.startswith("text/javascript")
    page = json.loads(answer.text.removeprefix("export const schema = ").rstrip(";\n"))
    assert list(page["kinds"]) == list(LOOKS) == ["exact", "sampled", "empirical", "gradient", "taken"]
    markers = {"circle": "o", "square": "s", "triangle-up": "^", "diamond": "D", "star": "*"}
    dashes = {"solid": "-", "dash": "--", "dashdot": "-.", "dot": (0, (1, 1)), "longdash": (0, (8, 3))}
    for kind, look in page["kinds"].items():
        assert LOOKS[kind]["color"] == look["colour"]
        assert LOOKS[kind]["marker"] == markers[look["symbol"]]
        assert LOOKS[kind]["linestyle"] == dashes[look["dash"]]
    assert page["kinds"]["sampled"]["symbol"] == "square"
    kinds_js = (ROOT / "tensorboard" / "static" / "kinds.js").read_text()
    assert not any(look["colour"] in kinds_js for look in page["kinds"].values())


def test_what_the_page_is_told():
    answer = Client(_serve_static).get("/static/schema.js")
    page = json.loads(answer.text.removeprefix("export const schema = ").rstrip(";\n"))
    assert list(page["statistics"]) == list(schema.STATISTICS)
    assert page["statistics"]["update_norm"]["unit"] == "parameter"
    assert page["layerStatistics"] == list(schema.LAYER_STATISTICS)
    assert page["matrices"] == list(schema.KINDS)


@pytest.mark.parametrize("layer", ["dense", "block/attention/query"])
def test_a_tag_of_a_layer_is_taken_apart(layer):
    assert schema.layer_and_name(schema.layer_tag(layer, "update_norm")) == (layer, "update_norm")
    assert schema.layer_and_name("layer/dense") is None and schema.layer_and_name("step/a/b") is None
