"""compare.py --data: a person's own table, and what is said about tables that cannot be learnt from."""

import csv
import re

import compare
import numpy as np
import pytest

RNG = np.random.default_rng(0)
N = 120
NUMBERS = RNG.normal(size=(N, 2))
PRICE = NUMBERS @ [3.0, -1.0] + RNG.normal(size=N)
LABEL = np.where(PRICE > 0, "yes", "no")


@pytest.fixture
def table(tmp_path):
    """Writes a CSV file of named columns and returns its path."""

    def write(**columns):
        path = tmp_path / "house.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values()))
        return path

    return write


def run(path, *more):
    compare.main(["--data", str(path), "--out", str(path.parent / "out"), *more])


FAST = ["--optimizers", "natural_gradient", "empirical_fisher", "--epochs", "8",
        "--learning-rates", "natural_gradient=1", "empirical_fisher=1",
        "--dampings", "natural_gradient=1e-8", "empirical_fisher=0.1"]


# A network is not solved in one step.
CAREFUL = ["--epochs", "40", "--learning-rates", "natural_gradient=0.3", "empirical_fisher=0.3",
           "--dampings", "natural_gradient=0.01", "empirical_fisher=0.1"]


def test_a_regression_ends_at_least_squares_with_curves_cosine_and_verdict(table, capsys):
    path = table(a=NUMBERS[:, 0], b=NUMBERS[:, 1], flat=[7] * N, price=PRICE)
    run(path, "--target", "price", *FAST)
    said = capsys.readouterr().out
    assert "constant: flat" in said and "regression" in said
    assert "Where natural_gradient ended: " in said and "empirical Fisher" in said
    rows = list(csv.DictReader((path.parent / "out" / "house.csv").open()))
    ended = [float(r["loss"]) for r in rows if r["optimizer"] == "natural_gradient"][-1]
    x = (NUMBERS - NUMBERS.mean(0)) / NUMBERS.std(0)
    y = (PRICE - PRICE.mean()) / PRICE.std()
    train = np.random.default_rng(0).permutation(N)[N // 5 :]
    a = np.c_[x, np.ones(N)][train]
    residual = y[train] - a @ np.linalg.lstsq(a, y[train], rcond=None)[0]
    assert ended == pytest.approx(np.mean(residual**2) / 2, rel=1e-6)
    assert all(-1 <= float(r["cosine"]) <= 1 for r in rows if r["cosine"])
    assert (path.parent / "out" / "house.png").stat().st_size > 10_000


@pytest.mark.parametrize("kind", ["two classes", "three classes, network"])
def test_a_classification_by_text_labels(kind, table, capsys):
    labels, more = LABEL, []
    if kind != "two classes":
        labels, more = np.where(PRICE > 2, "maybe", LABEL), ["--hidden", "5", *CAREFUL]
    run(table(a=NUMBERS[:, 0], b=NUMBERS[:, 1], label=labels), "--target", "label", *FAST, *more)
    said = capsys.readouterr().out
    assert ("2 classes (no, yes)" if kind == "two classes" else "3 classes (maybe, no, yes)") in said
    line = next(line for line in said.splitlines() if line.startswith("natural_gradient "))
    assert float(line.split()[4]) > 0.7  # accuracy


def test_settings_come_from_a_grid_where_none_are_named(table, capsys):
    path = table(a=NUMBERS[:, 0], b=NUMBERS[:, 1], price=PRICE)
    run(path, "--target", "price", "--optimizers", "sgd", "--epochs", "4")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("sgd "))
    assert float(line.split()[1]) == 1.0  # standardised features: the largest rate of the grid is the best


def gaps():
    column = [str(v) for v in NUMBERS[:, 0]]
    column[3], column[5] = "", "NA"
    return column


@pytest.mark.parametrize(
    "columns, arguments, said",
    [
        ({"a": NUMBERS[:, 0], "price": PRICE}, [], "--data needs --target"),
        ({"a": NUMBERS[:, 0], "price": PRICE}, ["--target", "cost"], "no column 'cost'.*It has: a, price"),
        ({"a": LABEL, "price": PRICE}, ["--target", "price"], "hold text: a .*--drop a"),
        ({"a": gaps(), "price": PRICE}, ["--target", "price"], r"missing values in: a \(2 of 120\)"),
        ({"a": [1] * N, "price": PRICE}, ["--target", "price"], "No column is left"),
        ({"a": NUMBERS[:, 0], "price": [1] * N}, ["--target", "price"], "target 'price' is constant"),
        ({"a": NUMBERS[:, 0], "c": PRICE}, ["--target", "c", "--task", "classification"], "no classes"),
        ({"a": NUMBERS[:, 0], "l": LABEL}, ["--target", "l", "--task", "regression"], "cannot be regressed"),
        ({"a": [1], "price": [2]}, ["--target", "price"], "at least 10"),
    ],
    ids=["no target", "unknown target", "text", "missing", "constant", "constant target", "no classes",
         "text regressed", "short"],
)
def test_what_keeps_a_table_from_being_learnt_from_is_said(columns, arguments, said, table, capsys):
    with pytest.raises(SystemExit):
        run(table(**columns), *arguments)
    message = " ".join(capsys.readouterr().err.split())
    assert re.search(said, message), message


@pytest.mark.parametrize(
    "option",
    [["--target", "x"], ["--drop", "x"], ["--hidden", "3"], ["--task", "regression"]],
    ids=lambda option: option[0],
)
def test_options_of_tables_need_one(option, capsys):
    with pytest.raises(SystemExit):
        compare.main(["--problem", "wine", *option])
    assert "goes with --data" in capsys.readouterr().err
