"""`kfisher compare --data`: a person's own table, and what is said of those that cannot be learnt from."""

import csv
import gzip
import re

import keras
import numpy as np
import pytest
from kfisher_scripts.comparison import command as compare
from kfisher_scripts.comparison import options, report, tune
from kfisher_scripts.comparison import run as run_module
from kfisher_scripts.comparison.numbers import Format, NotANumber, numbers
from kfisher_scripts.comparison.optimizers import OPTIMIZERS
from kfisher_scripts.comparison.problem import UNTUNED, Data, Setting
from kfisher_scripts.comparison.run import Run, batches_of
from kfisher_scripts.comparison.system import system
from kfisher_scripts.comparison.table_file import TableError
from tqdm import tqdm

RNG = np.random.default_rng(0)
N = 120
NUMBERS = RNG.normal(size=(N, 2))
PRICE = NUMBERS @ [3.0, -1.0] + RNG.normal(size=N)
LABEL = np.where(PRICE > 0, "yes", "no")


@pytest.fixture(autouse=True)
def unlogged(monkeypatch):
    """Without the log, whose measurements take longer than all else; compare_test.py looks at it."""
    monkeypatch.setattr(run_module, "TensorBoard", lambda *args, **kwargs: keras.callbacks.Callback())


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


FAST = [
    "--optimizers",
    "natural_gradient",
    "empirical_fisher",
    "--epochs",
    "8",
    "--learning-rates",
    "natural_gradient=1",
    "empirical_fisher=1",
    "--dampings",
    "natural_gradient=1e-8",
    "empirical_fisher=0.1",
]


ONE_RUN = ["--optimizers", "natural_gradient", "--epochs", "8",
           "--learning-rates", "natural_gradient=1", "--dampings", "natural_gradient=1e-8"]  # fmt: skip
# A network is not solved in one step.
CAREFUL = ["--epochs", "40", "--learning-rates", "natural_gradient=0.3",
           "--dampings", "natural_gradient=0.01"]  # fmt: skip


