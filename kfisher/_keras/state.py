"""The state of a model as tensors, for passes in which nothing moves."""

from __future__ import annotations

import keras
import tensorflow as tf


def state_of(model: keras.Model) -> list[tuple[keras.Variable, tf.Tensor]]:
    """Seeds, statistics, and the variables that have a regulariser, with their values as they are now.

    What is repeated later, after the training pass has moved seeds and statistics on, finds them here; and
    `model.losses` finds the variables that have a regulariser.
    """
    regularised = [v for v in model.trainable_variables if v.regularizer is not None]
    # As tensors: Keras would keep the `tf.Variable`, which moves.
    return [(v, tf.convert_to_tensor(v.value)) for v in model.non_trainable_variables + regularised]
