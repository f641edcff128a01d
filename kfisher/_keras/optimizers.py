"""Optimizers that stand around others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from kfisher._keras.patching import shared


def inner(optimizer: Any) -> Any:
    """The optimizer inside a `LossScaleOptimizer`, or itself.

    Raises:
        ValueError: If it is a `MultiOptimizer` with one that has to see batches: that one would be given a
            part of the gradient, and its Fisher matrix is that of all weights.
    """
    several = getattr(keras.optimizers, "MultiOptimizer", None)
    if several is not None and isinstance(optimizer, several):
        found = [type(each).__name__ for each in optimizer.optimizers if hasattr(each, "observe")]
        if found:
            raise ValueError(
                "A kfisher optimizer must train all trainable weights of a model, so it cannot be one of "
                "several. Pass it to `compile` itself, and freeze what it is to leave alone. Received: "
                f"MultiOptimizer with {found}"
            )
    return getattr(optimizer, "inner_optimizer", optimizer)


def parts_of_step(optimizer: keras.optimizers.Optimizer) -> int:
    """From how many batches each of its steps is accumulated, 1 if it is not."""
    own = inner(optimizer)
    # Ours accumulate by themselves: to Keras they take a step for every batch.
    return getattr(own, "parts_of_step", None) or own.gradient_accumulation_steps or 1


@contextlib.contextmanager
def summed(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """A block in which Keras takes gradients as they are: equal on all replicas, and not to be added up."""
    # Private, and a second crossing of all numbers saved; an AttributeError here says that it has moved.
    with shared(optimizer, "_all_reduce_sum_gradients", lambda reduce: lambda pairs: pairs):
        yield
