"""Images of digits, and a small convnet for them."""

from __future__ import annotations

import keras
import numpy as np

from kfisher import datasets


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x and y to train on, x and y held out: the last 297 images, which other people wrote."""
    x, y = datasets.digits()
    x = (x / 16).astype("float32")
    return x[:1500], y[:1500], x[1500:], y[1500:]


def convnet() -> list[keras.layers.Layer]:
    """The layers, the input among them, new at each call."""
    return [
        keras.Input((64,)),
        keras.layers.Reshape((8, 8, 1)),
        keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ]
