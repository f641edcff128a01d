"""The squared error whose likelihood is a Normal of variance 1."""

from __future__ import annotations

import keras

import kfisher


class HalfSquaredError(keras.losses.Loss):
    """1/2 (f - y)², the paper's loss: that of a Normal of unit variance, without its constant.

    Keras' squared error with a loss weight of 1/2 has the same F, but is the loss of *two* observations of
    variance 1/2 that share a half of the weight each, so its EF is twice that of the paper.
    """

    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_pred - y_true), -1) / 2

    def likelihood(self) -> kfisher.likelihoods.Likelihood:
        return kfisher.likelihoods.Normal(scale=1.0)
