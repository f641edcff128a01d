"""What `kfisher compare` says beneath its table, and that it is said before anything is drawn."""

import dataclasses

import keras
import numpy as np
import pytest
from kfisher_scripts.comparison import command as compare
from kfisher_scripts.comparison import conclusions, options, picture, report
from kfisher_scripts.comparison import run as run_module
from kfisher_scripts.comparison.problem import Setting
from kfisher_scripts.comparison.run import Run

import kfisher
from kfisher.diagnosis.measurement import Finding, Verdict

RNG = np.random.default_rng(0)
A = RNG.normal(size=40)


@pytest.fixture(autouse=True)
def unlogged(monkeypatch):
    """Without the log, whose measurements take longer than all else; compare_test.py looks at it."""
    monkeypatch.setattr(run_module, "TensorBoard", lambda *args, **kwargs: keras.callbacks.Callback())


def command_of(folder, y, target="y"):
    path = folder / "house.csv"
    path.write_text(f"a,{target}\n" + "".join(f"{a},{b}\n" for a, b in zip(A, y)))
    sgd = ["--optimizers", "sgd", "--learning-rates", "sgd=0.1", "--epochs", "2"]
    return ["--data", str(path), "--target", target, "--out", str(folder / "out"), *sgd]


def made(name, losses, seed=0, **more):
    """A run that ends with these losses of the rows of the validation."""
    rows = [dict(loss=1.0, validation_loss=float(np.mean(losses)))]
    return Run(name, seed, Setting(0.1), rows, kept=0, row_losses=np.array(losses), **more)


# --- the table ----------------------------------------------------------------------------------------


def test_equal_held_out_rows_have_no_part_that_is_explained(tmp_path, capsys):
    y = A.copy()
    y[np.random.default_rng(0).permutation(40)[:8]] = 0.1  # those held out
    compare.main(command_of(tmp_path, y))
    header, _, line = capsys.readouterr().out.partition("optimizer ")[2].splitlines()[:3]
    cells = line.split()
    assert cells[7] == "-" and float(cells[5]) <= 1  # R² of those held out; of those trained on
    assert " steps to validation loss " in header


def test_names_of_the_data_are_no_formulas_and_the_table_stands_before_the_picture(
    tmp_path, capsys, monkeypatch
):
    command = command_of(tmp_path, A[::-1], "revenue_$ per cost_$")
    compare.main(command)
    assert (tmp_path / "out" / "house.png").exists()
    capsys.readouterr()

    def fails(*args):
        raise OSError("no space left")

    monkeypatch.setattr(picture, "draw", fails)
    with pytest.raises(OSError):
        compare.main(command)
    assert "Where sgd ended" in capsys.readouterr().out


# --- the least loss -----------------------------------------------------------------------------------


def test_what_differs_within_the_noise_of_few_rows_is_not_told_apart():
    said = conclusions.best([made("sgd", [0.011, 0.028]), made("kfac", [0.012, 0.0279])], [])
    assert "on the 2 rows by which" in said and "sgd (0.0195)" in said
    assert said.endswith("Not told apart from it by so many rows (paired t-test, 95 %): kfac.")


def test_what_differs_beyond_noise_is_told_apart():
    """By rows: each is worse by about 0.1, though rows differ by 10 among each other."""
    losses = 10 * RNG.random(50)
    worse = losses + 0.1 + 0.01 * RNG.normal(size=50)
    runs = [made("adam", losses), made("sgd", worse), made("kfac", losses)]
    said = conclusions.best(runs, [])
    assert "adam (" in said and said.endswith(": kfac.")  # which is the same


def test_the_losses_of_rows_have_the_mean_that_is_recorded(tmp_path):
    command = command_of(tmp_path, np.where(A > 0, "yes", "no"))
    problem, _ = compare.problem_of(options.parse(command))
    settings = {"sgd": Setting(0.1)}
    found = run_module.train(
        dataclasses.replace(problem, settings=settings),
        problem.data(),
        "sgd",
        seed=0,
        probe_damping=None,
        log_dir=tmp_path,
    )
    assert len(found.row_losses) == 8
    assert found.row_losses.mean() == pytest.approx(
        found.end["validation_loss"], rel=1e-6
    )  # Keras rounds to float32


def test_settings_that_were_not_searched_are_said_and_the_seed_of_those_that_were():
    runs = [made(name, [1.0, 2.0], seed) for name in ("sgd", "kfac") for seed in (3, 4)]
    said = conclusions.best(runs, ["kfac"])
    assert "No settings were searched for kfac." in said
    assert "searched with seed 3 and are used for the other seeds" in said
    assert "seed" not in conclusions.best(runs, ["kfac", "sgd"])
    assert "seed" not in conclusions.best(runs[::2], ["kfac"])


def test_a_setting_that_is_named_was_not_searched(tmp_path, capsys):
    compare.main(command_of(tmp_path, A[::-1]))
    assert "No settings were searched for sgd." in capsys.readouterr().out


# --- verdicts -----------------------------------------------------------------------------------------


def test_a_run_that_is_not_finite_has_no_verdict():
    runs = [Run("sgd", 0, Setting(0.1), [dict(loss=float("nan"), validation_loss=float("nan"))])]
    nothing = "Where sgd ended: The loss is not finite there: no verdict."
    assert conclusions.verdicts(runs, 1.0, None) == nothing
    assert np.isnan(report.target_of(runs))
    assert conclusions.best(runs, []) == "No run has a finite validation loss."


@pytest.mark.parametrize(
    "verdict, decides, others",
    [
        ("distorted", Finding("length", "bad", "0.04.", {"verdict": "distorted"}), []),
        ("fine", Finding("direction", "fine", "0.99."), [Finding("specification", "unknown", "None.")]),
        ("unknown", Finding("sufficiency", "unknown", "Few."), []),
    ],
)
def test_each_verdict_has_the_numbers_that_decide_it(verdict, decides, others):
    others = [*others, Finding("inversion", "fine", "Not of interest.")]
    judged = Verdict(3, verdict, "It is so.", [*others, decides])
    runs = [made(name, [1.0, 1.0], verdict=judged, judged=32) for name in ("adam", "kfac")]
    said = conclusions.verdicts(runs, None, None)
    assert said.endswith(f"Where kfac ended: It is so.\n  {decides.name}: {decides.text}")
    assert "(From the first 32 of the rows trained on, damped by λ = √precision · largest" in said
    assert "damped by λ = 0.01.)" in conclusions.verdicts(runs, None, 0.01)


@pytest.mark.parametrize("asked", [[], ["--probe-damping", "0.3"]], ids=["its own", "asked for"])
def test_the_verdict_has_no_damping_that_an_optimizer_was_tuned_to(asked, tmp_path, monkeypatch):
    given = []

    def diagnose(model, x, y, damping):
        given.append((damping, getattr(model.optimizer, "damping", None)))
        return Verdict(0, "unknown", "", [Finding("sufficiency", "unknown", "")])

    monkeypatch.setattr(kfisher, "diagnose", diagnose)
    tuned = ["--optimizers", "empirical_fisher", "--learning-rates", "empirical_fisher=0.1"]
    compare.main([*command_of(tmp_path, A[::-1]), *tuned, "--dampings", "empirical_fisher=1", *asked])
    assert given == [(0.3 if asked else None, None)]
