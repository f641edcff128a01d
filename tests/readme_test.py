"""The README's first example runs as written and does what the README says."""

import ast
import inspect
import pathlib
import re

import keras
import pytest
import tensorflow as tf

import kfisher

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.slow
def test_the_first_example_ends_where_the_readme_says_and_adam_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"tf": tf}
    exec(BLOCKS[0], names)
    figures = re.search(r"error is about ([\d.]+) .*? is at ([\d.]+)\.\n", README, re.S)
    claimed, adam = map(float, figures.groups())
    model, x, y = names["model"], names["x"], names["y"]
    assert abs(model.evaluate(x, y, verbose=0)[0] - claimed) < 0.5 * claimed

    def ends_at(learning_rate):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(16, "tanh"), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((6,)), *layers])
        model.compile(keras.optimizers.Adam(learning_rate), "mse")
        return model.fit(x, y, batch_size=64, epochs=30, verbose=0).history["loss"][-1]

    assert abs(min(map(ends_at, (0.03, 0.1, 0.3, 1.0))) - adam) < 0.5 * adam

    matrix = next(block for block in BLOCKS if "FisherOperator" in block)
    exec(matrix, names)
    assert names["F"].shape == (model.count_params(),) * 2

    watching, reading = (b for b in BLOCKS if "callbacks.TensorBoard" in b or "read_log" in b)
    exec(watching, names)
    exec(reading, names)
    assert len(names["log"].steps["step"]) == 300 and names["log"].measurements and names["log"].verdicts
    assert (tmp_path / "overview.png").stat().st_size > 10_000


def test_every_setting_that_it_names_can_be_made():
    """What stands in a line of text as code, and names nothing but what kfisher and Keras have."""
    rooms = (kfisher.optimizers, kfisher.curvature, kfisher.damping, kfisher.losses, kfisher.callbacks)
    names = {"kfisher": kfisher, "keras": keras}
    names |= {name: value for room in rooms for name, value in vars(room).items() if name[0] != "_"}
    prose, made = re.sub(r"^```.*?^```", "", README, flags=re.S | re.M), 0
    for code in re.findall(r"`([^`\n]+)`", prose):
        settings = re.match(r"\w+=[^=]", code)
        try:
            tree = ast.parse(f"dict({code})" if settings else code, mode="eval").body
        except SyntaxError:
            continue
        known = all(n.id in names for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id != "dict")
        if not (isinstance(tree, ast.Call) and known) or "..." in code:
            continue
        found = eval(ast.unparse(tree), dict(names))
        if settings and set(found) <= set(inspect.signature(kfisher.optimizers.NaturalGradient).parameters):
            kfisher.optimizers.NaturalGradient(**found)
        made += 1
    assert made > 30


def test_the_coverage_table_is_what_is_printed():
    keras.utils.clear_session(free_memory=False)  # so that layers are named from the start
    model = kfisher.Sequential([keras.Input((6,)), keras.layers.Dense(16), keras.layers.Dense(1)])
    shown = next(block for block in BLOCKS if "coverage" in block).splitlines()[1:]
    assert str(kfisher.coverage(model, "kfac")).splitlines() == shown
