"""The likelihood behind a Keras loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from kfisher._common.checks import shown
from kfisher._keras.private import options
from kfisher.likelihoods._base import Likelihood
from kfisher.likelihoods.bernoulli import Bernoulli
from kfisher.likelihoods.categorical import Categorical
from kfisher.likelihoods.laplace import Laplace
from kfisher.likelihoods.normal import Normal
from kfisher.likelihoods.poisson import Poisson


def _binary_crossentropy(from_logits: Any = False, label_smoothing: Any = 0.0, axis: Any = -1) -> Any:
    if axis != -1:
        raise ValueError(f"Binary cross-entropy is supported along the last axis only. Received: axis={axis}")
    return Bernoulli(from_logits, label_smoothing)


def _categorical_crossentropy(from_logits: Any = False, label_smoothing: Any = 0.0, axis: Any = -1) -> Any:
    if label_smoothing and axis != -1:  # Keras then divides by the size of the last axis
        raise ValueError(
            "Label smoothing is supported for classes along the last axis only. Received: "
            f"label_smoothing={label_smoothing}, axis={axis}"
        )
    return Categorical(from_logits, False, label_smoothing, axis)


def _sparse_categorical_crossentropy(
    from_logits: Any = False, ignore_class: Any = None, axis: Any = -1
) -> Any:
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
    <kfisher.likelihoods.normal.Normal object at ...>
    """
    resolved = _resolved(loss)
    if hasattr(resolved, "likelihood"):
        return resolved.likelihood()
    function = getattr(resolved, "fn", resolved)
    name = getattr(function, "__name__", "")
    known = name in _FROM_KERAS and function is getattr(keras.losses, name)
    if isinstance(resolved, keras.losses.Loss):  # a subclass with a `call` of its own is another loss
        known = known and type(resolved).call is keras.losses.MeanSquaredError.call
    if not known:
        raise ValueError(
            f"The loss {name or shown(loss)} is not the negative logarithm of a likelihood known to kfisher, "
            f"so it has no Fisher matrix. Supported are {', '.join(sorted(_FROM_KERAS))} and "
            "kfisher.losses.NegativeLogLikelihood, which makes any tfp.distributions.Distribution a loss; "
            "or pass `likelihood=` to say which to use, as NaturalGradient(likelihood="
            "kfisher.likelihoods.Normal()) does for a loss of numbers, Categorical() or Bernoulli() for one "
            f"of probabilities. Received: loss={shown(loss)}"
        )
    return _FROM_KERAS[name](**options(resolved))


def _resolved(loss: Any) -> Any:
    """The function or instance behind a name, config or class."""
    try:
        found = keras.losses.get(loss) if isinstance(loss, (str, dict)) else loss
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`loss` must be the name or config of a loss that Keras knows. Received: loss={shown(loss)}"
        ) from error
    return found() if isinstance(found, type) and issubclass(found, keras.losses.Loss) else found
