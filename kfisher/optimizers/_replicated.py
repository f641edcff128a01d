"""A step whose batch is spread over replicas: what each keeps, what crosses, and what is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.checks import checked
from kfisher._common.vectors import Tensors
from kfisher._keras.compiled_loss import counted
from kfisher._keras.private import layers_of
from kfisher.jacobian.batch import Batch

_SIZES = (
    "Replicas were given batches of different sizes by a graph that is made for one size. Hand them over "
    "with a first axis of unknown size, as `strategy.experimental_distribute_dataset` does."
)
_BRANCH = (
    "A step on several replicas cannot be taken in a branch of `tf.cond`, into which one of them may come "
    "without the others. So it is in a loop of one's own with LossScaleOptimizer, which asks its own replica "
    "alone whether gradients are finite: call `model.train_step(data)` there, or `fit`. Received: `apply` in "
    "another graph than `observe`"
)


@dataclass
class Between:
    """What a replica keeps between the calls of one step.

    Attributes:
        seen: The batch, between `observe` and `apply`.
        loss: Between `scale_loss` and `apply`.
        least: That of it for the labels of the batch, or `None`: 0. Between `compute_loss` and `apply`.
        written: What Keras writes over variables, by `id`, between `apply` and `apply_steps`.
        graph: In which the batch was observed.
        agreed: Whether all replicas know that an optimizer around this one will call it.
    """

    seen: Batch | None = None
    loss: tf.Tensor | None = None
    least: tf.Tensor | None = None
    written: dict[int, tf.Tensor] = field(default_factory=dict)
    graph: Any = None
    agreed: bool = False

    def taken(self) -> tuple[Batch | None, tf.Tensor | None, tf.Tensor | None]:
        """The batch, its loss, and that at the least, which are forgotten.

        Raises:
            ValueError: If a branch of a graph leads here that this replica may have taken alone.
        """
        here = tf.executing_eagerly() or self.graph is tf.compat.v1.get_default_graph()
        if replicas.count() > 1 and self.seen is not None and not here and not self.agreed:
            raise ValueError(_BRANCH)
        found = self.seen, self.loss, self.least
        self.seen = self.loss = self.least = self.graph = None
        self.agreed = False
        return found

    def observed(self, batch: Batch) -> None:
        """Keeps the batch until its step is taken."""
        self.seen, self.graph = batch, tf.compat.v1.get_default_graph()

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """A block in which the loss of examples that do not count is left out."""
        if self.seen is None or self.seen.counts is None:
            yield
        else:
            with counted(self.seen.counts) as self.seen.counted:
                yield

    def withheld(self) -> tuple[Batch | None, tf.Tensor]:
        """The batch and its loss, of which an optimizer around this one has asked all replicas."""
        self.agreed = True
        return self.seen, tf.constant(0.0) if self.loss is None else self.loss


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

    def counting(self) -> contextlib.AbstractContextManager[None]:
        """As of this replica."""
        return self.here.counting()

    def tell_least(self, least: tf.Tensor | None) -> None:
        """Says what the loss of this step is at the least; `None` means 0."""
        self.here.least, self.counts_from_least = least, least is not None


def whole(batch: Batch, parts: Tensors) -> Tensors:
    """Gradients and, last, the loss of the whole batch, from those of its parts.

    A replica without examples has a part in it as well, that of regularisers, as in Keras.
    """
    if batch.counts is not None:
        known = batch.counted is None or bool(batch.counted)
        rest = [tf.where(tf.math.is_finite(p), p, 0) if known else tf.zeros_like(p) for p in parts]
        parts = [tf.where(batch.counts, part, other) for part, other in zip(parts, rest)]
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
    if replicas.synchronizes(now) and optimizer.ema_overwrite_frequency:
        raise ValueError(
            "Keras cannot overwrite weights by their averages on replicas. Leave "
            "`ema_overwrite_frequency` at None: `fit` overwrites them at its end. Received: "
            f"ema_overwrite_frequency={optimizer.ema_overwrite_frequency}"
        )
    if replicas.count() == 1:
        return
    if model.jit_compile:
        raise ValueError(
            f"{name} cannot be compiled by XLA on several replicas: TensorFlow lets none of them reach its "
            "variables. Compile the model with `jit_compile=False`. Received: "
            f"jit_compile={model.jit_compile!r}"
        )
    if model.steps_per_execution > 1:
        raise ValueError(
            "TensorFlow cannot repeat a step on several replicas in one graph: they would wait for one "
            "another for ever. Compile the model with `steps_per_execution=1`. Received: "
            f"steps_per_execution={model.steps_per_execution}"
        )
    layers = [each for each in layers_of(model) if isinstance(each, keras.layers.BatchNormalization)]
    together = [layer.name for layer in layers if layer.synchronized]
    if together:
        raise ValueError(
            "BatchNormalization(synchronized=True) waits for other replicas in the middle of the model, "
            "where the extra passes of a natural gradient cannot. Use `synchronized=False`, or another "
            f"normalisation. Received: layers {', '.join(together)}"
        )
