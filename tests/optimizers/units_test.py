"""A loss in other units: weights of a thousandth, or of a thousand, for all examples alike."""

import numpy as np
import pytest
from helpers.models import network

from kfisher.optimizers import EmpiricalNaturalGradient, NaturalGradient

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 3))
LABELS = (X @ RNG.normal(size=(3, 3))).argmax(1)


@pytest.mark.parametrize("kind", [NaturalGradient, EmpiricalNaturalGradient])
def test_weights_of_all_examples_alike_change_little(kind):
    """Gradient, F, its damping and the trust region are all in the units of the loss; but for the first step,
    which has no weight of a batch to go by yet."""
    losses, dampings = [], []
    for weight in (1.0, 1e-3, 1e3):
        optimizer = kind(seed=0)
        model = network(optimizer)
        start = float(model.loss(LABELS, model(X)))
        for _ in range(40):
            model.train_on_batch(X, LABELS, sample_weight=np.full(len(X), weight))
        losses.append(float(model.loss(LABELS, model(X))))
        dampings.append(float(optimizer.damping) / weight)
    assert dampings == pytest.approx([dampings[0]] * 3, rel=1e-4)
    assert losses[0] < 0.5 * start
    assert np.log(losses) == pytest.approx(np.log(losses[0]), abs=0.3)
