"""Categorical and sparse categorical cross-entropy."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kfisher._common.checks import boolean, checked, integer, share
from kfisher._keras.requirements import distributions as tfd
from kfisher.likelihoods._base import Likelihood, clip, logits_behind, register, warn_of_logits


@register
class Categorical(Likelihood):
    """y ~ Categorical(softmax(eta)): the likelihood of (sparse) categorical cross-entropy.

    score = onehot(y) - p,  S Sᵀ = diag(p) - p pᵀ.

    With q = √(p), diag(p) - p pᵀ = diag(q) (I - q qᵀ) diag(q). The projection loses one dimension, so S
    has C - 1 columns: diag(q) times all but column m of the Householder reflection that takes q to the axis
    of the likeliest class m, I - u uᵀ / (1 + q_m) with u = q + e_m. Another m would cancel where p_m is
    near 1.

    Args:
        from_logits: Boolean; whether f is eta (`True`) or p (`False`, Keras' default; p is
            normalised, unless `sparse`, and clipped as Keras does).
        sparse: Boolean; labels of the data are class indices `(...)` instead of one-hot `(..., C)`.
        label_smoothing: Float in [0, 1]; labels of the data become y (1 - s) + s / C, as in Keras.
            Labels drawn from the model are never smoothed.
        axis: Integer, the axis of the classes in f.
        ignore_class: Integer or `None`; a label that marks positions without a loss.

    Raises:
        ValueError: For wrong arguments.
        tf.errors.InvalidArgumentError: For labels that are no classes or no probabilities.

    Example:

    >>> kfisher.likelihoods.Categorical(from_logits=True).score(tf.zeros((1, 2)), tf.constant([[1.0, 0.0]]))
    <tf.Tensor: shape=(1, 2), dtype=float32, numpy=array([[ 0.5, -0.5]], dtype=float32)>
    """

    def __init__(
        self,
        from_logits: bool = False,
        sparse: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        ignore_class: int | None = None,
    ):
        self.from_logits = boolean("from_logits", from_logits)
        self.sparse = boolean("sparse", sparse)
        self.label_smoothing = share("label_smoothing", label_smoothing)
        self.axis = integer("axis", axis)
        self.ignore_class = ignore_class
        if ignore_class is not None:
            self.ignore_class = integer("ignore_class", ignore_class, "an integer, or None")

    def coordinates(self, outputs: tf.Tensor) -> tf.Tensor:
        rank = outputs.shape.rank
        if not -rank < self.axis < rank or self.axis == 0:
            raise ValueError(
                "`axis` must be an axis of the outputs, and not that of the batch. Received: "
                f"axis={self.axis}, outputs of shape {tuple(outputs.shape)}"
            )
        if outputs.shape[self.axis] == 1:
            raise ValueError(
                "A categorical cross-entropy needs two classes or more; with one its Fisher is zero. Use "
                f"binary cross-entropy. Received: outputs of shape {tuple(outputs.shape)}"
            )
        logits = logits_behind(outputs, "Softmax")
        outputs = _axis_to_last(outputs if logits is None else logits, self.axis)
        if self.from_logits or logits is not None:
            return outputs
        warn_of_logits(outputs, "categorical cross-entropy", "softmax")
        # softmax(log p) = p / sum p, so the logarithm is a logit; the sparse loss relies on that.
        p = outputs if self.sparse else outputs / tf.reduce_sum(outputs, -1, keepdims=True)
        return tf.math.log(clip(p))

    def distribution(self, eta: tf.Tensor) -> Any:
        return tfd().OneHotCategorical(logits=eta, dtype=eta.dtype)

    def labels(self, y: tf.Tensor, eta: tf.Tensor) -> tf.Tensor:
        if not self.sparse:
            y = super().labels(_axis_to_last(y, self.axis), eta)
            total = tf.reduce_sum(y, -1, keepdims=True)
            valid = tf.reduce_all(y >= 0, -1, keepdims=True) & (tf.abs(total - 1) < 1e-2)
            y = checked(
                y,
                valid | tf.math.is_nan(total),
                "Labels of categorical cross-entropy must be probabilities that sum to 1 over the classes, "
                "also where a mask or a weight of zero leaves them out.",
            )
            return y * (1 - self.label_smoothing) + self.label_smoothing / eta.shape[-1]
        index, one = self._index(y, eta)
        return tf.one_hot(index, eta.shape[-1], dtype=eta.dtype) * one[..., tf.newaxis]

    def spoilt(self, y: tf.Tensor, eta: tf.Tensor) -> tf.Tensor:
        if not self.sparse:
            return super().spoilt(y, eta)
        return tf.reduce_any(tf.math.is_nan(self._index(y, eta)[1]))  # without a row of all classes for each

    def _index(self, y: tf.Tensor, eta: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Sparse labels as indices, and 1 for each that passes its check; without the axis of classes."""
        if y.shape.rank == eta.shape.rank and y.shape[-1] == 1:
            y = y[..., 0]
        if not y.shape.is_compatible_with(eta.shape[:-1]):
            raise ValueError(
                "Sparse labels must have the shape of the model outputs without the classes. "
                f"Received: labels of shape {tuple(y.shape)}, outputs of shape {tuple(eta.shape)}."
            )
        index = tf.cast(y, tf.int32)
        valid = (index >= 0) & (index < eta.shape[-1]) & tf.equal(tf.cast(index, y.dtype), y)
        if self.ignore_class is not None:
            valid |= tf.equal(index, self.ignore_class)
        one = checked(
            tf.ones_like(index, eta.dtype),
            valid,
            "Labels of sparse categorical cross-entropy must be class indices, whole numbers from 0 to "
            f"{eta.shape[-1] - 1}.",
        )
        return index, one

    def score(self, eta: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return y - tf.nn.softmax(eta)

    def fisher_root(self, eta: tf.Tensor) -> tf.Tensor:
        q = tf.exp(tf.nn.log_softmax(eta) / 2)
        classes = eta.shape[-1]
        top = tf.argmax(eta, -1, tf.int32)
        u = q + tf.one_hot(top, classes, dtype=eta.dtype)
        top = top[..., tf.newaxis]
        kept = tf.where(tf.range(1, classes) == top, 0, tf.range(1, classes))
        identity = tf.one_hot(kept, classes, dtype=eta.dtype, axis=eta.shape.rank - 1)
        ratio = _others(q, top) / (1 + tf.reduce_max(q, -1, keepdims=True))
        return q[..., tf.newaxis] * (identity - u[..., tf.newaxis] * ratio[..., tf.newaxis, :])

    def fisher_product(self, eta: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        pu = tf.nn.softmax(eta) * u
        return pu - tf.nn.softmax(eta) * tf.reduce_sum(pu, -1, keepdims=True)

    def whiten(self, eta: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
        log_q = tf.nn.log_softmax(eta) / 2
        q = tf.exp(log_q)
        top = tf.argmax(eta, -1, tf.int32)[..., tf.newaxis]
        t = score * tf.exp(tf.minimum(-log_q, 40.0))  # score / q; the floor keeps it finite
        ratio = _others(q, top) / (1 + tf.reduce_max(q, -1, keepdims=True))
        return _others(t, top) - ratio * tf.gather(t, top, batch_dims=eta.shape.rank - 1)

    def get_config(self) -> dict[str, Any]:
        return {
            "from_logits": self.from_logits,
            "sparse": self.sparse,
            "label_smoothing": self.label_smoothing,
            "axis": self.axis,
            "ignore_class": self.ignore_class,
        }


def _others(x: tf.Tensor, top: tf.Tensor) -> tf.Tensor:
    """`(..., C)` without the entry `top` `(..., 1)`: the first takes its place and is left out."""
    return tf.where(tf.range(1, x.shape[-1]) == top, x[..., :1], x[..., 1:])


def _axis_to_last(x: tf.Tensor, axis: int) -> tf.Tensor:
    rank = x.shape.rank
    if axis in (-1, rank - 1):
        return x
    order = [i for i in range(rank) if i != axis % rank] + [axis % rank]
    return tf.transpose(x, order)
