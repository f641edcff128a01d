"""compare.py --data: a person's own table, and what is said about tables that cannot be learnt from."""

import csv
import re

import compare
import numpy as np
import pytest
from comparison import tune
from comparison.problems import Setting
from comparison.system import system
from comparison.table_file import TableError

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
    # In units of its noise, least squares leaves 1/2 for each degree of freedom of the N - P.
    train, test = np.split(np.random.default_rng(0).permutation(N), [N // 5])[::-1]
    assert ended == pytest.approx((len(train) - 3) / len(train) / 2, rel=1e-6)
    a = np.c_[NUMBERS, np.ones(N)]
    theta, squares, *_ = np.linalg.lstsq(a[train], PRICE[train], rcond=None)
    unit = squares[0] / (len(train) - 3)
    held_out = [float(r["test_loss"]) for r in rows if r["optimizer"] == "natural_gradient"][-1]
    assert held_out == pytest.approx(np.mean((PRICE - a @ theta)[test] ** 2) / unit / 2, rel=1e-6)
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


def broken(column, *entries):
    column = [str(v) for v in column]
    column[3 : 3 + len(entries)] = entries
    return column


A = NUMBERS[:, 0]


@pytest.mark.parametrize(
    "columns, arguments, said",
    [
        ({"a": A, "price": PRICE}, [], "--data needs --target"),
        ({"a": A, "price": PRICE}, ["--target", "cost"], "no column 'cost'.*It has: a, price"),
        ({"a": A, "price": PRICE}, ["--target", "price", "--drop", "b"], "no column 'b'"),
        ({"a": A, "price": PRICE}, ["--target", "price", "--drop", "price"], "--drop names the target"),
        ({"my a": LABEL, "price": PRICE}, ["--target", "price"], "hold text: my a .*--drop 'my a'$"),
        ({"a": broken(A, "1,5"), "price": PRICE}, ["--target", "price"], r"a \('1,5'\).*decimal commas"),
        ({"a": broken(A, "", "NA"), "price": PRICE}, ["--target", "price"], r"missing .* a \(2 of 120\)"),
        ({"a": broken(A, "inf"), "price": PRICE}, ["--target", "price"], "not finite: a.*--drop a$"),
        ({"a": [1] * N, "price": PRICE}, ["--target", "price"], "No column that varies is left"),
        ({"a": A, "price": [1] * N}, ["--target", "price"], "target 'price' is constant"),
        ({"a": A, "c": broken(PRICE, "?")}, ["--target", "c"], "'c' has 1 missing .* delete those rows$"),
        ({"a": A, "c": broken(PRICE, "inf")}, ["--target", "c"], "target 'c' holds .* not finite"),
        ({"a": A, "c": PRICE}, ["--target", "c", "--task", "classification"], "no classes. Pass --task regr"),
        ({"a": A, "c": broken(PRICE, "1,5")}, ["--target", "c"], "120 different values .* such as '1,5'"),
        ({"a": A, "c": ["no", "yes", *["no"] * (N - 2)]}, ["--target", "c"], "None .* has c = yes"),
        ({"a": A, "l": LABEL}, ["--target", "l", "--task", "regression"], "cannot be regressed"),
        ({"a": A, "": A, "c": PRICE}, ["--target", "c"], "no name for column 2"),
        ({"a": [1], "price": [2]}, ["--target", "price"], "at least 10"),
        ({"a": A, "c": PRICE}, ["--target", "c", "--hidden", "99999", "--curvature", "dense"], "too many"),
    ],
    ids=["no target", "unknown target", "unknown drop", "target dropped", "text", "decimal comma", "missing",
         "infinite", "constant", "constant target", "missing target", "infinite target", "no classes",
         "decimal comma in target", "class held out", "text regressed", "unnamed", "short", "too large"],
)
def test_what_keeps_a_table_from_being_learnt_from_is_said(columns, arguments, said, table, capsys):
    assert re.search(said, refused(capsys, table(**columns), *arguments))


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "is empty"),
        (b"a,b,a,b\n", "of one name: 'a', 'b'"),
        (b"a,price\n1,2\n\n1,2,3\n", "Line 4 .* has 3 entries, the header has 2"),
        ("a,größe\n1,2\n".encode("latin-1"), "not in UTF-8"),
    ],
    ids=["empty", "doubled", "ragged", "latin-1"],
)
def test_a_file_that_is_no_table_is_refused(content, said, tmp_path, capsys):
    path = tmp_path / "house.csv"
    path.write_bytes(content)
    assert re.search(said, refused(capsys, path, "--target", "price"))


