"""The diagonal of the Fisher."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kfisher._common.checks import boolean
from kfisher.curvature._running import Running


@keras.saving.register_keras_serializable("kfisher")
class Diagonal(Running):
    """diag(F), a running average: the cheapest curvature.

        x = gradient / (diag(F) + damping),    diag(F) = Σ_rn w_n U_rn²

    Squares are those of single examples, so that with labels from the model it is the diagonal of the
    Fisher matrix; with labels of the data and batches of one example it is what RMSprop and Adam average.

    Args:
        decay: Float in [0, 1), of the running average. Defaults to `0.95`.
        update_every: Positive integer, steps between two updates (each runs the model once more); at first
            they come at steps 0, 1, 2, 4, 8, ... Defaults to `1`.
        corrected: Bool, whether the average is without bias towards its start at zero, or as in `SophiaG`.
            Defaults to `True`.
        max_examples: As in `KFAC`. Defaults to `128`.

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(curvature=kfisher.curvature.Diagonal(decay=0.9))
    """

    def __init__(
        self,
        decay: float = 0.95,
        update_every: int = 1,
        corrected: bool = True,
        max_examples: int | None = 128,
    ):
        super().__init__(decay, update_every, max_examples)
        self.corrected = boolean("corrected", corrected)

    def statistics(self, block: Any) -> dict[str, tuple[int, ...]]:
        return {"diagonal": (block.groups, block.inputs, block.outputs)}

    def measure(self, block: Any, products: Any, weights: Any, cache: dict) -> Any:
        return [products.squares()]

    def entries(self, position: int) -> tf.Tensor:
        """The diagonal at one trainable variable, in its shape; zero where the model does not use it."""
        for block, (average,) in zip(self.blocks, self.averages):
            if position in block.variables:
                shapes = [self._shapes[i] for i in block.variables]
                parts = block.from_matrix(tf.convert_to_tensor(average.value), shapes)
                return parts[block.variables.index(position)]
        return tf.zeros(self._shapes[position])

    def solve_block(self, number: int, gradient: Any, damping: Any, xla: bool) -> Any:
        return gradient / (self.averages[number][0].value + self.damping_of(number, damping))

    def describe(self, block: Any, blocks: Any) -> str:
        return f"diagonal {block.groups * block.inputs * block.outputs}"

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "corrected": self.corrected}