@pytest.mark.slow
def test_a_regression_ends_at_least_squares_with_curves_cosine_and_verdict(table, capsys):
    path = table(a=NUMBERS[:, 0], b=NUMBERS[:, 1], flat=[7] * N, price=PRICE)
    run(path, "--target", "price", *FAST)
    said = capsys.readouterr().out
    assert (
        "constant: flat" in said and "cosines: damped by 0.1" in said
    )  # the damping of the empirical Fisher
    assert "Where natural_gradient ended: " in said and "Where empirical_fisher ended: " in said
    assert "Least loss on the 24 rows by which settings and steps were chosen: " in said
    rows = list(csv.DictReader((path.parent / "out" / "house.csv").open()))
    ended = [float(r["loss"]) for r in rows if r["optimizer"] == "natural_gradient"][-1]
    assert [bool(r["cosine"]) for r in rows if r["step"] == "0"] == [True, True]
    # In units of its noise, least squares leaves 1/2 for each degree of freedom of the N - P.
    test, validation, train = np.split(np.random.default_rng(0).permutation(N), [N // 5, 2 * N // 5])
    assert ended == pytest.approx((len(train) - 3) / len(train) / 2, rel=1e-6)
    a = np.c_[NUMBERS, np.ones(N)]
    theta, squares, *_ = np.linalg.lstsq(a[train], PRICE[train], rcond=None)
    unit = squares[0] / (len(train) - 3)
    for part, name in ((test, "test_loss"), (validation, "validation_loss")):
        held_out = [float(r[name]) for r in rows if r["optimizer"] == "natural_gradient"][-1]
        assert held_out == pytest.approx(np.mean((PRICE - a @ theta)[part] ** 2) / unit / 2, rel=1e-6)
    assert all(-1 <= float(r["cosine"]) <= 1 for r in rows if r["cosine"])
    assert (path.parent / "out" / "house.png").read_bytes().startswith(b"\x89PNG")
    # The table tells of the target in its own units.
    header, _, line = said.partition("optimizer ")[2].splitlines()[:3]
    told = dict(zip(re.split(" {2,}", "optimizer " + header), line.split()))
    left = (PRICE - a @ theta)[test]
    assert float(told["test RMSE"]) == pytest.approx(np.sqrt(np.mean(left**2)), rel=1e-3)
    assert float(told["test R²"]) == pytest.approx(1 - np.mean(left**2) / PRICE[test].var(), abs=1e-3)


def test_the_weights_of_the_least_validation_loss_are_kept_and_half_of_all_steps_later_it_ends():
    class Scripted:
        losses = iter([3.0, 2.0, 1.0, *9 * [2.0]])

        def __call__(self):
            return {"loss": 0.0, "validation_loss": next(self.losses), "test_loss": 4.0}

        def cosine(self):
            return np.nan

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    weights, told = [], []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: weights.append(model.get_weights()),
        on_epoch_end=lambda epoch, logs: told.append(logs["val_loss"]),
    )
    found, clock = Run("sgd", 0, Setting(0.01)), run_module._Clock()
    recorder = run_module._Recorder(found, Scripted(), clock, epoch=10, steps=10)
    x = np.ones((10, 1))
    model.fit(x, x, batch_size=1, callbacks=[recorder, note, clock], verbose=0)
    assert found.kept == 2 and found.end["validation_loss"] == 1.0
    assert [row["step"] for row in found.rows] == list(range(9))  # 8 - 2 is more than half of 10
    for kept, then, last in zip(model.get_weights(), weights[1], weights[-1]):
        np.testing.assert_array_equal(kept, then)
        assert np.all(kept != last)
    assert told == [2.0]  # what the log is told of the epoch


@pytest.mark.parametrize(
    "kind",
    ["two classes", pytest.param("three classes, network", marks=[pytest.mark.slow, pytest.mark.by_hand])],
)
def test_a_classification_by_text_labels(kind, table, capsys):
    labels, more = LABEL, []
    if kind != "two classes":
        labels, more = np.where(PRICE > 2, "maybe", LABEL), ["--hidden", "5", *CAREFUL]
    run(table(a=NUMBERS[:, 0], b=NUMBERS[:, 1], label=labels), "--target", "label", *ONE_RUN, *more)
    said = capsys.readouterr().out
    assert ("2 classes (no, yes)" if kind == "two classes" else "3 classes (maybe, no, yes)") in said
    line = next(line for line in said.splitlines() if line.startswith("natural_gradient "))
    assert float(line.split()[5]) > 0.7  # accuracy


def test_settings_come_from_a_grid_where_none_are_named(table, capsys):
    path = table(a=NUMBERS[:, 0], b=NUMBERS[:, 1], price=PRICE)
    run(path, "--target", "price", "--optimizers", "sgd", "--epochs", "4")
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if line.startswith("sgd "))
    assert float(line.split()[1]) == 1.0  # standardised features: the largest rate of the grid is the best
    assert "sgd: the best of its grid is at its edge; try --learning-rates sgd=10" in said
    assert "damped by 0.01" in said  # no optimizer has a damping


@pytest.mark.parametrize("noise, verdict, warning", [(None, "is fine", False), ("10", "Do not trust", True)])
def test_the_verdict_on_a_regression_is_that_of_its_noise(noise, verdict, warning, table, capsys):
    """Labels of a linear model with noise of 1: EF is right where the loss takes it to be 1."""
    x = RNG.normal(size=(1700, 2))
    path = table(a=x[:, 0], b=x[:, 1], price=x @ [3, -1] + RNG.normal(size=1700))
    more = ["--optimizers", "sgd", "--learning-rates", "sgd=0.5", "--epochs", "40"]
    run(path, "--target", "price", *more, *(["--noise", noise] if noise else []))
    said = capsys.readouterr().out
    assert verdict in said.partition("Where sgd ended: ")[2].splitlines()[0]
    assert ("pass --noise" in said) == warning
    assert re.search(r"standard deviation is (1|0.9\d*|1.0\d*), ", said)
    assert "From the first 1000 of the rows trained on, damped by λ = √precision · largest" in said


