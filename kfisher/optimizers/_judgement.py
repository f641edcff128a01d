"""What a batch says of the steps before it."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from kfisher.optimizers._past import Past


class Judgement(NamedTuple):
    """Judgement of a batch, before its step: boolean scalars, and the loss with what it is compared to.

    Attributes:
        outlier: Whether the batch itself is out of all proportion: it is left out.
        behind: Whether it is one that was none when this problem began: a step is taken for it alone.
        rejected: Whether the last step raised the loss of this batch out of all proportion: it is taken back.
        loss: Of this step's batches with the weights as they are, float64.
        before: Of the last of them with the weights before the last step; NaN where nobody asked.
        fell: Whether the loss is below that of the step before.
        higher: Whether its loss is far above the average, also with the weights before the last step.
        anew: Whether it is the first of a new problem, if its step is taken.
        past: What it was judged by.
    """

    outlier: tf.Tensor
    behind: tf.Tensor
    rejected: tf.Tensor
    loss: tf.Tensor
    before: tf.Tensor
    fell: tf.Tensor
    higher: tf.Tensor
    anew: tf.Tensor
    past: Past

    @property
    def harmless(self) -> tf.Tensor:
        """None of the three."""
        return ~(self.outlier | self.behind | self.rejected)
