"""Scores of labels that the model draws on the measured examples, as many as one likes."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from kfisher.likelihoods import Likelihood


class DrawnScores:
    """Scores of drawn labels in the coordinates of the rows of F.

    A score is s(y) = V a with the root V of the Fisher of p(y | f), so that its row is aᵀ (Vᵀ J): the rows of
    F times a. The outputs suffice for it, as they were when the examples were measured; nothing is pulled
    back through the model.

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
            labels = likelihood.draw(_repeated(eta, count), 1, seed)[0]
            labels = tf.reshape(labels, [count, len(eta), *labels.shape[1:]])
            found.append(in_rows(likelihood, eta, labels).numpy())
        return np.concatenate(found, 1).astype(np.float64)


def in_rows(likelihood: Likelihood, eta: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The vectors a of labels `(count, *eta.shape)`, in the order of the rows of F, `(count, R, N)`."""
    count, many = labels.shape[0], _repeated(eta, labels.shape[0])
    flat = tf.reshape(labels, [-1, *labels.shape[2:]])
    a = _in_root(likelihood, many, likelihood.score(many, flat))
    return tf.linalg.matrix_transpose(tf.reshape(a, [count, eta.shape[0], -1]))


def _repeated(eta: tf.Tensor, count: int) -> tf.Tensor:
    return tf.reshape(tf.repeat(eta[tf.newaxis], count, 0), [-1, *eta.shape[1:]])


def _in_root(likelihood: Likelihood, eta: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
    white = likelihood.whiten(eta, score)
    if white is None:  # a family of which only the root is known
        # In double precision: what is below the rounding of the largest entry is taken for nothing.
        root, score = tf.cast(likelihood.fisher_root(eta), tf.float64), tf.cast(score, tf.float64)
        return tf.cast(tf.linalg.matvec(tf.linalg.pinv(root), score), eta.dtype)
    return white
