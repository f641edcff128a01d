"""verdicts.py: its arithmetic, its truths, and a part of its table, bars included."""

from collections import Counter

import numpy as np
import pytest
import verdicts
from kfisher_scripts.verdicts import table
from kfisher_scripts.verdicts.families import FAMILIES, matrices, minimum, with_one
from kfisher_scripts.verdicts.settings import AT_POSITIONS, HELD_OUT, PLACES, TABLE, Truth
from kfisher_scripts.verdicts.table import Cell, as_markdown, measure, summary

WRONG = Truth(np.nan, np.nan, 3.5, 4.0)
RIGHT = Truth(np.nan, np.nan, 0.95, 1.05)


def cell(truth, size=256, **counts):
    return Cell("labels", "minimum", size, truth, Counter(counts))


def test_alarms_are_false_and_clearances_wrong_by_what_is_true():
    right = cell(RIGHT, fine=40, misspecified=4, unknown=6)
    assert (right.false_alarms, right.misses, right.falsely_cleared) == (0.08, 0, 0)
    wrong = cell(WRONG, fine=5, misspecified=30, opposite=5, unknown=10)
    assert wrong.false_alarms == 0.1  # nothing opposes
    assert wrong.misses == pytest.approx(0.3) and wrong.falsely_cleared == 0.1
    text = summary([right, wrong])
    assert "EF accused of what is not so: 9.0 % in 2 cells, 10 % in the worst" in text
    assert "EF accused where it is right: 8.0 % in 1 cells, 8 % in the worst" in text
    assert "EF cleared where it is wrong: 10.0 % in 1 cells, 10 % in the worst" in text
    assert "misses where it is wrong, from 256 examples: 30.0 % in 1 cells, 30 % in the worst" in text
    markdown = as_markdown([right, cell(WRONG, size=1000, misspecified=50)])
    assert "| labels | minimum | right: eigenvalues 0.95 to 1.05 | 8 / 80 | 100 / 0 |" in markdown


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_matrices_are_those_of_the_loss(family):
    """By differences of the loss; at the minimum its Hessian is F, as the links are natural."""
    rng, own = np.random.default_rng(0), FAMILIES[family]
    setting = next(s for s in (*HELD_OUT, *AT_POSITIONS) if s.family == family)
    x, y = setting.draw(rng, 400)
    w = minimum(own, x, y)
    assert np.abs(matrices(own, w, x, y).gradient).max() < 1e-5

    def slope(direction, at):
        step = 1e-4
        f = lambda t: with_one(x).reshape(-1, 3) @ (at + t * direction)
        loss = lambda t: own.loss(f(t), y.ravel()).mean()
        return (loss(step) - loss(-step)) / (2 * step)

    w = w + 0.3 * rng.normal(size=w.shape)
    found, direction = matrices(own, w, x, y), rng.normal(size=w.shape)
    assert slope(direction, w) == pytest.approx(found.gradient @ direction.ravel(), rel=1e-5)
    second = (slope(direction, w + 1e-3 * direction) - slope(direction, w - 1e-3 * direction)) / 2e-3
    assert second == pytest.approx(direction.ravel() @ found.exact @ direction.ravel(), rel=1e-3)


def test_the_truth_of_each_setting_is_what_its_name_says():
    for setting in (*TABLE, *HELD_OUT, *AT_POSITIONS):
        truth = setting.truth("minimum")
        right = setting.name.endswith("well specified")
        assert bool(truth.wrong) != right, (setting.name, str(truth))


@pytest.mark.slow
@pytest.mark.by_hand
def test_false_alarms_and_misses_keep_their_bars_on_a_part_of_the_table():
    """Eight seeds of it, too few to judge a cell by: sums are."""
    cells = measure(TABLE, 8, (8, 256))
    few, many = ([c for c in cells if c.size == size] for size in (8, 256))
    assert {c.place for c in cells} == set(PLACES)
    assert np.mean([c.false_alarms for c in cells]) <= 0.05
    assert np.mean([c.misses for c in many]) <= 0.1
    assert all(c.verdicts["unknown"] >= 7 for c in few)


def test_other_seeds_are_other_samples(monkeypatch):
    seen = []
    monkeypatch.setattr(
        table, "_verdict", lambda meter, setting, place, size, seed: seen.append(seed) or "fine"
    )
    found = measure(TABLE[:1], 2, (16,), first_seed=7)
    assert seen == [7, 8] * 3 and [c.verdicts["fine"] for c in found] == [2, 2, 2]


def test_the_command_prints_all_tables(capsys, monkeypatch):
    monkeypatch.setattr(verdicts, "AT_POSITIONS", AT_POSITIONS[-1:])
    monkeypatch.setattr(verdicts, "HELD_OUT", HELD_OUT[-1:])
    monkeypatch.setattr(verdicts, "TABLE", TABLE[:1])
    verdicts.main(["--seeds", "2", "--sizes", "16"])
    out = capsys.readouterr().out
    assert "| well specified | untrained |" in out and "| counts, heteroscedastic | minimum |" in out
    assert "| positions, one error for all | minimum |" in out
    assert out.count("EF accused where it is right: ") == 3
