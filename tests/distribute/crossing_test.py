"""What crosses from one replica to another is what must, and no more."""

import pytest
from helpers import crossing_cases as cases
from helpers import replicated


def test_half_of_each_symmetric_matrix_crosses(on_devices):
    on_devices(cases.half_of_each_symmetric_matrix)


def test_examples_cross_instead_of_factors_that_have_more_numbers(on_devices):
    on_devices(cases.examples_cross_instead)


@pytest.mark.slow
def test_sums_that_wait_for_one_another_are_as_many_as_on_paper(on_devices):
    on_devices(cases.sums_are_as_many_as_on_paper)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make_model, least", [pytest.param(replicated.dense, 5, marks=pytest.mark.by_hand), (replicated.broad, 2)]
)
def test_replicas_with_other_sizes_than_those_of_the_graph_are_an_error(on_devices, make_model, least):
    on_devices(cases.sizes_that_a_graph_does_not_have, make_model, least)  # of broad's, examples cross


def test_factorisations_are_shared_out(on_devices):
    on_devices(cases.factorisations_are_shared_out)


@pytest.mark.slow
@pytest.mark.parametrize("curvature", ["KFAC", pytest.param("EKFAC", marks=pytest.mark.by_hand)])
def test_shared_factorisations_change_nothing(on_devices, curvature):
    on_devices(cases.shared_factorisations_change_nothing, curvature)
