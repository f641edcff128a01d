"""Replicas of `tf.distribute.MirroredStrategy` take the steps of one that has the whole batch."""

import itertools

import pytest
from helpers import replica_cases as cases

CASES = itertools.product(  # "kfac" with drawn labels on two is the quick test
    ["kfac", "ekfac", "diagonal", "gram", "dense"], ["exact", "sampled", "empirical"], [2, 4]
)

# The F of one batch has fewer rows here than there are weights, so that steps divide by the damping itself,
# and magnify what is lost to rounding.
OF_ONE_BATCH = {"gram": {"damping": 0.02}, "dense": {"damping": 0.02}}


def test_kfac_takes_the_step_of_the_whole_batch_and_what_is_bad_on_one_is_skipped_on_all(on_devices):
    on_devices(cases.equals_one_and_skips_together)


@pytest.mark.slow
@pytest.mark.by_hand
@pytest.mark.parametrize("curvature, fisher, replicas", CASES)
def test_every_curvature_and_kind(on_devices, curvature, fisher, replicas):
    on_devices(cases.equals_one, curvature, fisher, replicas, **OF_ONE_BATCH.get(curvature, {}))


@pytest.mark.slow
@pytest.mark.by_hand
@pytest.mark.parametrize("name", ["SophiaG", "ImprovedEmpiricalFisher", "EmpiricalNaturalGradient"])
def test_every_other_optimizer(on_devices, name):
    on_devices(cases.others_equal_one, name)


def test_layers_on_two_devices_train(on_devices):
    on_devices(cases.layers_on_two_devices_train)


@pytest.mark.slow
@pytest.mark.by_hand
def test_single_precision(on_devices):
    on_devices(cases.equals_one_in_single_precision)


@pytest.mark.slow
@pytest.mark.parametrize("curvature", ["kfac", pytest.param("gram", marks=pytest.mark.by_hand)])
def test_every_kind_of_layer(on_devices, curvature):
    on_devices(cases.equals_one, curvature, "sampled", 2, model="many", **OF_ONE_BATCH.get(curvature, {}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "curvature, examples, replicas",
    [("EKFAC", 1, 2), pytest.param("KFAC", 3, 4, marks=pytest.mark.by_hand)],
)
def test_factors_of_few_examples_which_cross_and_of_which_one_replica_has_none(
    on_devices, curvature, examples, replicas
):
    few = {"class_name": f"kfisher>{curvature}", "config": {"max_examples": examples}}
    on_devices(cases.equals_one, few, "sampled", replicas, model="broad")


@pytest.mark.slow
@pytest.mark.by_hand
def test_a_step_is_taken_back_on_all(on_devices):
    on_devices(cases.all_take_back_together)


@pytest.mark.slow
@pytest.mark.by_hand
@pytest.mark.parametrize("fisher", ["exact", "sampled", "empirical"])
def test_conjugate_gradients_up_to_their_tolerance(on_devices, fisher):
    settings = {"max_iterations": 200, "tolerance": 1e-13}
    curvature = {"class_name": "kfisher>MatrixFree", "config": settings}
    on_devices(cases.equals_one, curvature, fisher, 2, tolerance=1e-9)


@pytest.mark.slow
@pytest.mark.by_hand
@pytest.mark.parametrize(
    "settings",
    [
        {"step": "quadratic_model"},
        {"damping": {"class_name": "kfisher>LevenbergMarquardt", "config": {"initial": 0.1, "every": 2}}},
        {"trust_region": None},
        {"global_clipnorm": 0.05},
        {"clipvalue": 0.01, "weight_decay": 0.1, "use_ema": True},
        {"gradient_accumulation_steps": 2},
    ],
    ids=lambda settings: "_".join(settings),
)
def test_all_that_belongs_to_a_step(on_devices, settings):
    on_devices(cases.equals_one, "kfac", "sampled", 2, **settings)


@pytest.mark.slow
@pytest.mark.by_hand
def test_scaled_losses(on_devices):
    on_devices(cases.losses_are_scaled)


@pytest.mark.slow
@pytest.mark.by_hand
@pytest.mark.parametrize("reduction", ["sum", "sum_over_batch_size"])
def test_parts_of_several_sizes_and_none(on_devices, reduction):
    on_devices(cases.ragged, reduction=reduction)


@pytest.mark.slow
@pytest.mark.parametrize(
    "curvature, replicas, rows",
    [
        ("kfac", 2, (24, 1)),
        *(pytest.param(c, 4, (24, 9, 5), marks=pytest.mark.by_hand) for c in ("kfac", "gram", "matrix_free")),
    ],
)
def test_a_replica_without_examples_has_its_part_of_regularisers(on_devices, curvature, replicas, rows):
    settings = {"reduction": "sum_over_batch_size", "l2": 0.1, "curvature": curvature, "damping": 0.02}
    settings |= {"replicas": replicas, "rows": rows}
    if curvature == "matrix_free":
        free = {"max_iterations": 200, "tolerance": 1e-13}
        settings |= {"curvature": {"class_name": "kfisher>MatrixFree", "config": free}, "fisher": "exact"}
    on_devices(cases.ragged, **settings)


@pytest.mark.slow
def test_loss_scaling_in_a_loop_of_ones_own(on_devices):
    on_devices(cases.loss_scaling_in_a_loop_of_ones_own_is_refused)


def test_drawn_labels_are_those_of_a_single_draw(on_devices):
    on_devices(cases.labels_are_those_of_one_draw)


@pytest.mark.slow
@pytest.mark.by_hand
def test_state_is_saved_once_and_goes_on_anywhere(on_devices, tmp_path):
    on_devices(cases.state_goes_on, str(tmp_path))


@pytest.mark.slow
@pytest.mark.by_hand
def test_interrupted_and_resumed_training_is_that_which_was_not(on_devices, tmp_path):
    on_devices(cases.backup_goes_on, str(tmp_path))


@pytest.mark.slow
@pytest.mark.by_hand
def test_a_strategy_with_one_replica(on_devices):
    on_devices(cases.one_replica_alone)


@pytest.mark.slow
@pytest.mark.by_hand
def test_what_cannot_be_is_refused(on_devices):
    on_devices(cases.refusals)


@pytest.mark.slow
@pytest.mark.by_hand
def test_a_loop_of_ones_own_with_a_subclassed_model(on_devices):
    on_devices(cases.a_loop_of_ones_own)
