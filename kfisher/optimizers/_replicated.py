"""A step whose batch is spread over replicas: what each keeps, what crosses, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.checks import checked
from kfisher._common.vectors import Tensors
from kfisher.jacobian.batch import Batch

_SIZES = (
    "Replicas were given batches of different sizes by a graph that is made for one size. Hand them over "
    "with a first axis of unknown size, as `strategy.experimental_distribute_dataset` does."
)


@dataclass
class Between:
    """What a replica keeps between the calls of one step.

    Attributes:
        seen: The batch, between `observe` and `apply`.
        loss: Between `scale_loss` and `apply`.
        least: That of it for the labels of the batch, or `None`: 0. Between `compute_loss` and `apply`.
        written: What Keras writes over variables, by `id`, between `apply` and `apply_steps`.
    """

    seen: Batch | None = None
    loss: tf.Tensor | None = None
    least: tf.Tensor | None = None
    written: dict[int, tf.Tensor] = field(default_factory=dict)

    def taken(self) -> tuple[Batch | None, tf.Tensor | None, tf.Tensor | None]:
        """The batch, its loss, and that at the least, which are forgotten."""
        found = self.seen, self.loss, self.least
        self.seen = self.loss = self.least = None
        return found


class OfSteps:
    """`Between` of every replica: they take their turns in one process, each on several threads.

    Attributes:
        counts_from_least: Whether losses can be negative, and count from where they are least.
    """

    counts_from_least = False

    def __init__(self) -> None:
        self._by_index: dict[int, Between] = {}

    @property
    def here(self) -> Between:
        """That of this replica."""
        return self._by_index.setdefault(replicas.index(), Between())

    def tell_least(self, least: tf.Tensor | None) -> None:
        """Says what the loss of this step is at the least; `None` means 0."""
        self.here.least, self.counts_from_least = least, least is not None


def whole(batch: Batch, parts: Tensors) -> Tensors:
    """Gradients and, last, the loss of the whole batch, from those of its parts."""
    if batch.counts is not None:
        parts = [tf.where(batch.counts, part, tf.zeros_like(part)) for part in parts]
    elif batch.sizes is not None:  # no replica has asked the others how many examples they have
        *parts, size = replicas.total([*parts, tf.cast(batch.size, tf.float32)])
        equal = tf.equal(size, tf.cast(tf.reduce_sum(batch.sizes), tf.float32))
        return [*parts[:-1], checked(parts[-1], equal, _SIZES)]
    return replicas.total(parts)


def check_strategy(optimizer: Any, strategy: Any) -> None:
    """Raises if the strategy of now is not the one that the optimizer was made in."""
    name, now = type(optimizer).__name__, tf.distribute.get_strategy()
    replicas.require_supported(name)
    if strategy is not now and (replicas.synchronizes(strategy) or replicas.synchronizes(now)):
        raise ValueError(
            f"{name} keeps its state in the strategy that it was made in. Make it, and the model, inside of "
            f"`with strategy.scope():`. Received: made in {type(strategy).__name__}, used in "
            f"{type(now).__name__}"
        )


def check(optimizer: Any, strategy: Any, model: keras.Model) -> None:
    """Raises if a step of `model` cannot be taken in the strategy of now.

    Args:
        optimizer: About to take it.
        strategy: In which it was made.
        model: Built or not.
    """
    check_strategy(optimizer, strategy)
    name, now = type(optimizer).__name__, tf.distribute.get_strategy()
    if replicas.synchronizes(now) and tf.distribute.in_cross_replica_context():
        raise ValueError(
            "A batch is shown to an optimizer on the replica that has it: call `observe` inside of the "
            "function that `strategy.run` runs. Received: a call outside of it, with "
            f"strategy={type(now).__name__}"
        )
    if replicas.count() == 1:
        return
    if model.jit_compile:
        raise ValueError(
            f"{name} cannot be compiled by XLA on several replicas: TensorFlow lets none of them reach its "
            "variables. Compile the model with `jit_compile=False`. Received: "
            f"jit_compile={model.jit_compile!r}"
        )
    if optimizer.ema_overwrite_frequency:
        raise ValueError(
            "Keras cannot overwrite weights by their averages on several replicas. Leave "
            "`ema_overwrite_frequency` at None: `fit` overwrites them at its end. Received: "
            f"ema_overwrite_frequency={optimizer.ema_overwrite_frequency}"
        )
    inside = tf.train.TrackableView(model).descendants()
    layers = [layer for layer in inside if isinstance(layer, keras.layers.BatchNormalization)]
    together = [layer.name for layer in layers if layer.synchronized]
    if together:
        raise ValueError(
            "BatchNormalization(synchronized=True) waits for other replicas in the middle of the model, "
            "where the extra passes of a natural gradient cannot. Use `synchronized=False`, or another "
            f"normalisation. Received: layers {', '.join(together)}"
        )
