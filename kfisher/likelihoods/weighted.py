"""One term of the compiled loss as a likelihood: its coordinates, labels and weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kfisher._common.checks import checked
from kfisher._keras.compiled_loss import Term, multiplied, with_least
from kfisher._keras.patching import shared
from kfisher.likelihoods import Likelihood, from_loss

# Medians of batches are averaged as roots, which hardly see it where that of a small one is an outlier.
ROOT = 8


class Head:
    """One term of the loss.

    Attributes:
        likelihood: p(y | f).
        eta: Its coordinates, `(N, ..., C)`.
        labels: Those of the data in the shape of eta, or `None`.
        weight: What the values of the loss weigh together: 1 where it is their mean.
        bounded: What the outputs weigh together whose scores do not grow with errors.
        root_weights: √(w), which broadcasts to eta; w is that of log p, of which a value may be a mean.
        least: What it is at the least for these labels, or `None`: 0.
    """

    def __init__(self, term: Term, likelihood: Likelihood | None, labelled: bool):
        self.likelihood = likelihood or from_loss(term.loss)
        outputs = tf.cast(term.outputs, term.loss.dtype)
        if outputs.shape.rank < 2:
            raise ValueError(
                "Model outputs must have a batch axis and at least one more. Received: outputs of shape "
                f"{tuple(outputs.shape)}"
            )
        labels = tf.convert_to_tensor(term.labels) if labelled else None
        if labelled:
            outputs = self.likelihood.aligned(outputs, labels)
        self.eta = self.likelihood.coordinates(outputs)
        self.labels = self.likelihood.labels(labels, self.eta) if labelled else None
        weights = _not_negative(tf.cast(term.weights, self.eta.dtype))
        self.weight = tf.reduce_sum(weights)
        self.bounded = self.weight * (self.eta.shape[-1] if self.likelihood.bounded else 0)
        weights /= self.likelihood.copies(self.eta)
        missing = self.eta.shape.rank - weights.shape.rank
        if missing < 1 or not weights.shape.is_compatible_with(self.eta.shape[: weights.shape.rank]):
            raise ValueError(
                f"The loss {term.loss.name!r} must return one value for each position of the outputs. "
                f"Received: values of shape {tuple(weights.shape)}, outputs of shape {tuple(outputs.shape)}"
            )
        for _ in range(missing):
            weights = weights[..., tf.newaxis]
        self.root_weights = tf.sqrt(weights)
        if self.labels is not None and self.labels.dtype.is_floating:
            # Labels that are not finite (under XLA, also those that failed a check) spoil the whole step, for
            # Fishers too that do not look at them.
            spoilt = tf.reduce_any(tf.math.is_nan(self.labels))
            nan = tf.constant(float("nan"), self.eta.dtype)
            self.root_weights = tf.where(spoilt, nan, self.root_weights)
        # Only a loss of Keras is known to leave constants out.
        self.least = None
        if self.likelihood.can_be_negative and labelled and likelihood is None:
            least = self.likelihood.least(self.labels)
            self.least = tf.reduce_sum(tf.square(self.root_weights) * least)


@contextlib.contextmanager
def labels_checked(
    model: keras.Model,
    likelihood: Likelihood | None,
    tell: Callable[[tf.Tensor | None], None],
    counting: Callable[[], contextlib.AbstractContextManager],
) -> Iterator[None]:
    """For the length of the block, the loss of `model` refuses labels and weights that it has no meaning for.

    It raises; under XLA, which drops assertions, the loss and its gradient are NaN.

    Args:
        model: Compiled with a loss.
        likelihood: Used instead of the one of the compiled loss (of every output), or `None`.
        tell: Is called with what each loss is at the least for its labels, or with `None`: 0.
        counting: Makes a block in which a loss counts only where its examples do.
    """

    def one_or_nan(term: Term, sample_weight: Any) -> tf.Tensor:
        found = likelihood or from_loss(term.loss)
        # Only shape and dtype matter, not what is behind these outputs.
        outputs = tf.stop_gradient(tf.cast(term.outputs, term.loss.dtype))
        labels = tf.convert_to_tensor(term.labels)
        spoilt = found.spoilt(labels, found.coordinates(found.aligned(outputs, labels)))
        if sample_weight is not None:
            weights = _not_negative(tf.cast(sample_weight, outputs.dtype))
            spoilt |= tf.reduce_any(tf.math.is_nan(weights))
        return tf.where(spoilt, tf.constant(float("nan"), outputs.dtype), tf.ones((), outputs.dtype))

    def checking(compute_loss: Callable) -> Callable:
        def checked_loss(*args: Any, **kwargs: Any) -> Any:
            # Not around a whole step: what is patched belongs to one replica at a time.
            with multiplied(one_or_nan), counting():
                loss, least = above_least(compute_loss, likelihood)(*args, **kwargs)
            tell(least)
            return loss

        return checked_loss

    with shared(model, "compute_loss", checking):
        yield


def above_least(compute_loss: Callable, likelihood: Likelihood | None) -> Callable:
    """`compute_loss`, which returns beside the loss what it is at the least for its labels, or `None`: 0."""

    def least(term: Term) -> tf.Tensor | None:
        found = from_loss(term.loss)
        if not found.can_be_negative:
            return None
        outputs = tf.stop_gradient(tf.cast(term.outputs, term.loss.dtype))
        labels = tf.convert_to_tensor(term.labels)
        low = found.least(found.labels(labels, found.aligned(outputs, labels)))
        return tf.reduce_sum(low, -1) / found.copies(low)

    return with_least(compute_loss, least if likelihood is None else lambda term: None)


def _not_negative(weights: tf.Tensor) -> tf.Tensor:
    valid = tf.math.is_nan(weights) | (weights >= 0)
    return checked(weights, valid, "Sample and class weights must not be negative.")


class Weights(NamedTuple):
    """What the values of a loss on a batch weigh together: float32 scalars, sums over its heads.

    Attributes:
        values: All of them, W: 1 where the loss is a mean.
        bounded: The outputs under absolute error, B, whose scores do not grow with errors.
        others: The values under other losses.
        roots: The values under absolute error, times the root `ROOT` of the median of their errors.
    """

    values: Any
    bounded: Any
    others: Any
    roots: Any


def weights_of(heads: list[Head]) -> tf.Tensor:
    """The `Weights` of a batch, `(4,)`."""
    found = []
    for head in heads:
        none = tf.zeros_like(head.weight)
        known = head.likelihood.bounded and head.labels is not None
        roots = head.weight * _median(head) ** (1 / ROOT) if known else none
        rest = none if head.likelihood.bounded else head.weight
        found.append(tf.cast(tf.stack(Weights(head.weight, head.bounded, rest, roots)), tf.float32))
    return tf.add_n(found)


def _median(head: Head) -> tf.Tensor:
    """That of |y - f| over outputs that are not exact, each with its weight; NaN if an error is."""
    errors = tf.abs(head.labels - head.eta)
    weights = tf.square(head.root_weights) * tf.cast(errors > 0, errors.dtype)
    errors = tf.reshape(errors, [-1])
    order = tf.argsort(errors)
    sums = tf.cumsum(tf.gather(tf.reshape(weights, [-1]), order))
    below = tf.reduce_sum(tf.cast(sums < sums[-1] / 2, tf.int32))
    return tf.where(tf.math.is_finite(sums[-1]), tf.gather(errors, order[below]), sums[-1])


def mean_weights(heads: list[Head]) -> tf.Tensor:
    """The weight of an output or position of each example, `(N,)`, averaged over those that have any."""
    totals, counts = [], []
    for head in heads:
        w = tf.square(head.root_weights)
        axes = list(range(1, w.shape.rank))
        totals.append(tf.reduce_sum(w, axes))
        counts.append(tf.reduce_sum(tf.cast(w > 0, w.dtype), axes))
    return tf.math.divide_no_nan(tf.add_n(totals), tf.add_n(counts))


def example_weights(heads: list[Head]) -> tuple[tf.Tensor, tf.Tensor]:
    """w_n over their sum, `(N,)`, and that sum: the share of each example, over all outputs and positions."""
    parts = []
    for head in heads:
        w = tf.square(head.root_weights)
        parts.append(tf.reduce_sum(w, list(range(1, w.shape.rank))))
    weights = tf.add_n(parts)
    total = tf.reduce_sum(weights)
    return tf.math.divide_no_nan(weights, total), total
