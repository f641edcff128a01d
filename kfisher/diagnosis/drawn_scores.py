"""Scores of labels that the model draws on the measured examples, as many as one likes."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from kfisher.likelihoods import Likelihood


class DrawnScores:
    """Scores of drawn labels in the coordinates of the rows of F.

    A score is s(y) = V a with the root V of the Fisher of p(y | f), so that its row is aᵀ (Vᵀ J): the rows of
    F times a. The outputs suffice for it, as they were when the examples were measured; nothing is pulled
    back through the model again.

    Args:
        likelihoods: Of each term of the loss.
        etas: Their coordinates, `(N, ..., C)`.
        seed: Integer tensor of shape `(2,)`.
    """

    def __init__(self, likelihoods: list[Likelihood], etas: list[tf.Tensor], seed: tf.Tensor):
        self._terms, self._seed = list(zip(likelihoods, etas)), seed

    def __call__(self, count: int, first: int) -> np.ndarray:
        """The vectors a of the draws `first`, `first` + 1, ..., in the order of the rows, `(count, R, N)`."""
        found = []
        for position, (likelihood, eta) in enumerate(self._terms):
            seed = tf.random.experimental.stateless_fold_in(self._seed, position + 1)
            seed = tf.random.experimental.stateless_fold_in(seed, first)
            many = tf.repeat(eta[tf.newaxis], count, 0)
            many = tf.reshape(many, [-1, *eta.shape[1:]])
            scores = likelihood.score(many, likelihood.sample(many, 1, seed)[0])
            a = _in_root(likelihood, many, scores).numpy()
            found.append(a.reshape(count, len(eta), -1).swapaxes(1, 2))
        return np.concatenate(found, 1).astype(np.float64)


def _in_root(likelihood: Likelihood, eta: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
    white = likelihood.whiten(eta, score)
    if white is None:  # a family of which only the root is known
        return tf.linalg.matvec(tf.linalg.pinv(likelihood.fisher_root(eta)), score)
    return white
