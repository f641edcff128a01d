"""The compiled Keras loss taken apart: which loss meets which output, and the weight of each position.

Keras computes L = Σ_n w_n l_n. Sample weights, class weights, masks, loss weights, the reduction and
the number of replicas all end up in w_n = dL / dl_n, so w_n is read off by differentiating Keras' own
total with respect to its per-position losses. No formula of Keras is written again here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kfisher._keras.patching import patched_loss_call, replaced
from kfisher._keras.private import options


@dataclass
class Term:
    """One output with its loss.

    Attributes:
        loss: The `keras.losses.Loss` that `compile` made for this output.
        outputs: f, shape `(N, ..., C)`, the very tensor that the model returned.
        labels: y as handed to the loss, or `None`.
        weights: w, shape `(N, ...)`: the weight of each position in the total loss.
    """

    loss: keras.losses.Loss
    outputs: tf.Tensor
    labels: Any
    weights: tf.Tensor | None = None
    values: tf.Tensor | None = None


def terms(compute_loss: Callable, x: Any, y: Any, outputs: Any, sample_weight: Any) -> list[Term]:
    """The terms of the compiled loss on one batch.

    Args:
        compute_loss: That of a compiled model.
        x: Inputs, handed on to `compute_loss`.
        y: Labels in the structure that `fit` takes, or `None`: then only the weights are meaningful.
        outputs: What the model returned for `x`.
        sample_weight: As in `fit`, or `None`.

    Raises:
        ValueError: If the model has no compiled loss, or its loss is not a `keras.losses.Loss`.
    """
    found: list[Term] = []
    without_labels = y is None
    with tf.GradientTape(persistent=True) as tape:
        with _listen(found, tape, without_labels):
            total = compute_loss(
                x=x, y=outputs if without_labels else y, y_pred=outputs, sample_weight=sample_weight
            )
    if not found:
        raise ValueError(
            "The model computes its loss without any `keras.losses.Loss`, so the likelihood of its outputs "
            "is unknown. Pass `loss=` to `compile`; `add_loss` terms may stand beside it."
        )
    for term in found:
        weights = tape.gradient(total, term.values)
        if weights is None:
            raise ValueError(f"The loss {term.loss.name!r} does not enter the total loss of the model.")
        term.weights = weights
    return found


@contextlib.contextmanager
def multiplied(factor: Callable[[Term, Any], tf.Tensor]) -> Iterator[None]:
    """For the length of the block, every `Loss` that is called in this thread is multiplied by a scalar.

    Args:
        factor: Makes it, before the loss is computed, from the term and its sample weights.
    """

    def call(original: Any, loss: Any, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        scalar = factor(Term(loss, y_pred, y_true), sample_weight)
        value = original(loss, y_true, y_pred, sample_weight)
        return value * tf.cast(scalar, value.dtype)

    with _outermost(call):
        yield


@contextlib.contextmanager
def counted(counts: tf.Tensor) -> Iterator[list[Term]]:
    """A block in which losses count, or not: then regularisers and `add_loss` alone have a part in the total.

    Args:
        counts: Boolean scalar.

    Returns:
        The terms so far.
    """
    found: list[Term] = []

    def factor(term: Term, sample_weight: Any) -> tf.Tensor:
        found.append(term)
        return counts

    with multiplied(factor):
        yield found


def with_least(compute_loss: Callable, least: Callable[[Term], tf.Tensor | None]) -> Callable:
    """`compute_loss`, which returns beside the loss what it is at the least, or `None` where that is 0.

    Args:
        compute_loss: That of a compiled model.
        least: From a term, the least values of its loss, or `None`: 0.
    """

    def both(*args: Any, **kwargs: Any) -> tuple[Any, tf.Tensor | None]:
        some = False

        def call(original: Any, loss: Any, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
            nonlocal some
            value, low = original(loss, y_true, y_pred, sample_weight), least(Term(loss, y_pred, y_true))
            if low is None:
                return value
            some = True
            with replaced(loss, "call", lambda y_true, y_pred: tf.cast(low, value.dtype)):
                return value + tf.cast(none, value.dtype) * original(loss, y_true, y_pred, sample_weight)

        # What Keras makes of the terms (it weighs and adds them) is the derivative to a share of which there
        # is none.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            none = tf.zeros((), tf.float64)
            tape.watch(none)
            with _outermost(call):
                loss = compute_loss(*args, **kwargs)
        return loss, tape.gradient(loss, none) if some else None

    return both


@contextlib.contextmanager
def _listen(found: list[Term], tape: tf.GradientTape, without_labels: bool) -> Iterator[None]:
    """For the length of the block, every `Loss` that is called in this thread adds a `Term`."""

    def listened(original: Any, loss: Any, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        term = Term(loss, y_pred, None if without_labels else y_true)
        call = loss.call

        def recorded(y_true: Any, y_pred: Any) -> Any:
            if without_labels:  # the values do not matter, only their shape: one for each position
                term.values = tf.ones_like(tf.reduce_sum(y_pred, options(loss).get("axis", -1)))
            else:
                term.values = call(y_true, y_pred)
            tape.watch(term.values)
            found.append(term)
            return term.values

        with replaced(loss, "call", recorded):
            return original(loss, y_true, y_pred, sample_weight)

    with _outermost(listened):
        yield


@contextlib.contextmanager
def _outermost(call: Callable) -> Iterator[None]:
    """For the length of the block, `call` has each `Loss` that is called in this thread, and the original."""
    inside = False  # a loss that calls another is one term

    def wrap(original: Any) -> Any:
        def wrapped(loss: Any, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            nonlocal inside
            if inside:
                return original(loss, y_true, y_pred, sample_weight)
            inside = True
            try:
                return call(original, loss, y_true, y_pred, sample_weight)
            finally:
                inside = False

        return wrapped

    with patched_loss_call(wrap):
        yield
