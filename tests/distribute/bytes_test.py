"""What workers send to each other is what the formulas say, as the kernel counts it."""

import json
import sys

import pytest
from kfisher_scripts.benchmarking.replicas import TRAFFIC
from kfisher_scripts.benchmarking.scaling import bytes_of_sum, numbers_of_update
from kfisher_scripts.common import workers

WIDTHS = ("64", "256")


@pytest.mark.slow
@pytest.mark.by_hand
def test_gradients_cross_once_and_at_every_update_halves_of_factors_or_their_examples():
    command = [sys.executable, "-m", "kfisher_scripts.benchmarking.worker", *WIDTHS]
    for told in workers.run(command, 2, seconds=900):
        for found in json.loads(told.splitlines()[-1]).values():
            adam, kfac = found["Adam"], found["K-FAC"]
            # At least one in 20 steps by default, and no more than one in 10 where none is taken back.
            assert 0.05 <= kfac["updates"] <= 0.1
            numbers = kfac["updates"] * numbers_of_update(kfac["factors"], 2)
            assert adam["bytes"] == pytest.approx(bytes_of_sum(2, adam["parameters"]), rel=0.1)
            assert kfac["bytes"] == pytest.approx(bytes_of_sum(2, kfac["parameters"] + numbers), rel=0.1)
            assert kfac["bytes"] <= TRAFFIC * adam["bytes"]
