"""What a problem is, and the models and losses that problems share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

import kfisher
from kfisher_scripts.common.half_squared_error import HalfSquaredError


class Data(NamedTuple):
    """Arrays in the dtype of the model, or structures of them where it has several inputs or outputs.

    Attributes:
        x, y: To train on.
        x_test, y_test: Held out; empty if there are none.
        x_validation, y_validation: By which settings are chosen, and the epoch whose weights are kept; `None`
            where the settings are known and the last weights count.
    """

    x: Any
    y: Any
    x_test: Any
    y_test: Any
    x_validation: Any = None
    y_validation: Any = None


class Setting(NamedTuple):
    """Hyper-parameters of one optimizer on one problem; damping in the units of the Fisher matrix."""

    learning_rate: float
    damping: float | str | None = None
    momentum: float = 0.0
    trust_region: float | str | None = None


# `NaturalGradient()` and its kin, which are not tuned.
UNTUNED = Setting(0.3, "auto", trust_region="auto")


@dataclass(frozen=True)
class Problem:
    """One learning problem.

    Attributes:
        summary: One line for the help.
        data: Makes the arrays.
        model: Makes the untrained kfisher model.
        loss: Makes the Keras loss.
        correct: For each example whether the outputs give its label, or `None` for regressions.
        target: The loss to which steps and seconds are counted; the slower ones just reach it, if they can.
        settings: For each optimizer.
        batch_size: `None` for the full batch.
        curvature: Of the natural-gradient optimizers.
        noise: Standard deviation of the noise of a regression, to which the loss takes its target to be
            scaled, in units of a table; else `None`.
        error: For a problem whose solution is known, how far the model is from it; else `None`.
    """

    summary: str
    data: Callable[[], Data]
    model: Callable[[], keras.Model]
    loss: Callable[[], keras.losses.Loss]
    correct: Callable | None
    epochs: int
    target: float
    settings: dict[str, Setting]
    batch_size: int | None = None
    curvature: str = "dense"
    noise: float | None = None
    error: Callable[[keras.Model], float] | None = None

    @property
    def probe_damping(self) -> float | None:
        """Of the steps whose cosine is taken; `None` where the empirical Fisher has no setting."""
        setting = self.settings.get("empirical_fisher")
        return None if setting is None or isinstance(setting.damping, str) else setting.damping


def network(*widths: int) -> Callable[[], keras.Model]:
    """Dense layers of these widths, from inputs to outputs, with tanh between; float64.

    Without hidden layers it starts at zero, as in the paper.
    """

    def model() -> keras.Model:
        features, *hidden, outputs = widths
        layers = [keras.layers.Dense(n, activation="tanh", dtype="float64") for n in hidden]
        start = "glorot_uniform" if hidden else "zeros"
        last = keras.layers.Dense(outputs, kernel_initializer=start, dtype="float64")
        return kfisher.Sequential([keras.Input((features,), dtype="float64"), *layers, last])

    return model


def half_squared_error() -> keras.losses.Loss:
    return HalfSquaredError(dtype="float64")


def logistic() -> keras.losses.Loss:
    return keras.losses.BinaryCrossentropy(from_logits=True, dtype="float64")


def softmax() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")


def sign(outputs, labels):
    return keras.ops.equal(outputs > 0, labels > 0.5)


def largest(outputs, labels):
    return keras.ops.equal(keras.ops.argmax(outputs, -1), keras.ops.cast(labels, "int64"))
