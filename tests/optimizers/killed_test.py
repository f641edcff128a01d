"""Processes that are killed in the middle of `fit` and started again: every step is the same, bit for bit."""

import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import killed

SCRIPT = pathlib.Path(killed.__file__)
LAST = killed.STEPS * killed.EPOCHS


def run(folder, kind, save_freq, kill_after=0):
    """The signal that ended the process, or 0."""
    command = [sys.executable, str(SCRIPT), str(folder), kind, str(save_freq), str(kill_after)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return -ended.returncode


def journal(folder):
    """Pairs of a step and a digest of all state after it."""
    return [tuple(line.split()) for line in (folder / "journal").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.by_hand
@pytest.mark.parametrize(
    "kind, save_freq, seed",
    [("default", "epoch", 0), ("default", 3, 1), ("ekfac", 3, 2), ("spring", 6, 3), ("sophia", "epoch", 4)],
)
def test_four_kills_change_no_bit(kind, save_freq, seed, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    kills = np.random.default_rng(seed).integers(2, 9, size=4)
    for kill_after in kills:
        assert run(broken, kind, save_freq, kill_after) == signal.SIGKILL
    assert run(broken, kind, save_freq) == 0
    assert run(whole, kind, save_freq) == 0
    expected, found = dict(journal(whole)), journal(broken)
    assert len(expected) == LAST
    # Keras begins the epoch anew in which it was killed, so there may be more steps in the end.
    assert max(int(step) for step, _ in found) >= LAST
    again = [(step, digest) for step, digest in found if step in expected]
    assert len(again) >= LAST and all(expected[step] == digest for step, digest in again)
