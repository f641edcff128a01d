"""Keras alone stops on replicas: each test fails when a mend of `_keras/distributed.py` can go."""

import pytest
from helpers import replica_cases as cases
from helpers import worker


@pytest.mark.slow
@pytest.mark.by_hand
def test_a_batch_that_does_not_divide(on_devices):
    on_devices(cases.keras_stops_at_a_batch_that_does_not_divide)


@pytest.mark.slow
@pytest.mark.by_hand
def test_several_workers(tmp_path):
    codes = worker.ended(worker.launch("keras_alone", 2, tmp_path), tmp_path, 240)
    assert codes == [0, 0], worker.said(tmp_path)
