"""A pass of the model in which nothing moves, before anything is pulled back through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kfisher import compiled_loss, plan, taps
from kfisher.checks import check_batch
from kfisher.heads import Head
from kfisher.likelihoods import Likelihood


@dataclass
class Recorded:
    """What the pass has left.

    Attributes:
        variables: The trainable variables, in the order of the model.
        heads: The terms of the loss.
        sites: The calls of its layers.
        other_losses, loss: As in `SquareRoot`.
    """

    variables: list[keras.Variable]
    heads: list[Head]
    sites: list[taps.Site]
    other_losses: bool
    loss: tf.Tensor
    _plan: plan.Plan
    _tape: tf.GradientTape

    def pull_back(self, groups: list) -> None:
        """Vectors at the outputs to every site; see `taps.pull_back`."""
        taps.pull_back(self._plan, self._tape, self.sites, groups)


def record(
    model: keras.Model,
    x: Any,
    y: Any,
    sample_weight: Any,
    training: bool,
    likelihood: Likelihood | None = None,
    compute_loss: Callable | None = None,
) -> Recorded:
    """One recorded pass of `model` over a batch; arguments as for `square_root`."""
    trainable = list(model.trainable_variables)
    if not trainable:
        raise ValueError(
            f"The model {model.name!r} has no trainable variables. If it is not built yet, call it on a "
            "batch."
        )
    check_batch(x=x, y=y, sample_weight=sample_weight)
    to_tap = plan.plan(model, x, training)
    with (
        taps.scope_of(model) as scope,
        tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape,
        taps.tapped(to_tap, scope, tape) as sites,
    ):
        outputs = plan.call_model(model, x, training)
        with tape.stop_recording():
            totals: list[tf.Tensor] = []

            def total(**batch):
                totals.append((compute_loss or model.compute_loss)(**batch))
                return totals[-1]

            terms = compiled_loss.terms(total, x, y, outputs, sample_weight)
        heads = [Head(term, likelihood, y is not None) for term in terms]
        others = _has_other_losses(model)
    return Recorded(trainable, heads, sites, others, totals[-1], to_tap, tape)


def _has_other_losses(model: keras.Model) -> bool:
    """Whether there are `add_loss` terms, activity regularisers, or regularisers that are not plain L2."""
    regularizers = [v.regularizer for v in model.trainable_variables if v.regularizer is not None]
    plain = [
        isinstance(r, keras.regularizers.L2) or (isinstance(r, keras.regularizers.L1L2) and r.l1 == 0)
        for r in regularizers
    ]
    return len(model.losses) > len(regularizers) or not all(plain)