def refused(capsys, path, *arguments):
    with pytest.raises(SystemExit):
        run(path, *arguments)
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("separator", [";", "\t"], ids=["semicolon", "tab"])
def test_separators_of_other_countries_and_a_byte_order_mark(separator, table):
    path = table(a=A, price=PRICE)
    path.write_bytes(path.read_bytes().replace(b",", separator.encode()))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    data = compare.parse(["--data", str(path), "--target", "price", "--out", str(path.parent)]).problem.data()
    assert len(data.x) == N - N // 5 and len(data.x_test) == N // 5
    np.testing.assert_allclose(data.x.std(0), 1)  # of the rows trained on


def test_few_whole_numbers_are_classes_only_where_they_repeat(table):
    whole = np.arange(12)
    for target, classes in ((whole, False), (whole % 3, True)):
        path = table(a=A[:12], count=target)
        arguments = ["--data", str(path), "--target", "count", "--out", str(path.parent)]
        assert (compare.parse(arguments).problem.correct is not None) == classes


@pytest.mark.parametrize(
    "examples, outputs, parameters, asked, expected",
    [
        (400, 1, 14, (None, None), ("dense", None)),
        (400, 1, 5000, (None, None), ("gram", None)),
        (400, 3, 900, (None, None), ("dense", None)),
        (100_000, 1, 5000, (None, None), ("gram", 2000)),
        (100_000, 10, 5000, (None, None), ("gram", 200)),
        (10**7, 1, 10, (None, None), ("dense", 2**25 // 10)),
        (400, 1, 14, ("gram", 100), ("gram", 100)),
        (400, 1, 14, (None, 400), ("dense", None)),
    ],
)
def test_the_smaller_system_is_solved_on_as_many_rows_as_fit(examples, outputs, parameters, asked, expected):
    assert system(examples, outputs, parameters, *asked) == expected


@pytest.mark.parametrize("asked", [("dense", None), ("gram", 50_000)])
def test_a_system_that_does_not_fit_is_refused(asked):
    with pytest.raises(TableError, match="--curvature dense|--batch-size 50000"):
        system(100_000, 1, 20_000, *asked)


def test_a_grid_without_a_finite_loss_is_said(table, monkeypatch):
    monkeypatch.setitem(tune.RATES, "sgd", (1e200, 1e201))
    with pytest.raises(SystemExit, match="no setting of its grid.*--learning-rates sgd=1e\\+198"):
        run(table(a=A, price=PRICE), "--target", "price", "--optimizers", "sgd", "--epochs", "4")


@pytest.mark.parametrize(
    "best, further",
    [
        (Setting(1.0, 1e-4), []),
        (Setting(0.03, 1.0), ["--learning-rates natural_gradient=0.003 --dampings natural_gradient=10"]),
    ],
)
def test_a_best_setting_at_the_edge_of_the_grid_is_noted(best, further):
    notes = tune.at_edge("natural_gradient", tune.grid("natural_gradient"), best)
    assert [note.partition("try ")[2] for note in notes] == further


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_trained(table, capsys):
    path = table(a=A, price=PRICE)
    assert "--out: cannot write to" in refused(capsys, path, "--target", "price", "--out", str(path))


@pytest.mark.parametrize(
    "option",
    [["--target", "x"], ["--drop", "x"], ["--hidden", "3"], ["--task", "regression"]],
    ids=lambda option: option[0],
)
def test_options_of_tables_need_one(option, capsys):
    with pytest.raises(SystemExit):
        compare.main(["--problem", "wine", *option])
    assert "goes with --data" in capsys.readouterr().err
