"""The likelihood p(y | f) behind a Keras loss: labels from the model, scores, and the Fisher in f.

Every likelihood here is written in coordinates eta(f) in which its Fisher information is simple
(for an exponential family, the natural parameter). `coordinates` maps the model outputs f to eta
inside the recorded forward pass, so whatever it does (a log, a logit) is pulled back by autodiff,
and `from_logits=True` and `from_logits=False` share every line that follows.

With phi the dispersion and T(y) = y, an exponential family has

    score   d/d eta log p(y | eta) = (y - E[y]) / phi
    Fisher  S S^T                  = Var[y] / phi^2

Source: Kunstner, Balles, Hennig 2019, section 3; Martens 2020, section 9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from kfisher.checks import checked

tfd = tfp.distributions
register = keras.saving.register_keras_serializable("kfisher")


class Likelihood:
    """p(y | f) of one output of a model; positions are all axes of f but the last.

    Shapes below: f and eta are `(..., C)`; a label y has the shape of eta unless said otherwise.
    Subclasses say what eta, the distribution, the score and the root of the Fisher are.
    """

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

    def sample(self, eta: tf.Tensor, num_samples: int, seed: tf.Tensor) -> tf.Tensor:
        """`num_samples` labels drawn from the model, shape `(num_samples, ..., C)`."""
        return tf.cast(self.distribution(eta).sample(num_samples, seed=seed), eta.dtype)

    def score(self, eta: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """d/d eta log p(y | eta), in the shape of `y`."""
        raise NotImplementedError

    def fisher_root(self, eta: tf.Tensor) -> tf.Tensor:
        """S of shape `(..., C, R)` with S S^T = E_p(y|eta)[score score^T]."""
        raise NotImplementedError

    def whiten(self, eta: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
        """c of shape `(..., R)` with S c = `score`: the score in the coordinates of the root."""
        raise NotImplementedError

    def copies(self, eta: tf.Tensor) -> int:
        """How many likelihood terms the loss of one position averages (C where Keras' loss does)."""
        return 1

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Likelihood:
        return cls(**config)


class _Independent(Likelihood):
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

    def whiten(self, eta: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
        return score / self.deviation(eta)


def _positive(name: str, value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
    return value


@register
class Normal(_Independent):
    """y ~ Normal(f, scale^2): the likelihood of squared error.

    score = (y - f) / scale^2,  Fisher = 1 / scale^2.

    Args:
        scale: Float, the standard deviation, in the units of y. The default `None` means
            sqrt(C / 2) with C the size of the last axis: then -log p is Keras' mean squared error
            (1/C) sum_c (y_c - f_c)^2 up to a constant.

    Example:

    >>> kfisher.likelihoods.Normal(scale=2.0).score(tf.zeros((1, 1)), tf.ones((1, 1)))
    <tf.Tensor: shape=(1, 1), dtype=float32, numpy=array([[0.25]], dtype=float32)>
    """

    def __init__(self, scale: float | None = None):
        self.scale = _positive("scale", scale)

    def _scale(self, eta: tf.Tensor) -> float:
        return (eta.shape[-1] / 2) ** 0.5 if self.scale is None else self.scale

    def distribution(self, eta: tf.Tensor) -> Any:
        return tfd.Normal(eta, tf.constant(self._scale(eta), eta.dtype))

    def score(self, eta: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return (y - eta) / self._scale(eta) ** 2

    def deviation(self, eta: tf.Tensor) -> tf.Tensor:
        return tf.fill(tf.shape(eta), tf.constant(1 / self._scale(eta), eta.dtype))

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.scale}


@register
class Laplace(_Independent):
    """y ~ Laplace(f, scale): the likelihood of absolute error.

    score = sign(y - f) / scale,  Fisher = 1 / scale^2.

    The Gauss-Newton matrix of the absolute error is zero almost everywhere; the Fisher is not.

    Args:
        scale: Float, in the units of y. The default `None` means C, the size of the last axis: then
            -log p is Keras' mean absolute error up to a constant.
    """

    def __init__(self, scale: float | None = None):
        self.scale = _positive("scale", scale)

    def _scale(self, eta: tf.Tensor) -> float:
        return float(eta.shape[-1]) if self.scale is None else self.scale

    def distribution(self, eta: tf.Tensor) -> Any:
        return tfd.Laplace(eta, tf.constant(self._scale(eta), eta.dtype))

    def score(self, eta: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return tf.sign(y - eta) / self._scale(eta)

    def deviation(self, eta: tf.Tensor) -> tf.Tensor:
        return tf.fill(tf.shape(eta), tf.constant(1 / self._scale(eta), eta.dtype))

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.scale}


@register
class Bernoulli(_Independent):
    """y ~ Bernoulli(p), eta = logit p: the likelihood of binary cross-entropy.

    score = y - p,  Fisher = p (1 - p).

    Args:
        from_logits: Boolean; whether f is eta (`True`) or p (`False`, Keras' default).
        label_smoothing: Float in [0, 1]; labels of the data become y (1 - s) + s / 2, as in Keras.
            Labels drawn from the model are never smoothed.
    """

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0):
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing

    def coordinates(self, outputs: tf.Tensor) -> tf.Tensor:
        logits = _logits(outputs, "Sigmoid")
        if self.from_logits or logits is not None:
            return outputs if logits is None else logits
        p = _clip(outputs)
        return tf.math.log(p) - tf.math.log1p(-p)

    def distribution(self, eta: tf.Tensor) -> Any:
        return tfd.Bernoulli(logits=eta)

    def labels(self, y: tf.Tensor, eta: tf.Tensor) -> tf.Tensor:
        y = super().labels(y, eta)
        valid = tf.math.is_nan(y) | ((y >= 0) & (y <= 1))
        y = checked(y, valid, "Labels of binary cross-entropy must be in [0, 1].")
        return y * (1 - self.label_smoothing) + self.label_smoothing / 2

    def score(self, eta: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return y - tf.sigmoid(eta)

    def deviation(self, eta: tf.Tensor) -> tf.Tensor:
        # sqrt(p (1 - p)) without the cancellation of 1 - p; the floor keeps `whiten` finite.
        log_variance = -tf.math.softplus(eta) - tf.math.softplus(-eta)
        return tf.exp(tf.maximum(log_variance / 2, -40.0))

    def copies(self, eta: tf.Tensor) -> int:
        return eta.shape[-1]

    def get_config(self) -> dict[str, Any]:
        return {"from_logits": self.from_logits, "label_smoothing": self.label_smoothing}


@register
class Categorical(Likelihood):
    """y ~ Categorical(softmax(eta)): the likelihood of (sparse) categorical cross-entropy.

    score = onehot(y) - p,  S S^T = diag(p) - p p^T.

    With q = sqrt(p), diag(p) - p p^T = diag(q) (I - q q^T) diag(q). The projection loses one dimension, so S
    has C - 1 columns: diag(q) times all but column m of the Householder reflection that takes q to the axis
    of the likeliest class m, I - u u^T / (1 + q_m) with u = q + e_m. Another m would cancel where p_m is
    near 1.

    Args:
        from_logits: Boolean; whether f is eta (`True`) or p (`False`, Keras' default; p is
            normalised, unless `sparse`, and clipped as Keras does).
        sparse: Boolean; labels of the data are class indices `(...)` instead of one-hot `(..., C)`.
        label_smoothing: Float in [0, 1]; labels of the data become y (1 - s) + s / C, as in Keras.
            Labels drawn from the model are never smoothed.
        axis: Integer, the axis of the classes in f.
        ignore_class: Integer or `None`; a label that marks positions without a loss.
    """

    def __init__(
        self,
        from_logits: bool = False,
        sparse: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        ignore_class: int | None = None,
    ):
        self.from_logits = from_logits
        self.sparse = sparse
        self.label_smoothing = label_smoothing
        self.axis = axis
        self.ignore_class = ignore_class

    def coordinates(self, outputs: tf.Tensor) -> tf.Tensor:
        if outputs.shape[self.axis] == 1:
            raise ValueError(
                "A categorical cross-entropy needs two classes or more; with one its Fisher is zero. Use "
                f"binary cross-entropy. Received: outputs of shape {tuple(outputs.shape)}"
            )
        logits = _logits(outputs, "Softmax")
        outputs = _axis_to_last(outputs if logits is None else logits, self.axis)
        if self.from_logits or logits is not None:
            return outputs
        # softmax(log p) = p / sum p, so the logarithm is a logit; the sparse loss relies on that.
        p = outputs if self.sparse else outputs / tf.reduce_sum(outputs, -1, keepdims=True)
        return tf.math.log(_clip(p))

    def distribution(self, eta: tf.Tensor) -> Any:
        return tfd.OneHotCategorical(logits=eta, dtype=eta.dtype)

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
        return checked(
            tf.one_hot(index, eta.shape[-1], dtype=eta.dtype),
            valid[..., tf.newaxis],
            "Labels of sparse categorical cross-entropy must be class indices, whole numbers from 0 to "
            f"{eta.shape[-1] - 1}.",
        )

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


@register
class Poisson(_Independent):
    """y ~ Poisson(f), eta = log f: the likelihood of Keras' Poisson loss f - y log f.

    score = y - f,  Fisher = f  (with respect to log f).

    The Gauss-Newton matrix of that loss with respect to f itself is y / f^2, which equals the Fisher
    1 / f only in expectation; with f = exp(eta) both are f in eta.
    """

    def coordinates(self, outputs: tf.Tensor) -> tf.Tensor:
        return tf.math.log(outputs + keras.config.epsilon())

    def distribution(self, eta: tf.Tensor) -> Any:
        return tfd.Poisson(log_rate=eta)

    def labels(self, y: tf.Tensor, eta: tf.Tensor) -> tf.Tensor:
        y = super().labels(y, eta)
        valid = tf.math.is_nan(y) | (y >= 0)
        return checked(y, valid, "Labels of the Poisson loss must not be negative.")

    def score(self, eta: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return y - tf.exp(eta)

    def deviation(self, eta: tf.Tensor) -> tf.Tensor:
        return tf.exp(eta / 2)

    def copies(self, eta: tf.Tensor) -> int:
        return eta.shape[-1]


def _logits(outputs: tf.Tensor, operation: str) -> tf.Tensor | None:
    """The logits behind outputs that a sigmoid or softmax has just made, where Keras' loss goes back to them.

    There the loss is not clipped, so p at 0 or 1 still has a gradient, and so must log p(y | f) here.
    """
    # `_keras_logits` is private, but it is how an activation tells a loss, and a test notices if it moves.
    logits = getattr(outputs, "_keras_logits", None)
    if logits is None and not tf.executing_eagerly() and outputs.op.type == operation:
        logits = outputs.op.inputs[0]
    return logits


def _clip(p: tf.Tensor) -> tf.Tensor:
    """Probabilities kept off 0 and 1 by Keras' epsilon, as its losses do."""
    epsilon = keras.config.epsilon()
    return tf.clip_by_value(p, epsilon, 1 - epsilon)


def _others(x: tf.Tensor, top: tf.Tensor) -> tf.Tensor:
    """`(..., C)` without the entry `top` `(..., 1)`: the first takes its place and is left out."""
    return tf.where(tf.range(1, x.shape[-1]) == top, x[..., :1], x[..., 1:])


def _axis_to_last(x: tf.Tensor, axis: int) -> tf.Tensor:
    rank = x.shape.rank
    if axis in (-1, rank - 1):
        return x
    order = [i for i in range(rank) if i != axis % rank] + [axis % rank]
    return tf.transpose(x, order)


def _binary_crossentropy(from_logits=False, label_smoothing=0.0, axis=-1):
    if axis != -1:
        raise ValueError(
            f"Binary cross-entropy is supported along the last axis only. Received: axis={axis}"
        )
    return Bernoulli(from_logits, label_smoothing)


def _categorical_crossentropy(from_logits=False, label_smoothing=0.0, axis=-1):
    if label_smoothing and axis != -1:  # Keras then divides by the size of the last axis
        raise ValueError(
            "Label smoothing is supported for classes along the last axis only. Received: "
            f"label_smoothing={label_smoothing}, axis={axis}"
        )
    return Categorical(from_logits, False, label_smoothing, axis)


def _sparse_categorical_crossentropy(from_logits=False, ignore_class=None, axis=-1):
    return Categorical(from_logits, True, 0.0, axis, ignore_class)


_FROM_KERAS: dict[Any, Callable[..., Likelihood]] = {
    "mean_squared_error": Normal,
    "mean_absolute_error": Laplace,
    "binary_crossentropy": _binary_crossentropy,
    "categorical_crossentropy": _categorical_crossentropy,
    "sparse_categorical_crossentropy": _sparse_categorical_crossentropy,
    "poisson": Poisson,
}


def from_loss(loss: Any) -> Likelihood:
    """The likelihood of which a Keras loss is the negative logarithm, up to a constant.

    Args:
        loss: A string, class, function, config or instance of `keras.losses`: mean squared error, mean
            absolute error, binary, categorical or sparse categorical cross-entropy, Poisson; or a
            `kfisher.losses.NegativeLogLikelihood`.

    Returns:
        A `Likelihood`.

    Raises:
        ValueError: If the loss is no negative log-likelihood that is known here.

    Example:

    >>> kfisher.likelihoods.from_loss("mse")
    <kfisher.likelihoods.Normal ...>
    """
    resolved = keras.losses.get(loss) if isinstance(loss, (str, dict)) else loss
    resolved = resolved() if isinstance(resolved, type) else resolved
    if hasattr(resolved, "likelihood"):
        return resolved.likelihood()
    function = getattr(resolved, "fn", resolved)
    name = getattr(function, "__name__", "")
    known = name in _FROM_KERAS and function is getattr(keras.losses, name)
    if isinstance(resolved, keras.losses.Loss):  # a subclass with a `call` of its own is another loss
        known = known and type(resolved).call is keras.losses.MeanSquaredError.call
    if not known:
        raise ValueError(
            f"The loss {name or loss!r} is not the negative logarithm of a likelihood known to kfisher, so "
            f"it has no Fisher matrix. Supported are {', '.join(sorted(_FROM_KERAS))} and "
            "kfisher.losses.NegativeLogLikelihood, which makes any tfp.distributions.Distribution a loss; "
            f"or pass `likelihood=` to say which likelihood to use. Received: loss={loss!r}"
        )
    return _FROM_KERAS[name](**options(resolved))


def options(loss: Any) -> dict[str, Any]:
    """What a Keras loss hands to its function: `from_logits`, `axis`, ..."""
    # `_fn_kwargs` is private, but the only place where every option (`axis` of the sparse loss among
    # them) is kept; tests/likelihoods_test.py notices if it moves.
    return getattr(loss, "_fn_kwargs", {})
