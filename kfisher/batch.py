"""One observed batch: all that can be asked about the model on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import keras
import tensorflow as tf

from kfisher import plan, taps
from kfisher.fisher import Empirical, Exact, Fisher
from kfisher.likelihoods import Likelihood
from kfisher.linearization import Linearization, linearization
from kfisher.square_root import SquareRoot, square_root


@dataclass
class Batch:
    """A model and a batch as they are at the start of a training step.

    Attributes:
        model: Built and compiled.
        x, y, sample_weight: As `train_step` gets them.
        fisher: Where the labels come from.
        seed: Integer tensor of shape `(2,)` for labels drawn from the model.
        likelihood: Used instead of the one of the compiled loss, or `None`.
        accepts: From the loss on this batch, whether averages over batches may take it in.
        scope: The state of the model (seeds, statistics) that every pass starts from.
    """

    model: keras.Model
    x: Any
    y: Any
    sample_weight: Any
    fisher: Fisher
    seed: tf.Tensor
    likelihood: Likelihood | None = None
    accepts: Callable[[tf.Tensor], tf.Tensor | bool] = lambda loss: True
    scope: keras.StatelessScope = field(init=False)

    def __post_init__(self):
        self.scope = taps.scope_of(self.model)

    def part(self, limit: int | None) -> Batch:
        """Every k-th example, so that no more than twice `limit` are left; the seeds are the same.

        All of them where the loss is no mean over its batch: what a part of it is worth is not known.
        """
        first = next(t for t in keras.tree.flatten(self.x) if t is not None)
        size = first.shape[0]
        if limit is None or (size is not None and size < 2 * limit) or not _takes_means(self.model):
            return self
        count = tf.shape(first)[0] if size is None else size
        chosen = tf.range(0, count, tf.maximum(count // limit, 1))
        x, y, weights = keras.tree.map_structure(
            lambda t: t if t is None or t.shape.rank == 0 else tf.gather(t, chosen),
            (self.x, self.y, self.sample_weight),
        )
        part = replace(self, x=x, y=y, sample_weight=weights)
        part.scope = self.scope
        return part

    @property
    def xla(self) -> bool:
        return bool(self.model.jit_compile)

    def square_root(self) -> SquareRoot:
        """A with F = A^T A, by one recorded pass."""
        return square_root(self.model, self.x, self.y, self.sample_weight, training=True, **self._options)

    def linearization(self) -> Linearization:
        """Products with F, by one pass."""
        return self._linearized(self.fisher)

    @cached_property
    def exact_linearization(self) -> Linearization:
        """The same without the noise of drawn labels: products with the exact F cost no more."""
        return self._linearized(self.fisher if isinstance(self.fisher, Empirical) else Exact())

    def loss(self, weights: list[tf.Tensor] | None = None) -> tf.Tensor:
        """The loss on the batch with these weights, by default those of now, and all else as it was."""
        variables = self.model.trainable_variables
        if weights is None:
            weights = [tf.convert_to_tensor(v.value) for v in variables]
        with keras.StatelessScope(zip(variables, weights), collect_losses=True) as scope:
            scope.state_mapping = {**self.scope.state_mapping, **scope.state_mapping}
            outputs = plan.call_model(self.model, self.x, True)
            return self.model.compute_loss(self.x, self.y, outputs, self.sample_weight)

    def _linearized(self, fisher: Fisher) -> Linearization:
        return linearization(
            self.model,
            self.x,
            self.y,
            self.sample_weight,
            training=True,
            scope=self.scope,
            **{**self._options, "fisher": fisher},
        )

    @property
    def _options(self) -> dict[str, Any]:
        return {"fisher": self.fisher, "seed": self.seed, "likelihood": self.likelihood}


def _takes_means(model: keras.Model) -> bool:
    """Whether the loss of `model` is a mean over examples, as it is unless somebody asks for another."""
    own = type(model).compute_loss is not keras.Model.compute_loss
    losses = [loss for loss in keras.tree.flatten(model.loss) if isinstance(loss, keras.losses.Loss)]
    return not own and not any(loss.reduction in ("sum", "none", None) for loss in losses)
