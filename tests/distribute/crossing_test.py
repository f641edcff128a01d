"""What crosses from one replica to another is what must, and no more."""

import pytest
from helpers import crossing_cases as cases


def test_half_of_each_symmetric_matrix_crosses(on_devices):
    on_devices(cases.half_of_each_symmetric_matrix)


@pytest.mark.slow
def test_the_sums_of_a_step_of_adam_are_those_on_paper(on_devices):
    on_devices(cases.sums_of_a_step_of_adam)


def test_factorisations_are_shared_out(on_devices):
    on_devices(cases.factorisations_are_shared_out)


@pytest.mark.slow
@pytest.mark.parametrize("curvature", ["KFAC", "EKFAC"])
def test_shared_factorisations_change_nothing(on_devices, curvature):
    on_devices(cases.shared_factorisations_change_nothing, curvature)
