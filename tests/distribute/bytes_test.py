"""What workers send to each other is what the formulas say, as the kernel counts it."""

import json
import sys

import pytest
from kfisher_scripts.benchmarking.scaling import UPDATE_EVERY, bytes_of_sum
from kfisher_scripts.common import workers


@pytest.mark.slow
@pytest.mark.by_hand
def test_gradients_cross_once_and_factors_at_every_update():
    command = [sys.executable, "-m", "kfisher_scripts.benchmarking.worker", "64"]
    for told in workers.run(command, 2, seconds=900):
        adam, kfac = (json.loads(told.splitlines()[-1])["64"][name] for name in ("Adam", "K-FAC"))
        numbers = sum(n * n for n in kfac["factors"]) / UPDATE_EVERY
        assert adam["bytes"] == pytest.approx(bytes_of_sum(2, adam["parameters"]), rel=0.1)
        assert kfac["bytes"] == pytest.approx(bytes_of_sum(2, kfac["parameters"] + numbers), rel=0.1)
