"""The guard of a step: how far it may go, and what becomes of one that went wrong."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.vectors import Packing, Tensors, path_of
from kfisher.curvature import Curvature
from kfisher.fisher import Expected, Fisher
from kfisher.jacobian.batch import Batch
from kfisher.optimizers._judgement import Judgement

# The KL divergence of one step, as a share of the loss.
SHARE = 0.003
# Over how many steps the loss is averaged.
_WINDOW = 20.0
# A loss that exceeds its average by so many times its size is no batch of this problem ...
_OUTLIER = 100.0
# ... unless so many come in a row, and twice as many as ever did by accident: then the problem has changed.
_PATIENCE = 10
# Over how many steps the best average loss is forgotten, where it does not come back.
_MEMORY = 1000.0
_HEAVY = 1e6  # A spoilt batch counts as one of no more than so many times its size.
# A step that is taken back shortens the next ones; they grow again by a twentieth each.
_LOSS_OF_CONFIDENCE, _RECOVERY = 0.25, 1.05


class Guard:
    """Bounds steps by their KL divergence, judges each on the batch after it, and takes back bad ones.

    With l the running average of the loss over 20 steps and d that of its distance from it, the size of the
    loss is s = max(|l|, d); Poisson's, often negative, counts from the least that its labels allow. Then

        c = 0.003 min(s, s²/B) r²   bounds δᵀ (F + damping I) δ / 2 where the region is "auto",
        l_t > l + s                  has the last step judged: the same batch with the weights before it,
        l_t - before > (s / 2 + 8 √(c s) + 4 c) max(1, |before| / s)     takes it back.

    and c = 0.003 s² / W where F is an average of EF.

    The judge has seen neither the examples nor the labels that made the step, and costs nothing where the
    loss does not jump: Keras has it already. Within c a quadratic loss changes by less than 2 √(c s) + c
    on the batch of the step, so that four times that, and half the loss besides, is out of proportion.
    B is the weight of outputs under absolute error (`Fisher.divergence`).

    Many steps, each too small to be judged, can still carry the loss away, where gradients are mostly noise
    or F misses rare examples. So c goes by the best average, l' of the size s', not by one that has risen:
    its s is at most s', and r = s' / (s' + l - l'). The steps become shorter in proportion as the loss
    rises, and their noise with them; none becomes longer because an earlier one was bad. The best average
    is forgotten over 1000 steps, in case it was luck.

    A batch of another size than the loss, l_t > l + 100 s, is left out. Where a share p of batches is bad, k
    in a row come once in p⁻ᵏ / (1 - p) batches; a row that an ordinary batch ended was an accident. Only
    one of ten or more (once in 90 000 for a third), and twice as long as any accident, is a new problem.

    But if its loss with the weights at the start was no outlier, and not halfway from the average to what it
    is now, then earlier steps, whose batches had no such example, have spoilt it. Left out it would never be
    mended, nor be seen in the average. So a step is taken for it, within c as any other; momentum, F and the
    average take no notice of it.

    Args:
        radius: `"auto"`, a positive float c, or `None`: then no step is bounded, left out or taken back, and
            only the loss before it is known.
        fisher, curvature: What the region is measured by.
    """

    def __init__(self, radius: str | float | None, fisher: Fisher, curvature: Curvature):
        self._radius, self._fisher, self._curvature = radius, fisher, curvature

    def build(self, add_variable: Callable, weights: list, others: list) -> None:
        """Makes all state. A step that is taken back leaves the weights, and these others, as they were."""

        def scalar(name: str, value: float = 0.0, dtype: str = "float64") -> keras.Variable:
            first = lambda shape, dtype: tf.cast(value, dtype)  # noqa: E731
            return add_variable((), first, dtype=dtype, name=name)

        self.level, self.spread = scalar("loss_level"), scalar("loss_spread")
        self.start, self.last = scalar("first_loss"), scalar("last_loss")
        self.best, self.best_size = scalar("best_loss_level"), scalar("size_at_best_loss_level")
        self.judged = scalar("judged_steps", dtype="int32")
        self.outliers = scalar("outliers_in_a_row", dtype="int32")
        self.accident = scalar("most_outliers_by_accident", dtype="int32")
        self.confidence = scalar("confidence", 1.0)
        self.can_return = scalar("can_return", dtype="int32")
        self._weights, self._others, self._packing = weights, others, Packing(weights)
        bounded = self._radius is not None
        self._at_start = self._packing.variables(add_variable, "weights_at_start") if bounded else []
        self._previous = self._packing.variables(add_variable, "weights_previous")
        self._others_before = [
            add_variable(v.shape, "zeros", dtype=v.dtype, name=f"{path_of(v)}_previous") for v in others
        ]

    # --- how far a step may go --------------------------------------------------------------------

    def size(self) -> tf.Tensor:
        """s, the size of the loss, float64."""
        return tf.maximum(tf.abs(self.level.value), self.spread.value)

    def radius(self, first: tf.Tensor | float = 0.0) -> tf.Tensor | None:
        """c of the next step, float64; before there is an average, from the `first` loss."""
        if self._radius is None:
            return None
        if self._radius != "auto":
            return tf.constant(self._radius, tf.float64) * self.confidence.value
        size = tf.minimum(self.size(), self.best_size.value)
        size = tf.where(self.judged.value > 0, size, tf.abs(tf.cast(first, tf.float64)))
        # A curvature of one batch is measured by its F, whatever the kind.
        kind = self._fisher if self._curvature.averages_batches else Expected()
        divergence = kind.divergence(size, self._curvature.weight, self._curvature.bounded)
        return SHARE * divergence * self._shorter() ** 2 * self.confidence.value

    def _shorter(self) -> tf.Tensor:
        """r, by how much a loss above its best shortens steps."""
        best = tf.convert_to_tensor(self.best_size.value)
        risen = tf.maximum(self.level.value - self.best.value, 0)
        ratio = tf.math.divide_no_nan(best, best + risen)
        return tf.where(self.judged.value > 0, ratio, tf.ones_like(ratio))

    def length(self, share: tf.Tensor) -> tf.Tensor:
        """The length of a step as a share of what the loss allows as it is, from that of what c allows."""
        share = tf.minimum(share, 1)
        if self._radius != "auto":
            return share
        size, best = self.size(), tf.convert_to_tensor(self.best_size.value)
        return share * self._shorter() * tf.sqrt(tf.where(best < size, best / size, tf.ones_like(size)))

    # --- what the batch after it says -------------------------------------------------------------

    def last_update(self) -> Tensors:
        """The change that the last step made to the weights."""
        return [v.value - before for v, before in zip(self._weights, self._packing.unpack(self._previous))]

    def judge(
        self, batch: Batch, loss: tf.Tensor, own: tf.Tensor, ask: tf.Tensor | bool, blame: bool = True
    ) -> Judgement:
        """Compares the loss with its past.

        Args:
            batch: The last batch of this step.
            loss: Of all batches of this step, a scalar.
            own: Of `batch` alone.
            ask: Whether the loss before the last step is wanted in any case.
            blame: Whether to find out what has made it an outlier.
        """
        loss, own = tf.cast(loss, tf.float64), tf.cast(own, tf.float64)
        size, known = self.size(), self.judged.value > 0
        # NaN is far. Not `~(loss <= ...)`: in a graph TensorFlow makes `loss > ...` of that.
        far = known & (~tf.math.is_finite(loss) | (loss > self.level.value + size))
        can_return = self.can_return.value > 0
        old = self._loss_with(self._previous, batch, can_return & (far | ask))
        no, one = tf.constant(False), tf.ones_like(loss)
        if self._radius is None:
            return Judgement(no, no, no, one, loss, old, no)
        c = SHARE * size if self._radius == "auto" else tf.constant(self._radius, tf.float64)
        # In the size of this batch's own loss, where that is larger: it may be no batch of this problem.
        own_size = tf.maximum(tf.math.divide_no_nan(tf.abs(old), size), 1)
        tolerance = (size / 2 + 8 * tf.sqrt(c * size) + 4 * c) * own_size
        failed = far & can_return & tf.math.is_finite(old)
        failed &= ~tf.math.is_finite(own) | (own - old > tolerance)
        large = far & self._is_patient() & (size > 0) & (loss - self.level.value > _OUTLIER * size)
        outlier = (~tf.math.is_finite(loss) | large) & ~failed
        spoilt = self._is_spoilt(batch, loss, outlier) if blame else no
        weight = tf.where(spoilt & (loss > _HEAVY * size), _HEAVY * size / loss, one)
        return Judgement(
            outlier & ~spoilt, spoilt, failed, weight, loss, old, known & (loss < self.last.value)
        )

    def _is_spoilt(self, batch: Batch, loss: tf.Tensor, outlier: tf.Tensor) -> tf.Tensor:
        then = self._loss_with(self._at_start, batch, outlier)
        start = tf.convert_to_tensor(self.start.value)
        ordinary = then - start <= _OUTLIER * tf.maximum(self.size(), tf.abs(start))
        return outlier & ordinary & (loss - then > (loss - self.level.value) / 2)

    def _loss_with(self, weights: list[keras.Variable], batch: Batch, asked: tf.Tensor) -> tf.Tensor:
        """The loss of a batch with other weights, NaN unless `asked`."""

        def loss() -> tf.Tensor:
            vectors = [tf.convert_to_tensor(v.value) for v in weights]
            return replicas.total([tf.cast(batch.loss_with(self._packing, vectors), tf.float64)])[0]

        return replicas.cond(asked, loss, lambda: tf.constant(float("nan"), tf.float64))

    # --- what follows from it ---------------------------------------------------------------------

    def keep(self) -> None:
        """Called before a step changes anything."""
        now = self._packing.pack([v.value for v in self._weights])
        for before, value in zip(self._previous, now):
            before.assign(value)
        for before, variable in zip(self._others_before, self._others):
            before.assign(variable.value)

        def at_start() -> None:
            for first, value in zip(self._at_start, now):
                first.assign(value)

        if self._at_start:
            replicas.cond(self.judged.value > 0, lambda: None, at_start)

    def accept(self, judgement: Judgement) -> None:
        """Called when a step was taken."""
        loss, none = judgement.loss, tf.zeros_like(judgement.loss)
        first = tf.equal(self.judged.value, 0)
        self.last.assign(loss)
        patient, outliers = self._is_patient(), tf.convert_to_tensor(self.outliers.value)
        self.accident.assign(
            tf.where(patient, tf.maximum(self.accident.value, outliers), self.accident.value)
        )
        anew = first | ~patient
        level, spread = tf.where(anew, loss, self.level.value), tf.where(anew, none, self.spread.value)
        steps = tf.where(anew, 0, self.judged.value) + 1
        rate = 1 / tf.minimum(tf.cast(steps, tf.float64), _WINDOW)
        self.spread.assign(spread + rate * (tf.abs(loss - level) - spread))
        self.level.assign(level + rate * (loss - level))
        self.judged.assign(steps)
        # Until then the average is over fewer steps than it will be, and may be small by luck.
        begins = tf.cast(steps, tf.float64) <= _WINDOW
        self.start.assign(tf.where(begins, self.level.value, self.start.value))
        is_best = begins | (self.level.value <= self.best.value)
        pace = tf.where(is_best, tf.ones_like(rate), 1 / _MEMORY)
        self.best.assign_add(pace * (self.level.value - self.best.value))
        self.best_size.assign_add(pace * (self.size() - self.best_size.value))
        self.outliers.assign(0)
        self.can_return.assign(1)
        grown = self.confidence.value * _RECOVERY
        self.confidence.assign(tf.minimum(grown, tf.ones_like(grown)))

    def repair(self) -> None:
        """Called when a step was taken for a batch that earlier ones have spoilt."""
        self.can_return.assign(1)

    def _is_patient(self) -> tf.Tensor:
        """False if so many batches were left out in a row that the problem has changed."""
        return self.outliers.value < tf.maximum(2 * self.accident.value, _PATIENCE)

    def count_outlier(self, judgement: Judgement) -> None:
        """Called when a batch was left out."""
        self.outliers.assign_add(tf.cast(judgement.outlier, tf.int32))

    def take_back(self) -> None:
        """Everything as it was before the last step, and less far from now on."""
        before = [*self._packing.unpack(self._previous), *self._others_before]
        for variable, value in zip([*self._weights, *self._others], before):
            replicas.assign(variable, tf.convert_to_tensor(value))
        self.can_return.assign(0)
        self.confidence.assign(self.confidence.value * _LOSS_OF_CONFIDENCE)