@pytest.mark.slow
@pytest.mark.by_hand
def test_many_classes_are_judged_from_fewer_examples(table, capsys):
    x = RNG.normal(size=(1300, 2))
    label = np.digitize(x[:, 0], np.linspace(-1.5, 1.5, 9))
    path = table(a=x[:, 0], b=x[:, 1], label=label)
    more = ["--optimizers", "sgd", "--learning-rates", "sgd=0.5", "--epochs", "2", "--seeds", "0", "1"]
    run(path, "--target", "label", "--hidden", "40", *more)
    said = capsys.readouterr().out
    assert "10 classes (0, 1, 2, 3, 4, 5, ...)" in said
    assert "From the first 444 of the rows" in said and said.count("Where sgd ended") == 1


@pytest.mark.parametrize("loss, target", [(1.23431, 1.235), (0.02984, 0.02984), (1430.0, 1430.0)])
def test_the_slowest_just_reaches_the_target(loss, target):
    runs = [Run("sgd", 0, Setting(0.1), [dict(loss=end)]) for end in (loss / 2, loss)]
    assert report.target_of(runs) == target >= loss


@pytest.mark.slow
def test_a_setting_of_the_grid_is_a_run_of_its_own(table):
    """Rate and damping are those of the setting, though the model was traced with another; from the start."""
    path = table(a=NUMBERS[:, 0], b=NUMBERS[:, 1], label=LABEL)
    problem, _ = problem_of(path, "--target", "label", "--epochs", "3")
    data = problem.data()
    settings = [Setting(0.03, 1.0), Setting(0.3, 0.01), Setting(0.1, 0.1)]
    losses = []
    for setting in settings:
        model = problem.model()
        model.compile(OPTIMIZERS["empirical_fisher"](setting, problem.curvature, 0), problem.loss())
        model.fit(batches_of(data, None, 0), epochs=3, shuffle=False, verbose=0)
        losses.append(model.evaluate(data.x_validation, data.y_validation, verbose=0))
    assert np.argmin(losses) == 1
    ladder = tune.Ladder(problem, data, "empirical_fisher", settings, 0, tqdm(disable=True))
    ladder.rungs = [(3, 1), (3, 2)]
    ladder.climb()
    ladder.climb()
    found = {trial.setting: trial.losses[-1] for trial in ladder.trials}
    np.testing.assert_allclose([found[setting] for setting in settings], losses, rtol=1e-6)


def test_batches_are_those_of_shuffled_examples_in_the_precision_of_the_table():
    """Each epoch has all rows, x with its y, in an order of its own."""
    x = np.arange(20.0).reshape(10, 2) + 1e-12
    data = Data(x, x[:, :1] * 3, x[:0], x[:0, :1])
    batches = batches_of(data, 4, seed=0)
    assert len(batches) == 3
    epochs = [[np.c_[a.numpy(), b.numpy()] for a, b in batches] for _ in range(2)]
    assert [len(batch) for batch in epochs[0]] == [4, 4, 2]
    whole = [np.concatenate(epoch) for epoch in epochs]
    assert not np.array_equal(*whole)
    for rows in whole:
        assert np.array_equal(rows[np.argsort(rows[:, 0])], np.c_[x, x[:, :1] * 3])
    (everything,) = batches_of(data, None, 0)
    assert np.array_equal(everything[0], x) and everything[0].dtype == "float64"


def test_the_better_thirds_of_a_grid_go_on_and_what_has_nothing_to_tune_is_not_searched():
    assert tune.rungs(20, 90) == [(20, 10), (7, 20), (3, 60)]
    assert tune.rungs(1, 90) == []
    assert tune.grid("kfac") == [UNTUNED]
    assert tune.grid("kfac", rate=0.1) == [UNTUNED._replace(learning_rate=0.1)]


