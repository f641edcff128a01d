"""The likelihood p(y | f) behind a Keras loss: labels from the model, scores, and the Fisher in f.

Every likelihood here is written in coordinates eta(f) in which its Fisher information is simple
(for an exponential family, the natural parameter). `coordinates` maps the model outputs f to eta
inside the recorded forward pass, so whatever it does (a log, a logit) is pulled back by autodiff,
and `from_logits=True` and `from_logits=False` share every line that follows.

With phi the dispersion and T(y) = y, an exponential family has

    score   d/d eta log p(y | eta) = (y - E[y]) / phi
    Fisher  S Sᵀ                  = Var[y] / phi²

Source: Kunstner, Balles, Hennig 2019, section 3; Martens 2020, section 9.
"""

from __future__ import annotations

import warnings
from typing import Any

import keras
import tensorflow as tf

register = keras.saving.register_keras_serializable("kfisher")


class Likelihood:
    """p(y | f) of one output of a model; positions are all axes of f but the last.

    Shapes below: f and eta are `(..., C)`; a label y has the shape of eta unless said otherwise.
    Subclasses say what eta, the distribution, the score and the root of the Fisher are.

    Attributes:
        bounded: Whether scores do not grow with errors.
        can_be_negative: Whether Keras' loss leaves out what keeps -log p above 0.
    """

    bounded = False
    can_be_negative = False

    def coordinates(self, outputs: tf.Tensor) -> tf.Tensor:
        """eta(f), shape `(..., C)`; differentiable in `outputs`."""
        return outputs

    def distribution(self, eta: tf.Tensor) -> Any:
        """The `tfp.distributions.Distribution` p(y | eta)."""
        raise NotImplementedError

    def aligned(self, outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """The outputs in the shape in which the loss compares them with labels of the shape of `y`."""
        return outputs

    def labels(self, y: tf.Tensor, eta: tf.Tensor) -> tf.Tensor:
        """The labels of the data, checked, in the shape and dtype of eta."""
        y = tf.cast(y, eta.dtype)
        if y.shape.rank == eta.shape.rank - 1 and eta.shape[-1] == 1:
            y = y[..., tf.newaxis]
        if y.shape.rank == eta.shape.rank + 1 and y.shape[-1] == 1:
            y = y[..., 0]
        if not y.shape.is_compatible_with(eta.shape):
            raise ValueError(
                f"The labels of {type(self).__name__} must have the shape of the model outputs. "
                f"Received: labels of shape {tuple(y.shape)}, outputs of shape {tuple(eta.shape)}."
            )
        return y

    def spoilt(self, y: tf.Tensor, eta: tf.Tensor) -> tf.Tensor:
        """True if a label of the data is NaN, a boolean scalar; under XLA, also one that fails its check."""
        y = self.labels(y, eta)
        return tf.reduce_any(tf.math.is_nan(y)) if y.dtype.is_floating else tf.constant(False)

    def sample(self, eta: tf.Tensor, num_samples: int, seed: tf.Tensor) -> tf.Tensor:
        """`num_samples` labels drawn from the model, shape `(num_samples, ..., C)`."""
        return tf.cast(self.distribution(eta).sample(num_samples, seed=seed), eta.dtype)

    def draw(self, eta: tf.Tensor, num_samples: int, seed: tf.Tensor) -> tf.Tensor:
        """`sample`, where eta is NaN as if it were 0: for NaN some samplers search for ever, others raise.

        The score at that eta is NaN all the same.
        """
        return self.sample(tf.where(tf.math.is_nan(eta), tf.zeros_like(eta), eta), num_samples, seed)

    def score(self, eta: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """d/d eta log p(y | eta), in the shape of `y`."""
        raise NotImplementedError

    def is_known(self, eta: tf.Tensor) -> bool:
        """True if its Fisher is known, so that there is a `fisher_root`."""
        return True

    def fisher_root(self, eta: tf.Tensor) -> tf.Tensor:
        """S of shape `(..., C, R)` with S Sᵀ = E_p(y|eta)[score scoreᵀ]."""
        raise NotImplementedError

    def fisher_product(self, eta: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        """S Sᵀ u in the shape of eta."""
        root = self.fisher_root(eta)
        return tf.linalg.matvec(root, tf.linalg.matvec(root, u, transpose_a=True))

    def whiten(self, eta: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
        """c of shape `(..., R)` with S c = `score`: the score in the coordinates of the root."""
        raise NotImplementedError

    def least(self, y: tf.Tensor) -> tf.Tensor:
        """The least that Keras' loss can be for each of these `labels`, where it can be negative."""
        raise NotImplementedError

    def dispersion(self, eta: tf.Tensor) -> float:
        """phi, the unit of -log p: the variance of a Normal, else 1."""
        return 1.0

    def copies(self, eta: tf.Tensor) -> int:
        """Number of likelihood terms the loss of one position averages (C where Keras' loss does)."""
        return 1

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Likelihood:
        return cls(**config)


class Independent(Likelihood):
    """One scalar family for each element of eta: the root of the Fisher is diagonal."""

    def aligned(self, outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        # For labels (N, T) Keras squeezes outputs (N, T, 1), and then averages over T.
        rank = outputs.shape.rank
        squeezed = rank > 2 and outputs.shape[-1] == 1 and y.shape.rank == rank - 1
        return outputs[..., 0] if squeezed else outputs

    def deviation(self, eta: tf.Tensor) -> tf.Tensor:
        """The diagonal of S: the standard deviation of the score."""
        raise NotImplementedError

    def fisher_root(self, eta: tf.Tensor) -> tf.Tensor:
        return tf.linalg.diag(self.deviation(eta))

    def fisher_product(self, eta: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        return tf.square(self.deviation(eta)) * u

    def whiten(self, eta: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
        return score / self.deviation(eta)


def logits_behind(outputs: tf.Tensor, operation: str) -> tf.Tensor | None:
    """The logits behind outputs that a sigmoid or softmax has just made, where Keras' loss goes back to them.

    There the loss is not clipped, so p at 0 or 1 still has a gradient, and so must log p(y | f) here.
    """
    # `_keras_logits` is private, but it is how an activation tells a loss, and a test notices if it moves.
    logits = getattr(outputs, "_keras_logits", None)
    if logits is None and not tf.executing_eagerly() and outputs.op.type == operation:
        logits = outputs.op.inputs[0]
    return logits


# Operations that leave values as they are; those of a layer without an activation; what holds its weights.
_SAME = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose")
_LINEAR = ("BiasAdd", "AddV2", "Add", "MatMul", "BatchMatMulV2", "Conv1D", "Conv2D", "Einsum")
_WEIGHTS = ("ReadVariableOp", "Placeholder")


def warn_of_logits(outputs: tf.Tensor, loss: str, activation: str) -> None:
    """Warns where outputs of a model are taken for probabilities, and are none.

    Keras clips them, so that neither its loss nor F knows of what is outside of [0, 1]: the model trains,
    more or less, and is not what was meant. A graph has no values yet: there it shows in what has made them.

    Args:
        outputs: f.
        loss, activation: What the message calls the loss, and what makes outputs fit for it.
    """
    if tf.executing_eagerly():
        wrong = bool(tf.reduce_any((outputs < -0.01) | (outputs > 1.01)))  # further than rounding
    else:
        made = _behind(outputs)
        wrong = made.type in _LINEAR and any(_behind(t).type in _WEIGHTS for t in made.inputs)
    if wrong:
        warnings.warn(
            f"The outputs of the model are no probabilities, as which its {loss} takes them: it clips them "
            f"to [0, 1], and has no gradient beyond. Give the last layer the activation {activation!r}, or "
            "the loss `from_logits=True`.",
            stacklevel=2,
        )


def _behind(t: tf.Tensor) -> Any:
    """The operation that has made the values of a tensor."""
    made = t.op
    while made.type in _SAME:
        made = made.inputs[0].op
    return made


def clip(p: tf.Tensor) -> tf.Tensor:
    """Probabilities kept off 0 and 1 by Keras' epsilon, as its losses do."""
    epsilon = keras.config.epsilon()
    return tf.clip_by_value(p, epsilon, 1 - epsilon)
