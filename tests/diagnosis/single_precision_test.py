"""Beyond the rows that are decomposed in full, in single precision: steps are those of the dense matrices."""

import keras
import numpy as np
import pytest

import kfisher
from kfisher.diagnosis.limits import SMALL
from kfisher.diagnosis.meter import Meter, examples

DAMPING, DRAWS, SEED = 1e-2, 3, 7


def test_steps_of_all_kinds():
    """The natural step is a small part of the gradient, and nearly all of that is taken away."""
    rng = np.random.default_rng(0)
    layers = [keras.Input((8,)), keras.layers.Dense(120, "tanh"), keras.layers.Dense(4)]
    model = keras.Sequential(layers)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.set_weights([rng.normal(size=v.shape) * 0.15 for v in model.get_weights()])
    x, y = rng.normal(size=(400, 8)).astype("float32"), rng.integers(0, 3, 400)
    meter, data = Meter(model, DRAWS, SEED), examples((x, y), None)
    found, frame = meter(*data, damping=DAMPING)
    assert frame.layout.counts["exact"] * 400 > SMALL and not frame.complete

    def rows(fisher):
        operator = kfisher.FisherOperator(model, x, y, fisher=fisher, seed=SEED)
        return operator.root.rows().numpy().astype(np.float64)

    empirical = rows(kfisher.Empirical())
    gradient = -empirical.sum(0) / np.sqrt(400)

    def step(u):
        return np.linalg.solve(u.T @ u + DAMPING * np.eye(u.shape[1]), gradient)

    natural = step(rows(kfisher.Exact()))
    taken = np.concatenate([np.ravel(t) for t in meter.before(*data, 0, frame).natural])
    assert np.linalg.norm(taken - natural) < 5e-3 * np.linalg.norm(natural)
    drawn = [step(u * DRAWS**0.5) for u in np.split(rows(kfisher.Sampled(DRAWS)), DRAWS)]
    for name, steps in (("sampled", drawn), ("empirical", [step(empirical)])):
        cosines = [d @ natural / (np.linalg.norm(d) * np.linalg.norm(natural)) for d in steps]
        assert found.cosine[name] == pytest.approx(np.mean(cosines), abs=2e-3)
        lengths = [np.linalg.norm(d) for d in steps]
        assert found.step_norm[name] == pytest.approx(np.mean(lengths), rel=5e-3)