def problem_of(path, *arguments):
    return compare.problem_of(
        options.parse(["--data", str(path), "--out", str(path.parent / "out"), *arguments])
    )


def broken(column, *entries):
    column = [str(v) for v in column]
    column[3 : 3 + len(entries)] = entries
    return column


A = NUMBERS[:, 0]


REFUSED = {
    "no target": ({"a": A, "price": PRICE}, [], "--data needs --target"),
    "unknown target": ({"a": A, "price": PRICE}, ["--target", "cost"], "no column 'cost'.*It has: a, price"),
    "unknown drop": ({"a": A, "price": PRICE}, ["--target", "price", "--drop", "b"], "no column 'b'"),
    "target dropped":
        ({"a": A, "price": PRICE}, ["--target", "price", "--drop", "price"], "--drop names the target"),
    "text":
        ({"my a": LABEL, "price": PRICE}, ["--target", "price"],
         r"hold text: my a \('(yes|no)' in line 2\).*--categorical 'my a', .*--drop 'my a'$"),
    "decimal comma":
        ({"a": broken(A, "1,5"), "price": PRICE}, ["--target", "price"],
         r"a \('1,5' in line 5; it is 1.5 with --decimal ,\)"),
    "missing":
        ({"a": broken(A, "", "NA"), "price": PRICE}, ["--target", "price"],
         "a has 2 missing .* 120 rows, such as '' in line 5"),
    "missing of pandas":
        ({"a": broken(A, "<NA>"), "price": PRICE}, ["--target", "price"], "1 missing value in"),
    "infinite":
        ({"a": broken(A, "inf"), "price": PRICE}, ["--target", "price"],
         "not finite: a .'inf' in line 5.*--drop a$"),
    "constant": ({"a": [1] * N, "price": PRICE}, ["--target", "price"], "No column that varies is left"),
    "constant target": ({"a": A, "price": [1] * N}, ["--target", "price"], "target 'price' is constant"),
    "missing target":
        ({"a": A, "c": broken(PRICE, "?")}, ["--target", "c"],
         r"'c' has 1 missing .* such as '\?' in line 5\. Fill"),
    "infinite target":
        ({"a": A, "c": broken(PRICE, "inf")}, ["--target", "c"],
         "target 'c' holds .* not finite, 'inf' in line 5"),
    "no classes":
        ({"a": A, "c": PRICE}, ["--target", "c", "--task", "classification"], "no classes. Pass --task regr"),
    "decimal comma in target":
        ({"a": A, "c": broken(PRICE, "1,5")}, ["--target", "c"],
         "otherwise, '1,5' in line 5: it is 1.5 with --decimal ,"),
    "text among numbers":
        ({"a": A, "c": broken(PRICE, "8 y")}, ["--target", "c"],
         "119 numbers, in 120 rows, and text: '8 y' in line 5"),
    "class held out":
        ({"a": A, "c": ["no", "yes", *["no"] * (N - 2)]}, ["--target", "c"], "None .* has c = yes"),
    "text regressed":
        ({"a": A, "l": LABEL}, ["--target", "l", "--task", "regression"], "cannot be regressed"),
    "noise of classes":
        ({"a": A, "l": LABEL}, ["--target", "l", "--noise", "1"], "--noise goes with a regression"),
    "unknown category":
        ({"a": A, "c": PRICE}, ["--target", "c", "--categorical", "c"],
         "--categorical names 'c', .* none of"),
    "too many categories":
        ({"a": A, "b": [f"x{i}" for i in range(N)], "c": PRICE}, ["--target", "c", "--categorical"],
         "'b' has 120 different values, of which at most 50"),
    "two marks":
        ({"a": A, "c": PRICE}, ["--target", "c", "--thousands", ",", "--decimal", ","],
         "cannot both be ','"),
    "unknown encoding":
        ({"a": A, "c": PRICE}, ["--target", "c", "--encoding", "hex"], "'hex' is no encoding"),
    "unnamed": ({"a": A, "": A, "c": PRICE}, ["--target", "c"], "no name for column 2"),
    "short": ({"a": [1], "price": [2]}, ["--target", "price"], "at least 10"),
    "too large":
        ({"a": A, "c": PRICE}, ["--target", "c", "--hidden", "99999", "--curvature", "dense"], "too many"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_keeps_a_table_from_being_learnt_from_is_said(case, table, capsys):
    columns, arguments, said = REFUSED[case]
    assert re.search(said, refused(capsys, table(**columns), *arguments))


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "cannot be read .No such file.*Check the path"),
        (b"", "is empty"),
        (b"a|b\n1|2\n", "single column, 'a.b'. Columns are separated by comma, semicolon or tab"),
        (b'"a,b,c";d\n' + 10 * b"1;2\n", "no column 'price' .* It has: a,b,c, d$"),
        (b"a,b,a,b\n", "of one name: 'a', 'b'"),
        (b"a,price\n1,2\n\n1,2,3\n", "Line 4 .* has 3 entries, the header has 2"),
        ("a,b\n1,größe\n".encode("latin-1"), "Line 2 .* is not in UTF-8. .* --encoding, say latin-1"),
        (
            b'a,price\n1,2\n"3,4\n5,6\n',
            "row that begins in line 3 .* cannot be read: unexpected end .* twice",
        ),
        (b'a,price\n1,"2\n3,4\n5,"6"\n', "row that begins in line 2 .* cannot be read"),
        (b"PK\x03\x04 and more", "an archive but no workbook"),
        (b"\xd0\xcf\x11\xe0 and more", "old Excel. Save it as .xlsx"),
        (gzip.compress(b"a,price\n")[:-4], "cannot be read .Compressed file ended"),
    ],
    ids=[
        "no file",
        "empty",
        "bars",
        "quoted",
        "doubled",
        "ragged",
        "latin-1",
        "quote",
        "quote closed later",
        "zip",
        "xls",
        "gzip",
    ],
)
def test_a_file_that_is_no_table_is_refused(content, said, tmp_path, capsys):
    path = tmp_path / "house.csv"
    if content is not None:
        path.write_bytes(content)
    assert re.search(said, refused(capsys, path, "--target", "price"))


