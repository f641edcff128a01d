"""What kfisher stands on, and a sentence on what to do where it is missing."""

from __future__ import annotations

from types import ModuleType

import keras
import tensorflow as tf


def check_backend() -> None:
    """Raises unless Keras runs on TensorFlow: batches are recorded by its tapes.

    Raises:
        ImportError: With another backend.
    """
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise ImportError(
            "kfisher works with the TensorFlow backend of Keras only. Set the environment variable "
            "KERAS_BACKEND=tensorflow (or `backend` in ~/.keras/keras.json) before Keras is imported. "
            f"Received: keras.config.backend()={backend!r}"
        )


def distributions() -> ModuleType:
    """The distributions of TensorFlow Probability, loaded when they are first asked for: that takes seconds.

    Raises:
        ImportError: If they, or the tf-keras that they need, are missing or do not fit TensorFlow.
    """
    try:
        import tensorflow_probability

        # It loads its parts when they are first used; now, so that what is missing is said here.
        tensorflow_probability.distributions.Distribution
    except (ImportError, AttributeError) as error:  # an attribute where versions do not fit
        minor = ".".join(tf.__version__.split(".")[:2])
        raise ImportError(
            "kfisher draws labels with TensorFlow Probability, which needs tf-keras of the same version as "
            "TensorFlow (and leaves your models to Keras 3). Install both: "
            f"pip install 'tensorflow-probability>=0.25' 'tf-keras=={minor}.*'. Received: TensorFlow "
            f"{tf.__version__}, {type(error).__name__}: {error}"
        ) from error
    return tensorflow_probability.distributions
