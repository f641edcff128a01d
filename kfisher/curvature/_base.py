"""Curvature: it is shown batches, and solves with the Fisher that it has seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.vectors import Tensors, dot, path_of
from kfisher.jacobian.batch import Batch
from kfisher.jacobian.layers.blocks import Block
from kfisher.likelihoods.weighted import ROOT, Head, Weights, example_weights, weights_of

# Of averages over about twenty batches.
_RATE = 0.05


class Curvature:
    """A representation of F that can solve (F + damping I) x = gradient.

    Attributes:
        needs_blocks: Whether its state is made for the blocks of the model.
        averages_batches: Whether F is an average over batches; otherwise it is that of one, as drawn.
        accumulates: Whether it can average over several batches, as `gradient_accumulation_steps` asks.
        remembers: Whether a solution depends on the one before.
    """

    needs_blocks = False
    averages_batches = False
    accumulates = False
    remembers = False
    _weights: Any = None  # a variable, (4,)

    def build(
        self, add_variable: Callable, variables: list[keras.Variable], blocks: list[Block] | None, parts: int
    ) -> None:
        """Makes all state.

        Args:
            add_variable: That of the optimizer, so that the state is saved with it.
            variables: The trainable variables.
            blocks: Their blocks, if it `needs_blocks`.
            parts: In how many batches each step comes.
        """

    def claim(self) -> None:
        """Raises if another optimizer already keeps its state here."""
        if getattr(self, "_claimed", False):
            raise ValueError(
                f"This {type(self).__name__} already holds the curvature of another optimizer. Make one for "
                "each."
            )
        self._claimed = True

    def observe(self, batch: Batch, step: tf.Tensor, damping: tf.Tensor, part: tf.Tensor) -> None:
        """Takes in a batch, before the gradient is known.

        A curvature of one batch has it run its pass now, in the state that the model is in.

        Args:
            batch: The batch of this step.
            step: Integer scalar, how many steps were taken before.
            damping: Scalar, λ > 0.
            part: Integer scalar, the number of this batch among those of the step, from 0.
        """
        raise NotImplementedError

    def solve(self, batch: Batch, gradient: Tensors, damping: tf.Tensor) -> Tensors:
        """x with (F + diag(ridge) + damping I) x = gradient.

        Args:
            batch: The last batch that was observed.
            gradient: Gradient of the loss, tensors in the shapes of the trainable variables.
            damping: Scalar, λ > 0, in the units of F (loss / parameter²).

        Returns:
            Tensors in the shapes and dtypes of the gradient; NaN where F or the gradient is not finite.
        """
        raise NotImplementedError

    def ready(self) -> tf.Tensor | bool:
        """True if there is something to solve with; until then steps are skipped."""
        return True

    def squared_length(
        self, batch: Batch, gradient: Tensors, solution: Tensors, damping: tf.Tensor
    ) -> tf.Tensor:
        """xᵀ (F + damping I) x of a solution, in float64: by default gradient . x, which is the same."""
        return dot(gradient, solution)

    def remember(self, solution: Tensors) -> None:
        """Called with what `solve` returned, if the step is taken."""

    @property
    def remembered(self) -> list[keras.Variable]:
        """Variables that `remember` changes, and a step that is taken back puts back."""
        return []

    @property
    def examples(self) -> tf.Tensor:
        """From how many examples of equal weight F is known, (Σ w)² / Σ w²; 0 if that is not known."""
        return tf.zeros(())

    @property
    def weights(self) -> Weights:
        """What the values of the loss on a batch weigh together, on average."""
        known = self._weights is not None
        return Weights(*tf.unstack(self._weights.value if known else tf.constant([1.0, 0.0, 1.0, 0.0])))

    @property
    def weight(self) -> tf.Tensor | float:
        """W, that of all values: 1 where the loss is a mean."""
        return self.weights.values

    @property
    def usual_size(self) -> tf.Tensor:
        """How large a loss of absolute errors is where these are as most are, W times their median, float64;
        infinite beside other losses, and where no error is known."""
        weights = self.weights
        values, roots = tf.cast(weights.values, tf.float64), tf.cast(weights.roots, tf.float64)
        size = values * tf.math.divide_no_nan(roots, values) ** ROOT
        unknown = (weights.others > 0) | (roots <= 0)
        return tf.where(unknown, tf.constant(float("inf"), tf.float64), size)

    def moved(self, share: tf.Tensor) -> None:
        """Called when a step was taken.

        Args:
            share: Scalar, its length as a share of what the trust region allows; infinite after a step
                that was taken back: what is known of F is then no longer to be trusted.
        """

    def trouble(self) -> str | None:
        """A sentence for a warning: what went wrong since the last call, and was mended."""
        return None

    def describe(self, block: Block | None, blocks: list[Block]) -> str:
        """Description of what a block gets, for `kfisher.coverage`; of any block, if `None`."""
        return "exact for the batch"

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Curvature:
        return cls(**config)


class OfOneBatch(Curvature):
    """Curvature of each batch alone."""

    def build(self, add_variable: Any, variables: Any, blocks: Any, parts: Any) -> None:
        self.claim()
        self._weights = add_variable((4,), "zeros", dtype="float32", name="weights_of_batch")
        self._examples = add_variable((), "zeros", dtype="float32", name="examples")

    @property
    def examples(self) -> Any:
        return self._examples.value

    def ready(self) -> Any:
        return self.weight > 0  # the damping is in its units

    def weigh(self, heads: list[Head]) -> None:
        """Notes what the values of the loss weigh, and how many examples, if the weights are finite.

        Roots of errors are averaged, as the loss is that steps go by: its errors fall in the meantime.
        """
        shares, total = (tf.cast(t, tf.float64) for t in example_weights(heads))
        squares = tf.reduce_sum(tf.square(shares)) * total**2
        weights, total, squares = replicas.total([weights_of(heads), total, squares])
        now, before = Weights(*tf.unstack(weights)), self.weights
        usable = tf.reduce_all(tf.math.is_finite(weights)) & (now.values > 0)
        root, own = (tf.math.divide_no_nan(w.roots, w.values) for w in (before, now))
        root = tf.where(before.values > 0, root + _RATE * (own - root), own)
        now = now._replace(roots=root * now.values)
        self._weights.assign(tf.where(usable, tf.stack(now), tf.stack(before)))
        examples = tf.cast(tf.math.divide_no_nan(total**2, squares), tf.float32)
        self._examples.assign(tf.where(usable, examples, self._examples.value))


class OfRows(OfOneBatch):
    """Curvature of a batch by the rows of its A."""

    def observe(self, batch: Any, step: Any, damping: Any, part: Any) -> None:
        self.weigh(batch.square_root.loss.heads)
        batch.whole_square_root  # noqa: B018  its pass runs now

    def squared_length(self, batch: Any, gradient: Any, solution: Any, damping: Any) -> Any:
        own = batch.whole_square_root.squared_length(solution)
        return own + tf.cast(damping, tf.float64) * dot(solution, solution)


def last_solution(add_variable: Callable, variables: list[keras.Variable]) -> list[keras.Variable]:
    """Variables of zeros to keep a solution in."""
    return [
        add_variable(v.shape, "zeros", dtype=v.dtype, name=f"{path_of(v)}_last_solution") for v in variables
    ]
