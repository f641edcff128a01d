"""One observed batch: all that can be asked about the model on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import tensorflow as tf

from kfisher._common import places, replicas
from kfisher._common.checks import check_batch
from kfisher._common.kept import kept
from kfisher._common.models import has_loss
from kfisher._common.vectors import Packing, Tensors
from kfisher._keras.compiled_loss import counted
from kfisher._keras.state import raw_state_of, state_of
from kfisher.fisher import Expected, Fisher
from kfisher.jacobian.forward import forward
from kfisher.jacobian.linearization import Linearization, linearization
from kfisher.jacobian.plan import Plan, plan
from kfisher.jacobian.square_root import SquareRoot, square_root
from kfisher.likelihoods import Likelihood
from kfisher.likelihoods.weighted import above_least


@dataclass
class Batch:
    """A model and a batch as they are at the start of a training step.

    Attributes:
        model: Built and compiled, with trainable variables.
        x, y, sample_weight: As `train_step` gets them; `y` may be `None` unless `fisher` needs labels.
        fisher: Where the labels come from.
        seed: Integer tensor of shape `(2,)` for labels drawn from the model.
        likelihood: Used instead of the one of the compiled loss (of every output), or `None`.
        training: Whether layers run in training mode.
        compute_loss: Used instead of that of the model.
        counts: Boolean scalar, whether its examples count, or `None`: they do.
        counted: The terms of the loss of the step in which examples that do not count have no part, as far as
            they are known; `None` in a loop of one's own, which has no such examples.
        sizes: How many examples each replica has, `(R,)`, if that is known.
        factor: Scalar by which the loss on its examples is multiplied, or `None`.
        most: How many all have together, at most, if that is known.
        accepts: From a batch and the loss on it, whether averages over batches may take it in.
        state: That of the model (seeds, statistics), from which every pass starts; values of weights among
            it take the place of those of now.
        raw: The same of what layers keep in variables that Keras does not know.
    """

    model: keras.Model
    x: Any
    y: Any
    sample_weight: Any
    fisher: Fisher
    seed: tf.Tensor
    likelihood: Likelihood | None = None
    training: bool = True
    compute_loss: Callable | None = None
    counts: tf.Tensor | None = None
    counted: list[Any] | None = None
    sizes: tf.Tensor | None = None
    factor: tf.Tensor | None = None
    most: int | None = None
    accepts: Callable[[Batch, tf.Tensor], tf.Tensor | bool] = lambda batch, loss: True
    state: list[tuple[keras.Variable, tf.Tensor]] = field(default_factory=list)
    raw: list[tuple[tf.Variable, tf.Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.model.trainable_variables:
            raise ValueError(
                f"The model {self.model.name!r} has no trainable variables. If it is not built yet, call it "
                f"on a batch. Received: model={self.model!r}"
            )
        if self.compute_loss is None and not has_loss(self.model):
            raise ValueError(
                f"The model {self.model.name!r} is not compiled with a loss, so there is no p(y | f) and no "
                "Fisher matrix. Pass `loss=` to `compile`, the one that training minimises, also where a "
                "`train_step` of your own computes it in another way. Received: loss=None"
            )
        self.fisher.check_labels(self.y)
        self.x, self.y, self.sample_weight = check_batch(x=self.x, y=self.y, sample_weight=self.sample_weight)
        self.state = self.state or state_of(self.model)
        self.raw = self.raw or raw_state_of(self.model)

    def part(self, limit: int | None) -> Batch:
        """Every k-th example of the whole batch, so that no more than twice `limit` are left; with the same
        seeds.

        All of them where the loss is no mean over its batch: what a part of it is worth is not known.
        """
        # On replicas none may know the size when others do not.
        size = None if tf.is_tensor(self.size) or replicas.count() > 1 else self.size
        if limit is None or (size is not None and size < 2 * limit) or not _takes_means(self.model):
            return self
        before, size = self.placed
        sizes = self.sizes
        every = tf.maximum(size // limit, 1)
        # Counted through all replicas, so that it is every k-th of the whole batch.
        chosen = tf.range(-before % every, self.size, every)
        counts = self.counts
        if replicas.count() > 1:  # of which one may have none of them: it takes one that does not count
            some = tf.size(chosen) > 0
            counts = some if counts is None else counts & some
            chosen = tf.cond(some, lambda: chosen, lambda: tf.zeros([1], chosen.dtype))
        factor = self.factor
        if sizes is not None:
            marks = -(-tf.concat([[0], tf.cumsum(sizes)], 0) // every)
            sizes, whole = marks[1:] - marks[:-1], sizes
            # Replicas divide by the numbers of their examples, of which some may take a larger part.
            shares = tf.math.divide_no_nan(tf.cast(sizes, tf.float64), tf.cast(whole, tf.float64))
            all_of_them = tf.reduce_sum(sizes) / tf.reduce_sum(whole)
            factor = shares[replicas.index()] / all_of_them
        x, y, weights = keras.tree.map_structure(
            lambda t: t if t is None or t.shape.rank == 0 else tf.gather(t, chosen),
            (self.x, self.y, self.sample_weight),
        )
        of_part: dict[str, Any] = {"counts": counts, "sizes": sizes, "factor": factor, "most": 2 * limit - 1}
        return replace(self, x=x, y=y, sample_weight=weights, **of_part)

    @property
    def size(self) -> int | tf.Tensor:
        """N."""
        first = next(t for t in keras.tree.flatten(self.x) if t is not None)
        return tf.shape(first)[0] if first.shape[0] is None else first.shape[0]

    @property
    def placed(self) -> tuple[int | tf.Tensor, int | tf.Tensor]:
        """How many examples come before these on other replicas, and how many there are on all."""
        with places.knowing(self.sizes):
            return places.placed(self.size)

    @property
    def inlined(self) -> bool:
        """True if the pass is to be part of the graph around it: see `Plan`."""
        return tf.executing_eagerly() or self.plan.inlined

    @property
    def xla(self) -> bool:
        """True if the step is to be compiled by XLA."""
        return bool(self.model.jit_compile)

    @kept
    def plan(self) -> Plan:
        """The layers to tap."""
        return plan(self.model, self.x, self.training)

    @kept
    def square_root(self) -> SquareRoot:
        """A with F = Aᵀ A, by one recorded pass."""
        return square_root(self)

    @kept
    def whole_square_root(self) -> SquareRoot:
        """The same for the examples of all replicas."""
        return self.square_root.of_all()

    @kept
    def linearization(self) -> Linearization:
        """Products with F, by one pass."""
        return linearization(self)

    @kept
    def exact_linearization(self) -> Linearization:
        """Products with the expectation over labels, without the noise of a draw; they cost no more."""
        return linearization(replace(self, fisher=self.fisher.expectation))

    @kept
    def measure(self) -> Linearization:
        """Products with F by which a step is measured that comes from an estimate of it, or from EF."""
        if not self.fisher.needs_labels:
            return self.exact_linearization
        return linearization(replace(self, fisher=Expected()))

    def loss_above_least(self, weights: list[tf.Tensor] | None = None) -> tf.Tensor:
        """The loss on the batch with these weights, by default those of now, and all else as it was; less the
        least that it can be for these labels where that is not 0."""

        def above(**arguments: Any) -> tf.Tensor:
            loss, least = above_least(self._compute_loss, self.likelihood)(**arguments)
            return loss if least is None else tf.cast(loss, least.dtype) - least

        if weights is None:
            weights = [tf.convert_to_tensor(v.value) for v in self.model.trainable_variables]
        with forward(self, weights) as outputs:
            return self._weighed(above, x=self.x, y=self.y, y_pred=outputs, sample_weight=self.sample_weight)

    @kept
    def loss_with(self) -> Callable[[Packing, Tensors], tf.Tensor]:
        """`loss_above_least` as a function of weights in vectors, and of how they are packed there.

        It is traced once, however often a graph calls it.

        On several replicas it is traced for each call: there they may have to meet in it.
        """

        def loss_with(packing: Packing, vectors: Tensors) -> tf.Tensor:
            return self.loss_above_least(packing.unpack(vectors))

        if tf.executing_eagerly() or replicas.count() > 1:
            return loss_with
        return tf.function(loss_with, autograph=False)

    def loss_at(self, **arguments: Any) -> tf.Tensor:
        """`compute_loss` of the model, in which examples that do not count have no part."""
        return self._weighed(self._compute_loss, **arguments)

    @property
    def _compute_loss(self) -> Callable:
        return self.compute_loss or self.model.compute_loss

    def _weighed(self, compute_loss: Callable, **arguments: Any) -> tf.Tensor:
        if self.counts is None:
            loss = compute_loss(**arguments)
        else:
            with counted(self.counts) as terms:
                loss = compute_loss(**arguments)
            if not terms:  # a loss that nothing here knows the parts of
                loss *= tf.cast(self.counts, loss.dtype)
        return loss if self.factor is None else loss * tf.cast(self.factor, loss.dtype)


def _takes_means(model: keras.Model) -> bool:
    """True if the loss of `model` is a mean over examples, as it is unless somebody asks for another."""
    own = type(model).compute_loss is not keras.Model.compute_loss
    losses = [loss for loss in keras.tree.flatten(model.loss) if isinstance(loss, keras.losses.Loss)]
    return not own and not any(loss.reduction in ("sum", "none", None) for loss in losses)
