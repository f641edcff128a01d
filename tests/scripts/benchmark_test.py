"""What scripts/benchmark.py says of memory, and that its cases can be told apart."""

from kfisher_scripts.benchmarking.cases import CASES
from kfisher_scripts.benchmarking.memory import largest_tensor


def test_no_tensor_of_a_sampled_step_in_function_space_has_an_entry_for_each_example_and_parameter():
    largest, full = largest_tensor(64)
    assert largest == 784 * 256  # the weights of the first layer, 1/86 of N x P
    assert full == 64 * 269_322


def test_cases_can_be_chosen_by_name():
    assert len({case.name for case in CASES}) == len(CASES)
