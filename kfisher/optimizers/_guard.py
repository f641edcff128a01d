"""The guard of a step: what becomes of one that went wrong."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.vectors import Packing, Tensors, path_of
from kfisher.curvature import Curvature
from kfisher.fisher import Fisher
from kfisher.jacobian.batch import Batch
from kfisher.optimizers._judgement import Judgement
from kfisher.optimizers._past import Memory, Past
from kfisher.optimizers._region import TrustRegion

# A loss that exceeds its average by so many times its size is no batch of this problem ...
_OUTLIER = 100.0
# ... unless so many come in a row, and twice as many as ever did by accident: then the problem has changed.
_PATIENCE = 10
# So many batches in a row far above the average, though no outliers, are another problem, too, ...
_HIGHER = 7
# ... if of what they are above it the last step is to blame for no more than this share.
_BLAME = 0.02
# A step that is taken back shortens the next ones.
_LOSS_OF_CONFIDENCE = 0.25


class Guard:
    """Judges each step on the batch after it, and takes back bad ones.

    With l, s and c of its `TrustRegion`,

        l_t > l + max(|l|, d)        has the last step judged: the same batch with the weights before it,
        l_t - before > (s / 2 + 8 √(c s) + 4 c) max(1, |before| / s)     takes it back.

    The judge has seen neither the examples nor the labels that made the step, and costs nothing where the
    loss does not jump: Keras has it already. Within c a quadratic loss changes by less than 2 √(c s) + c
    on the batch of the step, so that four times that, and half the loss besides, is out of proportion.

    A batch of another size than most, l_t > l + 100 max(|l|, d), is left out. Where a share p of batches is
    bad, k in a row come once in p⁻ᵏ / (1 - p) batches; a row that an ordinary batch ended was an accident.
    Only one of ten or more (once in 90 000 for a third), and twice as long as any accident, is a new problem.
    Also one of seven that are no outliers, but each above l + max(|l|, d) with the weights before the last
    step as well: then the data have changed, and no step has made the loss rise.

    But if its loss with the weights that this problem began with was no outlier, it is of this problem: the
    others were learnt without it, or at its cost. Left out it would never be learnt, nor be seen in the
    average. So a step is taken for it, within c as any other; momentum, F and the average of most take no
    notice of it, and c (unless it is given) grows by its share of the loss. Ten and more in a row are a new
    problem, too.

    Args:
        radius: `"auto"`, a positive float c, or `None`: then no step is bounded, left out or taken back, and
            only the loss before it is known.
        fisher, curvature: What the region is measured by.
    """

    def __init__(self, radius: str | float | None, fisher: Fisher, curvature: Curvature):
        self._bounded = radius is not None
        self.region = TrustRegion(radius, fisher, curvature)

    def build(self, add_variable: Callable, weights: list, others: list) -> None:
        """Makes all state. A step that is taken back leaves the weights, and these others, as they were."""
        self.memory = Memory(add_variable)
        self._weights, self._others, self._packing = weights, others, Packing(weights)
        at_start = "weights_at_start"
        self._at_start = self._packing.variables(add_variable, at_start) if self._bounded else []
        self._previous = self._packing.variables(add_variable, "weights_previous")
        self._others_before = [
            add_variable(v.shape, "zeros", dtype=v.dtype, name=f"{path_of(v)}_previous") for v in others
        ]

    def radius(self, past: Past, first: tf.Tensor | float = 0.0) -> tf.Tensor | None:
        """c of the next step, float64, if it is bounded: see `TrustRegion.radius`."""
        return self.region.radius(past, first) if self._bounded else None

    def surprise(self, squared_norm: tf.Tensor, judgement: Judgement) -> tf.Tensor:
        """Of a gradient, as that of the region; 0 for what was left behind."""
        surprise = self.region.surprise(judgement.past, squared_norm, judgement.loss)
        return tf.where(judgement.behind, tf.zeros_like(surprise), surprise)

    def length(self, share: tf.Tensor) -> tf.Tensor:
        """Of a step that is taken now, as that of the region."""
        return self.region.length(self.memory.read(), share)

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
        past = self.memory.read()
        size, most, known = past.size, past.own_size, past.judged > 0
        # NaN is far. Not `~(loss <= ...)`: in a graph TensorFlow makes `loss > ...` of that.
        far = known & (~tf.math.is_finite(loss) | (loss > past.level + most))
        can_return = past.can_return > 0
        old = self._loss_with(self._previous, batch, can_return & (far | ask))
        no = tf.constant(False)
        if not self._bounded:
            return Judgement(no, no, no, loss, old, no, no, no, past)
        c = self.region.usual(past)
        # In the size of this batch's own loss, where that is larger: it may be no batch of this problem.
        times = tf.maximum(tf.math.divide_no_nan(tf.abs(old), size), 1)
        tolerance = (size / 2 + 8 * tf.sqrt(c * size) + 4 * c) * times  # most may lose while few are learnt
        rejected = far & can_return & tf.math.is_finite(old)
        rejected &= ~tf.math.is_finite(own) | (own - old > tolerance)
        large = far & (most > 0) & (loss - past.level > _OUTLIER * most)
        patient = _is_patient(past)
        outlier = (~tf.math.is_finite(loss) | (large & patient)) & ~rejected
        # Of a step in several parts only the last can be asked, so it has to be the one.
        asked = outlier & tf.math.is_finite(loss) & (own - past.level > _OUTLIER * most)
        behind = self._is_behind(batch, asked, past) if blame else no
        higher = far & can_return & (own - old <= _BLAME * (own - past.level))  # not for NaN
        anew = (large & ~patient) | (higher & (past.higher + 1 >= _HIGHER))
        fell = known & (loss < past.last)
        return Judgement(outlier & ~behind, behind, rejected, loss, old, fell, higher, anew, past)

    def _is_behind(self, batch: Batch, outlier: tf.Tensor, past: Past) -> tf.Tensor:
        """True for an outlier that was none with the weights that this problem began with."""
        then = self._loss_with(self._at_start, batch, outlier)
        return outlier & (then - past.start <= _OUTLIER * tf.maximum(past.own_size, tf.abs(past.start)))

    def _loss_with(self, weights: list[keras.Variable], batch: Batch, asked: tf.Tensor) -> tf.Tensor:
        """The loss of a batch with other weights, NaN unless `asked`."""

        def loss() -> tf.Tensor:
            vectors = [tf.convert_to_tensor(v.value) for v in weights]
            return replicas.total([tf.cast(batch.loss_with(self._packing, vectors), tf.float64)])[0]

        return replicas.cond(asked, loss, lambda: tf.constant(float("nan"), tf.float64))

    # --- what follows from it ---------------------------------------------------------------------

    def keep(self, judgement: Judgement) -> None:
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
            replicas.cond(judgement.anew | tf.equal(judgement.past.judged, 0), at_start, lambda: None)

    def accept(self, judgement: Judgement) -> None:
        """Called when a step was taken."""
        past, anew = self.memory.read(), judgement.anew
        accident = tf.where(anew, past.accident, tf.maximum(past.accident, past.outliers))
        past = self.region.taken_in(past, judgement.loss, anew)
        higher = tf.where(judgement.higher & ~anew, past.higher + 1, 0)
        self.memory.keep(past._replace(accident=accident, outliers=0, higher=higher, can_return=1))

    def catch_up(self, judgement: Judgement) -> None:
        """Called when a step was taken for a batch that was left behind."""
        past = self.region.with_rare(self.memory.read(), judgement.loss)
        self.memory.keep(past._replace(outliers=past.outliers + 1, can_return=1))

    def count_outlier(self, judgement: Judgement) -> None:
        """Called when a batch was left out."""
        past = self.memory.read()
        counts = tf.cast(judgement.outlier | judgement.behind, tf.float64)
        self.memory.keep(past._replace(outliers=past.outliers + counts))

    def take_back(self) -> None:
        """Everything as it was before the last step, and less far from now on."""
        before = [*self._packing.unpack(self._previous), *self._others_before]
        for variable, value in zip([*self._weights, *self._others], before):
            replicas.assign(variable, tf.convert_to_tensor(value))
        past = self.memory.read()
        confidence, outliers = past.confidence * _LOSS_OF_CONFIDENCE, tf.maximum(past.outliers - 1, 0)
        self.memory.keep(past._replace(confidence=confidence, outliers=outliers, can_return=0))


def _is_patient(past: Past) -> tf.Tensor:
    """False if so many batches were left out in a row that the problem has changed."""
    return past.outliers < tf.maximum(2 * past.accident, _PATIENCE)
