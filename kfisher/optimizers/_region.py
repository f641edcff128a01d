"""The trust region: how far a step may go, by how large the loss is."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from kfisher.curvature import Curvature
from kfisher.fisher import Expected, Fisher

# The KL divergence of one step, as a share of the loss.
SHARE = 0.003
# From how many times what F of its own batch would explain the gradient is a surprise.
_EXPLAINED = 40.0
# Over how many steps the loss is averaged.
_WINDOW = 20.0
# Over how many steps the best average loss is forgotten, where it does not come back.
_MEMORY = 1000.0
# A step that is taken back shortens the next ones; they grow again by a twentieth each.
_LOSS_OF_CONFIDENCE, _RECOVERY = 0.25, 1.05


class TrustRegion:
    """Bounds the KL divergence of steps by a share of the running loss.

    With l the average of the loss over 20 steps and d that of its distance from it, the size of the loss is
    s = max(|l|, d); Poisson's, often negative, counts from the least that its labels allow. With D = s, or
    s² / W for averages of EF, or s² / B for outputs under absolute error (`Fisher.divergence`), and m the
    gradient that is preconditioned,

        c = 0.003 D r²   bounds   max(1, u) δᵀ (F + damping I) δ / 2,   u = mᵀ (F + damping I)⁻¹ m D / (40 s²)

    (without u where F is that of the batch).

    Many steps, each too small to be judged, can still carry the loss away, where gradients are mostly noise
    or F misses rare examples. So c goes by the best average, l' of the size s', not by one that has risen:
    its s is at most s', and r = s' / (s' + l - l'). The steps become shorter in proportion as the loss
    rises, and their noise with them; none becomes longer because an earlier one was bad. The best average
    is forgotten over 1000 steps, in case it was luck.

    u is the surprise. A gradient is that of the losses pulled back, and so by the F of its own batch mᵀ F⁻¹ m
    is at most 2 s for squared errors, W for EF, B for absolute errors: about s² / D. Where it is 40 times
    that, m lies where F knows nothing, as that of many inputs and few examples does: there only the damping
    bounds (F + damping I)⁻¹ m, and F is u times too small, at least. Under cross-entropies and counts a label
    that the model is sure not to see is a surprise, too, by any F. So steps are shorter by √u, and a damping
    that goes by how well F is known grows (`kfisher.damping.Cautious`).

    Args:
        radius: `"auto"`, a positive float c, or `None`, for the running loss alone.
        fisher, curvature: What the region is measured by.
    """

    def __init__(self, radius: str | float | None, fisher: Fisher, curvature: Curvature):
        self._radius, self._fisher, self._curvature = radius, fisher, curvature

    def build(self, scalar: Callable) -> None:
        """Makes all state; `scalar` makes a variable from a name, a value and a dtype."""
        self.level, self.spread = scalar("loss_level"), scalar("loss_spread")
        self.start, self.last = scalar("first_loss"), scalar("last_loss")
        self.best, self.best_size = scalar("best_loss_level"), scalar("size_at_best_loss_level")
        self.judged = scalar("judged_steps", dtype="int32")
        self.confidence = scalar("confidence", 1.0)

    # --- how large the loss is --------------------------------------------------------------------

    def size(self, first: tf.Tensor | float | None = None) -> tf.Tensor:
        """s, float64; of the `first` loss, if that is given, before there is an average."""
        size = tf.maximum(tf.abs(self.level.value), self.spread.value)
        if first is None:
            return size
        return tf.where(self.judged.value > 0, size, tf.abs(tf.cast(first, tf.float64)))

    def take_in(self, loss: tf.Tensor, anew: tf.Tensor) -> None:
        """Averages the loss of a step that was taken; `anew` if those before are of another problem."""
        anew |= tf.equal(self.judged.value, 0)
        none = tf.zeros_like(loss)
        self.last.assign(loss)
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
        grown = self.confidence.value * _RECOVERY
        self.confidence.assign(tf.minimum(grown, tf.ones_like(grown)))

    # --- how far a step may go --------------------------------------------------------------------

    def radius(self, first: tf.Tensor | float = 0.0) -> tf.Tensor:
        """c of the next step, float64; before there is an average, from the `first` loss."""
        if self._radius != "auto":
            return tf.constant(self._radius, tf.float64) * self.confidence.value
        size = self._size_at_best(first)
        return SHARE * self._divergence(size) * self._shorter() ** 2 * self.confidence.value

    def reach(self, first: tf.Tensor | float = 0.0) -> tf.Tensor | float:
        """By how many times the learning rate a step may go, float64; before there is an average, as above.

        1, but for errors above 1 in the units of an F that takes any for one of 1 (EF, and F under absolute
        error): s / W and s / B, by which (F + damping I)⁻¹ m is too short.
        """
        if self._radius != "auto":
            return 1.0
        size = self._size_at_best(first)
        share = tf.math.divide_no_nan(self._fisher.divergence(size, self._curvature.weights), size)
        return tf.maximum(share, 1)

    def _size_at_best(self, first: tf.Tensor | float) -> tf.Tensor:
        known = self.judged.value > 0
        return tf.where(known, tf.minimum(self.size(), self.best_size.value), self.size(first))

    def surprise(self, squared_norm: tf.Tensor, loss: tf.Tensor) -> tf.Tensor:
        """u, float64.

        Args:
            squared_norm: mᵀ (F + damping I)⁻¹ m.
            loss: Of the batch, whose size is s where it is larger.
        """
        size = tf.maximum(self.size(), tf.abs(tf.cast(loss, tf.float64)))
        return tf.math.divide_no_nan(squared_norm * self._divergence(size), _EXPLAINED * size**2)

    def length(self, share: tf.Tensor) -> tf.Tensor:
        """The length of a step as a share of what the loss allows as it is, from that of what c allows."""
        share = tf.minimum(share, 1)
        if self._radius != "auto":
            return share
        size, best = self.size(), tf.convert_to_tensor(self.best_size.value)
        return share * self._shorter() * tf.sqrt(tf.where(best < size, best / size, tf.ones_like(size)))

    def usual(self) -> tf.Tensor:
        """c of a loss that has not risen, as a change of the loss is judged by."""
        return SHARE * self.size() if self._radius == "auto" else tf.constant(self._radius, tf.float64)

    def lose_confidence(self) -> None:
        """Called when a step was taken back: the next ones are shorter."""
        self.confidence.assign(self.confidence.value * _LOSS_OF_CONFIDENCE)

    def _divergence(self, size: tf.Tensor) -> tf.Tensor:
        """D of a size."""
        # A curvature of one batch is measured by its F, whatever the kind.
        kind = self._fisher if self._curvature.averages_batches else Expected()
        return kind.divergence(size, self._curvature.weights)

    def _shorter(self) -> tf.Tensor:
        """r, by how much a loss above its best shortens steps."""
        best = tf.convert_to_tensor(self.best_size.value)
        risen = tf.maximum(self.level.value - self.best.value, 0)
        ratio = tf.math.divide_no_nan(best, best + risen)
        return tf.where(self.judged.value > 0, ratio, tf.ones_like(ratio))
