"""The differential equation of `kfisher compare --problem poisson`: its solution has no loss and no error."""

import numpy as np
import pytest
import tensorflow as tf
from kfisher_scripts.comparison import poisson


@pytest.fixture(scope="module")
def data():
    return poisson.data()


def test_the_points_lie_inside_and_on_all_four_sides(data):
    inside, edge = data.x["inside"], data.x["edge"]
    assert inside.shape == edge.shape and np.all((inside > 0) & (inside < 1))
    sides = np.stack([edge[:, 0] == 0, edge[:, 0] == 1, edge[:, 1] == 0, edge[:, 1] == 1])
    assert sides.any(0).all() and sides.sum(1).min() > 50


def test_the_solution_fulfils_the_equation_and_another_function_does_not(data):
    model = poisson.model()
    x = {name: tf.constant(points) for name, points in data.x.items()}
    assert np.abs(model(x)["residual"]).max() > 1 and poisson.error(model) > 0.1
    object.__setattr__(model, "u", lambda points: poisson.solution(points)[:, tf.newaxis])
    for output in model(x).values():
        np.testing.assert_allclose(output, np.zeros((len(output), 1)), atol=1e-12)
    assert poisson.error(model) < 1e-14
