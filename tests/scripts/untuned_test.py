"""benchmark.py --untuned: what its tables say of made-up curves, and the defaults on two of its problems."""

import csv
import math

import pytest
from kfisher_scripts.benchmarking.small_problems import SMALL_PROBLEMS
from kfisher_scripts.benchmarking.untuned import (
    DEFAULT,
    DEFAULTS,
    OPTIMIZERS,
    Curve,
    after_equal_seconds,
    report,
    table,
    train,
    write_csv,
)

NAN, INF = math.nan, math.inf


def curve(optimizer, training, step=1.0, seed=0, problem="moons", held_out=None):
    """An epoch takes `step` seconds; on what is held out it does as in training unless told otherwise."""
    seconds = tuple(step * epoch for epoch in range(len(training)))
    return Curve(problem, optimizer, seed, seconds, tuple(training), tuple(held_out or training))


# --- the arithmetic -----------------------------------------------------------------------------------


def test_a_loss_at_a_time_is_that_of_the_last_epoch_over_by_then():
    run = curve(DEFAULT, [4.0, 3.0, 2.0, 1.0], step=2.0)
    found = [run.at(seconds) for seconds in (0.0, 1.9, 2.0, 5.9, 6.0, 100.0)]
    assert found == [4.0, 4.0, 3.0, 2.0, 1.0, 1.0]


def test_equal_seconds_are_those_of_the_adam_that_ends_lowest():
    runs = [
        curve("Adam(1e-4)", [4.0, 3.0, 3.0], step=9.0),
        curve("Adam(1e-3)", [4.0, 1.0, 0.5], step=1.0),  # is done after 2 s
        curve(DEFAULT, [4.0, 0.9, 0.1], step=1.5),
        curve("Muon()", [4.0, 3.5, 3.2], step=0.1),
    ]
    found = {name: row["moons"] for name, row in after_equal_seconds(runs).items()}
    assert found == {"Adam(1e-4)": 4.0, "Adam(1e-3)": 0.5, DEFAULT: 0.9, "Muon()": 3.2}


def test_equal_seconds_are_taken_seed_by_seed():
    runs = [curve("Adam(1e-3)", [4.0, 1.0], step=seed + 1.0, seed=seed) for seed in range(3)]
    runs += [curve(DEFAULT, [4.0, 3.0, 2.0, 1.0], seed=seed) for seed in range(3)]
    assert after_equal_seconds(runs)[DEFAULT] == {"moons": 2.0}  # of 3, 2 and 1
    assert after_equal_seconds(runs)["Adam(1e-3)"] == {"moons": 1.0}


@pytest.mark.parametrize(
    "training, diverged",
    [
        ([2.0, 1.0, 0.5], False),
        ([2.0, 20.0, 0.5], False),
        ([2.0, 20.1, 0.5], True),
        ([2.0, NAN, 0.5], True),
        ([2.0, 1.0, INF], True),
        ([2.0, 1.0, NAN], True),
    ],
)
def test_a_run_diverges_at_ten_times_its_first_loss_or_when_it_is_not_finite(training, diverged):
    assert curve(DEFAULT, training).diverged() == diverged


def test_a_loss_that_is_not_a_number_is_the_worst_of_the_median():
    runs = [curve(DEFAULT, [1.0, end], seed=seed) for seed, end in enumerate((NAN, 0.2, 0.1))]
    assert table(runs, Curve.final) == {DEFAULT: {"moons": 0.2}}


def test_the_held_out_loss_is_that_of_the_best_epoch_and_training_has_begun_by_then():
    assert curve(DEFAULT, [1.0, 0.5, 0.1], held_out=[0.2, 0.9, 1.5]).best_held_out() == 0.9
    assert curve(DEFAULT, [1.0, 0.5, NAN], held_out=[1.0, 0.4, NAN]).best_held_out() == 0.4


