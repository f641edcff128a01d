"""`kfisher compare` from its command line to its files; every number checked is NumPy's, in float64."""

import csv
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from kfisher_scripts.comparison import command as compare
from kfisher_scripts.comparison import report, run
from kfisher_scripts.comparison.problem import Data, Setting
from kfisher_scripts.comparison.problems import PROBLEMS

import kfisher
from kfisher import datasets


def rows_of(path):
    with path.open() as file:
        rows = list(csv.DictReader(file))
    by_optimizer = {}
    for row in rows:
        by_optimizer.setdefault(row["optimizer"], []).append(row)
    return by_optimizer


@pytest.fixture(scope="module")
def wine(tmp_path_factory):
    """Two full-batch steps of gradient descent and of natural gradient."""
    out = tmp_path_factory.mktemp("wine")
    stale = out / "logs/wine/sgd-seed0/events.out.tfevents.1.earlier"
    stale.parent.mkdir(parents=True)
    stale.touch()
    compare.main(["--problem", "wine", "--optimizers", "sgd", "natural_gradient", "--epochs", "2",
                  "--learning-rates", "sgd=2e-6", "--dampings", "natural_gradient=1e-8",
                  "--probe-damping", "2e-6", "--out", str(out)])  # fmt: skip
    return out, rows_of(out / "wine.csv")


def problem():
    x, y = datasets.wine()
    return np.column_stack([x, np.ones(len(x))]), y


@pytest.mark.slow
def test_the_csv_follows_the_equations_of_gradient_descent_and_natural_gradient(wine):
    x, y = problem()
    loss = lambda theta: np.mean((x @ theta - y) ** 2) / 2
    gradient = lambda theta: x.T @ (x @ theta - y) / len(y)
    sgd = -2e-6 * gradient(np.zeros(14))
    expected = {
        # Step 1 is also the proof that the step taken to trace was undone.
        "sgd": [loss(np.zeros(14)), loss(sgd), loss(sgd - 2e-6 * gradient(sgd))],
        # One step ends at the least-squares solution: 0.029839 in PAPER.md.
        "natural_gradient": [loss(np.zeros(14)), *2 * [loss(np.linalg.lstsq(x, y, rcond=None)[0])]],
    }
    _, rows = wine
    assert set(rows) == set(expected)
    for name, losses in expected.items():
        assert [int(r["step"]) for r in rows[name]] == [0, 1, 2]
        # The learning rate is a float32 variable (6e-8 relative), and the CSV has 8 digits.
        np.testing.assert_allclose([float(r["loss"]) for r in rows[name]], losses, rtol=1e-6)
        seconds = [float(r["seconds"]) for r in rows[name]]
        assert seconds[0] == 0 and np.all(np.diff(seconds) > 0)
        assert {r["accuracy"] for r in rows[name]} == {""}  # a regression has none
    assert expected["natural_gradient"][1] == pytest.approx(0.029839, abs=1e-6)


@pytest.mark.slow
def test_the_cosine_is_that_of_the_damped_steps_of_the_two_fishers(wine):
    x, y = problem()
    rows = (0 - y)[:, np.newaxis] * x  # the gradients of 1/2 (f - y)^2
    gradient, ridge = rows.mean(0), 2e-6 * np.eye(14)
    natural = np.linalg.solve(x.T @ x / len(y) + ridge, gradient)
    empirical = np.linalg.solve(rows.T @ rows / len(y) + ridge, gradient)
    expected = natural @ empirical / np.linalg.norm(natural) / np.linalg.norm(empirical)
    for rows in wine[1].values():
        # The condition number is 1e8, so 1e-16 becomes 1e-8.
        assert float(rows[0]["cosine"]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_every_run_has_a_log_of_the_callback_which_the_tab_reads(wine):
    logs = wine[0] / "logs/wine"
    assert sorted(d.name for d in logs.iterdir()) == ["natural_gradient-seed0", "sgd-seed0"]
    for directory in logs.iterdir():
        assert not list(directory.rglob("*.earlier"))
        log = kfisher.read_log(directory)
        assert list(log.steps["step"]) == [1, 2] and len(log.train["epoch"]) == 2
        assert log.measurements[0].damping == 2e-6 and log.verdicts


@pytest.mark.slow
def test_seconds_are_those_of_steps_and_not_of_what_is_measured(monkeypatch, tmp_path):
    now = [0.0]

    def tick():
        now[0] += 1.0
        return now[0]

    def slow(self, measurement, frame):
        now[0] += 1000.0

    monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=tick))
    monkeypatch.setattr(kfisher.callbacks.FisherDiagnosis, "measured", slow)
    wine = PROBLEMS["wine"]
    found = run.train(
        dataclasses.replace(wine, epochs=3), wine.data(), "sgd", seed=0, probe_damping=1e-3, log_dir=tmp_path
    )
    assert now[0] > 2000  # it was measured
    assert [row["seconds"] for row in found.rows] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.slow