def refused(capsys, path, *arguments):
    with pytest.raises(SystemExit):
        run(path, *arguments)
    return " ".join(capsys.readouterr().err.split())


ONE = {"1,296": (1296.0, "--thousands ,"), "1.296,5": (1296.5, "--decimal , --thousands ."),
       "26 035": (26035.0, "--thousands ' '"), "26\u202f035": (26035.0, "--thousands ' '"),
       "1_000": (1000.0, "--thousands _"), "1'000.5": (1000.5, '--thousands "\'"'),
       "$4,631": (4631.0, "--thousands ,"), "-1,5": (-1.5, "--decimal ,")}  # fmt: skip
FORMATS = {Format(d, t).options: Format(d, t) for d in ".," for t in (None, ",", ".", " ", "_", "'")}


@pytest.mark.parametrize("entry", ONE)
def test_a_number_written_otherwise_is_refused_with_the_option_that_reads_it(entry):
    expected, option = ONE[entry]
    with pytest.raises(NotANumber) as refused:
        numbers(["1", entry], Format())
    assert refused.value.index == 1
    assert f"it is {expected:.15g} with {option}" in refused.value.way_out
    np.testing.assert_array_equal(numbers([entry, entry], FORMATS[option]), [expected, expected])


@pytest.mark.parametrize(
    "entries, expected",
    [
        (["\u22123.5", "2"], [-3.5, 2]),
        (["12 %", "7%"], [12, 7]),
        (["$5", "-$4.5"], [5, -4.5]),
        (["TRUE", "False"], [1, 0]),
        (["1e3", ".5", "-2.", "+7"], [1000, 0.5, -2, 7]),
    ],
)
def test_what_means_one_thing_is_read(entries, expected):
    np.testing.assert_array_equal(numbers(entries, Format()), expected)


