"""The forward pass in which nothing moves: all that run the model once more call this one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from kfisher._keras import compiled_loss
from kfisher._keras.calls import call_model
from kfisher._keras.state import unnoticed
from kfisher.jacobian.regularisers import has_other_losses
from kfisher.likelihoods.weighted import Head

if TYPE_CHECKING:
    from kfisher.jacobian.batch import Batch


@contextlib.contextmanager
def forward(
    batch: Batch,
    weights: list[tf.Tensor] | None = None,
    around: Callable[[keras.StatelessScope], contextlib.AbstractContextManager] | None = None,
) -> Iterator[Any]:
    """The outputs of the model on the batch, and for the length of the block a scope in which nothing moves.

    Args:
        batch: The batch, with the state that the model had when it was observed.
        weights: Values for the trainable variables; by default their own.
        around: A context in which the model runs, made from the scope.
    """
    values = [] if weights is None else zip(batch.model.trainable_variables, weights)
    scope = keras.StatelessScope([*batch.state, *values], collect_losses=True)
    with unnoticed(batch.raw), scope:
        with around(scope) if around else contextlib.nullcontext():
            outputs = call_model(batch.model, batch.x, batch.training)
        yield outputs


@dataclass
class Loss:
    """The compiled loss on a batch.

    Attributes:
        above_least: L, less the least that it can be for these labels where that is not 0; a scalar.
        heads: Its terms, as likelihoods with weights.
        other_losses: Whether L has parts that are neither likelihood nor L2 regulariser.
    """

    above_least: tf.Tensor
    heads: list[Head]
    other_losses: bool


def loss_of(batch: Batch, outputs: Any, tape: tf.GradientTape) -> Loss:
    """The loss at these outputs, taken apart; inside the block of `forward`, and past the `tape`."""
    values: list[tf.Tensor] = []

    def compute_loss(**arguments: Any) -> Any:
        values.append(batch.loss_at(**arguments))
        return values[-1]

    with tape.stop_recording():
        terms = compiled_loss.terms(compute_loss, batch.x, batch.y, outputs, batch.sample_weight)
    heads = [Head(term, batch.likelihood, batch.y is not None) for term in terms]
    least = [tf.cast(head.least, values[-1].dtype) for head in heads if head.least is not None]
    return Loss(values[-1] - tf.add_n(least) if least else values[-1], heads, has_other_losses(batch.model))