def made_up(problem, default, step=1.0, held_out=None, large=2.0):
    """Every optimizer from three seeds; the best Adam ends at 1 after two seconds, or at `large` at 0.1."""
    runs = []
    for optimizer in OPTIMIZERS:
        end = {DEFAULT: default, "Adam(3e-3)": 1.0, "Adam(1e-1)": large}.get(optimizer, 2.0)
        training = [9.0, 5.0, end]
        own = {"step": step, "held_out": [9.0, 5.0, held_out or end]} if optimizer == DEFAULT else {}
        runs += [curve(optimizer, training, seed=seed, problem=problem, **own) for seed in range(3)]
    return runs


def test_the_bars_are_counted_by_problem():
    runs = [
        *made_up("two moons", 0.9, large=0.1),  # ahead in everything, but of a rate that few try
        *made_up("wine classes", 0.9, step=1.1),  # too late
        *made_up("text", 1.1, held_out=1.05),  # behind, but no worse on what is held out
        *made_up("yacht", 1.1),  # behind
    ]
    for optimizer in ("EmpiricalNaturalGradient()", "Adam(1e-2)", "Muon()"):  # the last two are not ours
        i = next(i for i, run in enumerate(runs) if run.optimizer == optimizer)
        runs[i] = runs[i]._replace(training=(9.0, 91.0, 2.0))
    said = [line.split() for line in report(runs).splitlines()]
    assert said[-5][-5:] == ["1", "of", "72", "(bar", "0)"]
    assert said[-2] == [*"Adam at rates up to 1e-2".split(), *"2 1 3 (bars 8 7 7)".split()]
    assert said[-1] == [*"at all rates".split(), *"1 0 2".split()]


def test_tables_of_all_problems_fit_into_120_columns_and_have_a_row_for_each_optimizer():
    runs = [run for i, name in enumerate(SMALL_PROBLEMS) for run in made_up(name, 1.234e-5 * 10**i)]
    lines = report(runs).splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[2].split()[-5:] == ["classes", "moons", "autoencoder", "text", "yacht"]
    assert lines[3].split()[:5] == [DEFAULT, "1.23e-05", "0.000123", "0.00123", "0.0123"]
    for name in OPTIMIZERS:
        assert sum(line.startswith(name + " ") for line in lines) == 4


def test_every_epoch_goes_into_the_csv(tmp_path):
    path = tmp_path / "rows.csv"
    write_csv([curve(DEFAULT, [3.0, 2.0, NAN], seed=1), curve("Adam(1e-3)", [3.0, 1.0])], path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["optimizer"], row["seed"], row["epoch"], row["loss"]) for row in rows] == [
        (DEFAULT, "1", "0", "3"),
        (DEFAULT, "1", "1", "2"),
        (DEFAULT, "1", "2", "nan"),
        ("Adam(1e-3)", "0", "0", "3"),
        ("Adam(1e-3)", "0", "1", "1"),
    ]


# --- training -----------------------------------------------------------------------------------------


def test_a_run_does_not_depend_on_those_before_it():
    first, second = train("yacht", "SGD(0.01, momentum=0.9)", seeds=(0, 1), epochs=2)
    (again,) = train("yacht", "SGD(0.01, momentum=0.9)", seeds=(1,), epochs=2)
    assert second.training == pytest.approx(again.training, rel=1e-4)
    assert second.training[0] != first.training[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, epochs", [("wine classes", 10), pytest.param("yacht", 10, marks=pytest.mark.by_hand)]
)
def test_every_default_learns_untuned_and_the_natural_gradient_is_ahead_of_adam(name, epochs):
    ends = {}
    for optimizer in (*DEFAULTS, "Adam(1e-3)"):
        (run,) = train(name, optimizer, seeds=(0,), epochs=epochs)
        assert not run.diverged(), optimizer
        assert run.final() < run.training[0], optimizer
        ends[optimizer] = run.final()
    assert ends[DEFAULT] < ends["Adam(1e-3)"]