@pytest.mark.parametrize(
    "entries, way_out",
    [
        (["(3.5)"], "write -3.5"),
        (["12 %", "7"], "units differ within the column ('%' and none)"),
        (["$1", "€1"], "units differ"),
        (["1_23"], ""),
        (["12_3"], ""),
        (["12,96,1"], ""),
        (["0x10"], ""),
        (["1 2"], ""),
        (["--1"], ""),
    ],
)
def test_what_means_nothing_or_too_much_is_refused(entries, way_out):
    with pytest.raises(NotANumber) as refused:
        numbers(entries, Format())
    assert way_out in refused.value.way_out and bool(way_out) == bool(refused.value.way_out)


def test_a_comma_is_what_the_option_says(table):
    entries = [f"{1000 + i},{500 + i}" for i in range(N)]
    whole = np.arange(N)
    decimal = problem_of(table(a=entries, c=whole), "--target", "c", "--decimal", ",")[0].data()
    points = [entry.replace(",", ".") for entry in entries]
    expected = problem_of(table(a=points, c=whole), "--target", "c")[0].data()
    np.testing.assert_array_equal(decimal.x, expected.x)


def test_text_that_is_no_number_makes_classes_of_its_own(table):
    path = table(a=A, label=["1_23", "12_3"] * (N // 2))
    assert "label: 2 classes (12_3, 1_23)" in problem_of(path, "--target", "label")[1]


def test_categories_are_columns_beside_the_most_frequent(table):
    colour = np.array(["red", "blue", "green", "red"] * (N // 4))
    path = table(a=A, colour=colour, code=[1, 2] * (N // 2), c=PRICE)
    problem, notes = problem_of(path, "--target", "c", "--categorical", "colour", "code")
    data = problem.data()
    assert data.x.shape[1] == 1 + 2 + 1
    assert "colour: 3 categories, each beside the most frequent, 'red'" in notes
    *_, train = np.split(np.random.default_rng(0).permutation(N), [N // 5, 2 * N // 5])
    np.testing.assert_array_equal(data.x[:, 1] > 0, (colour == "blue")[train])
    # Without names: what holds text, and no numbers.
    assert problem_of(path, "--target", "c", "--categorical")[0].data().x.shape[1] == 1 + 2 + 1
    assert "colour" in " ".join(problem_of(path, "--target", "c", "--categorical")[1])


@pytest.mark.parametrize("form", ["gzip", "latin-1", "sep", "xlsx"])
def test_files_of_other_kinds_hold_the_same_table(form, table):
    path = table(größe=A, c=PRICE)
    expected = problem_of(path, "--target", "c")[0].data()
    content, more = path.read_text("utf-8"), []
    if form == "gzip":
        path = path.with_suffix(".csv.gz")
        path.write_bytes(gzip.compress(content.encode()))
    elif form == "latin-1":
        path.write_text(content, "latin-1")
        more = ["--encoding", "latin-1"]
    elif form == "sep":
        path.write_text("sep=;\n" + content.replace(",", ";"), "utf-8")
    else:
        book = pytest.importorskip("openpyxl").Workbook()
        book.active.append(["größe", "c"])
        for row in zip(A.tolist(), PRICE.tolist()):
            book.active.append(row)
        path = path.with_suffix(".xlsx")
        book.save(path)
        more = ["--decimal", ","]  # of texts; numbers are numbers
    found = problem_of(path, "--target", "c", *more)[0].data()
    # A workbook holds 16 digits.
    np.testing.assert_allclose(found.x, expected.x, rtol=1e-12)
    np.testing.assert_allclose(found.y, expected.y, rtol=1e-12)


@pytest.mark.parametrize("separator", [";", "\t"], ids=["semicolon", "tab"])
def test_separators_of_other_countries_and_a_byte_order_mark(separator, table):
    path = table(a=A, price=PRICE)
    path.write_bytes(path.read_bytes().replace(b",", separator.encode()))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    data = problem_of(path, "--target", "price")[0].data()
    assert len(data.x) == N - 2 * (N // 5) and len(data.x_test) == len(data.x_validation) == N // 5
    np.testing.assert_allclose(data.x.std(0), 1)  # of the rows trained on


def test_few_whole_numbers_are_classes_only_where_they_repeat(table):
    whole = np.arange(12)
    for target, classes in ((whole, False), (whole % 3, True)):
        path = table(a=A[:12], count=target)
        assert (problem_of(path, "--target", "count")[0].correct is not None) == classes


@pytest.mark.parametrize(
    "examples, outputs, parameters, asked, expected",
    [
        (400, 1, 14, (None, None), ("dense", None)),
        (400, 1, 5000, (None, None), ("gram", None)),
        (400, 3, 900, (None, None), ("dense", None)),
        (3000, 1, 5000, (None, None), ("gram", 2000)),
        (100_000, 1, 5000, (None, None), ("gram", 512)),
        (100_000, 10, 5000, (None, None), ("gram", 200)),
        (10**7, 1, 10, (None, None), ("dense", 512)),
        (400, 1, 14, ("gram", 100), ("gram", 100)),
        (400, 1, 14, (None, 400), ("dense", None)),
    ],
)
def test_the_smaller_system_is_solved_on_as_many_rows_as_fit(examples, outputs, parameters, asked, expected):
    assert system(examples, outputs, parameters, *asked) == expected


@pytest.mark.parametrize(
    "asked, message",
    [
        (("dense", None), "--curvature dense. Leave it out"),
        (("gram", 50_000), "--batch-size 50000 .* at most 16000"),
    ],
    ids=["dense", "gram"],
)
def test_a_system_that_does_not_fit_is_refused(asked, message):
    with pytest.raises(TableError, match=message):
        system(100_000, 1, 20_000, *asked)


def test_a_grid_without_a_finite_loss_is_said(table, monkeypatch, capsys):
    monkeypatch.setitem(tune.RATES, "sgd", (1e200, 1e201))
    path = table(a=A, price=PRICE)
    said = refused(capsys, path, "--target", "price", "--optimizers", "sgd", "--epochs", "4")
    assert "with any setting of its grid" in said and "--learning-rates sgd=1e+198" in said


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


def test_a_table_is_not_overwritten_by_its_results(table, capsys):
    path = table(a=A, price=PRICE)
    before = path.read_bytes()
    assert "would overwrite" in refused(capsys, path, "--target", "price", "--out", str(path.parent))
    assert path.read_bytes() == before


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1e9, 1e300])
def test_numbers_of_any_size_are_standardised(scale, table):
    path = table(a=scale * A, b=1e9 + A, price=scale * PRICE)
    data = problem_of(path, "--target", "price")[0].data()
    np.testing.assert_allclose(data.x.std(0), 1)
    small = problem_of(table(a=A, b=1e9 + A, price=PRICE), "--target", "price")[0].data()
    np.testing.assert_allclose(data.y, small.y, rtol=1e-6)


@pytest.mark.parametrize(
    "option",
    [
        ["--target", "x"],
        ["--drop", "x"],
        ["--hidden", "3"],
        ["--task", "regression"],
        ["--noise", "2"],
        ["--categorical"],
        ["--decimal", ","],
        ["--thousands", ","],
        ["--encoding", "latin-1"],
    ],
    ids=lambda option: option[0],
)
def test_options_of_tables_need_one(option, capsys):
    with pytest.raises(SystemExit):
        compare.main(["--problem", "wine", *option])
    assert "goes with --data" in capsys.readouterr().err