@pytest.mark.by_hand
def test_a_network_is_compared_with_accuracies_a_picture_and_a_table(tmp_path, capsys):
    compare.main(["--problem", "digits_mlp", "--optimizers", "adam", "empirical_fisher", "--epochs", "1",
                  "--batch-size", "500", "--seeds", "7", "--target-loss", "100",
                  "--out", str(tmp_path), "--logdir", str(tmp_path / "tb")])  # fmt: skip
    printed = capsys.readouterr().out.splitlines()
    rows = rows_of(tmp_path / "digits_mlp.csv")
    measured = ["loss", "accuracy", "test_loss", "test_accuracy", "cosine"]
    assert set(rows) == {"adam", "empirical_fisher"}
    for own in rows.values():
        assert list(own[0]) == list(report.COLUMNS)
        assert [(r["seed"], r["step"]) for r in own] == [("7", str(step)) for step in range(4)]
        assert [bool(r["cosine"]) for r in own] == [True, False, False, True]  # once per epoch
        assert all(0 <= float(r[c]) <= 1 for r in own for c in ("accuracy", "test_accuracy"))
    start = [[own[0][c] for c in measured] for own in rows.values()]
    assert start[0] == start[1]  # the same weights for both
    assert (tmp_path / "digits_mlp.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(d.name for d in (tmp_path / "tb").iterdir()) == ["adam-seed7", "empirical_fisher-seed7"]
    header = next(i for i, line in enumerate(printed) if line.startswith("optimizer"))
    table = {line.split()[0]: line.split() for line in printed[header + 2 : header + 4]}
    for name, own in rows.items():
        assert float(table[name][3]) == pytest.approx(float(own[-1]["loss"]), rel=1e-3)
    assert printed[-1].endswith(f"tensorboard --logdir {tmp_path / 'tb'}")


def test_the_table_shows_means_over_seeds_and_no_target_that_a_seed_missed():
    def measured(optimizer, seed, losses):
        nan = float("nan")
        row = dict(accuracy=nan, test_loss=nan, test_accuracy=nan, cosine=0.5)
        rows = [dict(row, step=i, seconds=i / 10, loss=loss) for i, loss in enumerate(losses)]
        return run.Run(optimizer, seed, Setting(0.1), rows)

    runs = [measured("sgd", 0, [3, 2, 1]), measured("sgd", 1, [3, 1, 0.5]),
            measured("adam", 0, [3, 1, 2]), measured("adam", 1, [3, 2, 2])]  # fmt: skip
    units = report.units_of(PROBLEMS["wine"], Data(*4 * [np.zeros(0)]))
    header, rule, sgd, adam = report.table(runs, 1.0, units).splitlines()
    assert len({len(header), len(rule), len(sgd), len(adam)}) == 1
    assert "steps to loss 1 " in header
    #                  rate, damping, loss, accuracy, held out (2), steps (2 and 1), seconds, ms, cosines
    assert sgd.split() == ["sgd", "0.1", "-", "0.75", "-", "-", "-", "1.5", "0.15", "100.0", "0.50", "0.50"]
    assert adam.split() == ["adam", "0.1", "-", "2", "-", "-", "-", "-", "-", "100.0", "0.50", "0.50"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizers", "newton"], "invalid choice: 'newton'"),
        (["--problem", "mnist"], "invalid choice: 'mnist'"),
        (["--learning-rates", "newton=1"], "'newton=1' must start with one of: sgd"),
        (["--learning-rates", "adam=fast"], "'fast' is not a positive number"),
        (["--learning-rates", "adam=nan"], "'nan' is not a positive number"),
        (["--dampings", "adam=1"], "'adam' has no damping"),
        (["--optimizers", "sgd", "--dampings", "adam=1"], "'adam' is none of the --optimizers that run: sgd"),
        (["--epochs", "0"], "'0' is not a positive whole number"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        compare.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
