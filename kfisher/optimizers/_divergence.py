"""Divergence, said while it happens."""

from __future__ import annotations

import math
import warnings
import weakref
from typing import Any

import tensorflow as tf

from kfisher._common import replicas
from kfisher._keras.private import cond_of_functions
from kfisher.optimizers import _skips

# So many steps in a row that were skipped or taken back are no accident.
IN_A_ROW = 5
# A loss that exceeds its start by so many times its size is no way to a minimum.
FAR = 10.0
# The name is what XLA's error message shows.
_WARN = "warn_of_divergence"


def trouble(optimizer: Any, counts_from_least: bool) -> str | None:
    """A sentence on what is wrong with the training so far, with the numbers, or `None`.

    Args:
        optimizer: That trains.
        counts_from_least: Whether its losses can be negative, and count from where they are least.
    """
    name = type(optimizer).__name__
    advice = (
        f"Received: {_settings(optimizer)}. Look for bad labels and unscaled inputs; {_shorter(optimizer)}."
    )
    row = int(optimizer.failed_steps.numpy())
    if row >= IN_A_ROW:
        skipped, taken_back = optimizer.skips.numpy(), int(_number(optimizer.rejected_steps))
        counts = [f"{skipped.sum()} were skipped ({_skips.told(skipped)})"] if skipped.any() else []
        counts += [f"{taken_back} taken back (the loss jumped)"] if taken_back else []
        if not taken_back and not skipped[_skips.LOSS :].any():
            advice = "Look at the data: no setting of the optimizer changes that."
        elif skipped[_skips.OUTLIER] == skipped.sum() and not taken_back:
            advice = (
                "Look for outliers among inputs, labels and weights. If these are other data than before, "
                "compile the model with a new optimizer, or go on: after ten such steps in a row, or twice "
                "as many as ever before, they are taken for a new problem."
            )
        elif skipped[_skips.LOSS] == int(optimizer.iterations.numpy()):
            advice = (
                "It is so with the weights at the start: look at the scale of the inputs and at the "
                "activation of the last layer. No setting of the optimizer changes that."
            )
        return (
            f"{name} is not getting on: the last {row} steps were skipped or taken back. So far "
            f"{' and '.join(counts)}. {advice}"
        )
    past = optimizer.guard and optimizer.guard.memory.read()
    if past is not None and float(past.judged) > 0:
        start, now = float(past.start), float(past.level + past.rare)  # of all batches
        if is_far(start, now, float(past.best_size)):
            loss = "loss above the least that its labels allow" if counts_from_least else "loss"
            return f"{name} diverges: the {loss} is {now:.3g} on average, and began at {start:.3g}. {advice}"
    return None


def is_far(start: Any, now: Any, size: Any) -> Any:
    """True if the average loss is far above its start, for its size there and its `size` at its best.

    Not its size at the start alone: a loss that is not positive may begin near zero. Numbers or tensors.
    """
    return (now - start > FAR * abs(start)) & (now - start > FAR * size)


def warn_once(optimizer: Any, xla: bool) -> None:
    """At the end of each batch: has Python say what is wrong, if it has not been said.

    XLA cannot call Python; there `fit` of a model that shows its batches says it between steps.
    """
    if xla:
        return
    wanted = tf.equal(optimizer.failed_steps.value, IN_A_ROW)
    if optimizer.guard is not None:
        past = optimizer.guard.memory.read()
        wanted |= is_far(past.start, past.level + past.rare, past.best_size)
    reference = weakref.ref(optimizer)

    def say() -> int:
        alive = reference()
        text = None if alive is None else alive.trouble()
        if text is not None:
            warnings.warn(text, stacklevel=2)
        return 0

    told = optimizer.told

    def tell() -> None:
        if replicas.index() > 0:
            told.assign(1)
            return
        # Read here, so that the graph calls Python after all that changes what it will look at.
        with tf.control_dependencies([tf.convert_to_tensor(v) for v in _looked_at(optimizer)]):
            said = tf.numpy_function(say, [], tf.int64, name=_WARN)
        with tf.control_dependencies([said]):
            told.assign(1)

    cond_of_functions(wanted & tf.equal(told.value, 0), tell, lambda: None)


def _looked_at(optimizer: Any) -> list[Any]:
    """The variables that `trouble` speaks of."""
    counts = [optimizer.failed_steps, optimizer.skips, optimizer.rejected_steps]
    counts += [optimizer.damping, optimizer.iterations]
    if optimizer.guard is not None:
        counts.append(optimizer.guard.memory.variable)
    return [v for v in counts if v is not None]


def _settings(optimizer: Any) -> str:
    """What it goes by now."""
    found = [f"learning_rate={_number(optimizer.learning_rate):.3g}"]
    if optimizer.damping is not None:
        found.append(f"damping={_number(optimizer.damping):.3g}")
    if hasattr(optimizer, "trust_region"):
        now = _number(optimizer.radius) if optimizer.trust_region == "auto" else math.nan
        found.append(f"trust_region={optimizer.trust_region!r}" + (f" (now {now:.3g})" if now == now else ""))
    return ", ".join(found)


def _shorter(optimizer: Any) -> str:
    """What would make its steps shorter."""
    ways = [] if getattr(optimizer, "step", None) == "quadratic_model" else ["a lower `learning_rate`"]
    if hasattr(optimizer, "trust_region"):
        bounded = optimizer.trust_region is not None
        ways.append("a smaller `trust_region`" if bounded else "a `trust_region`, as by default,")
    ways += [] if optimizer.damping is None else ["a larger `damping`"]
    *others, last = ways
    listed = f"{', '.join(others)} and {last} make" if others else f"{last} makes"
    return f"{listed} steps shorter"


def _number(value: Any) -> float:
    found = float(tf.convert_to_tensor(value))
    return found if math.isfinite(found) else float("nan")
