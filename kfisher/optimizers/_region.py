"""The trust region: how far a step may go, by how large the loss is."""

from __future__ import annotations

import tensorflow as tf

from kfisher.curvature import Curvature
from kfisher.fisher import Expected, Fisher
from kfisher.optimizers._past import Past

# The KL divergence of one step, as a share of the loss.
SHARE = 0.003
# From how many times what F of its own batch would explain the gradient is a surprise.
_EXPLAINED = 40.0
# How many times the size that most absolute errors have a step may go by: 1.2 for errors of a normal
# distribution, more where they have fallen since it was measured. A few outliers in the labels make s larger.
_USUAL = 3.0
# Over how many steps the loss is averaged.
_WINDOW = 20.0
# Over how many steps the best average loss is forgotten, where it does not come back.
_MEMORY = 1000.0
# Steps that are shorter after one that was taken back grow again by a twentieth each.
_RECOVERY = 1.05


class TrustRegion:
    """Bounds the KL divergence of steps by a share of the running loss.

    With l the average of the loss over 20 steps and d that of its distance from it, the size of the loss is
    s = max(|l|, d) + e; Poisson's, often negative, counts from the least that its labels allow. With D = s,
    or s² / W for averages of EF, or s² / B for outputs under absolute error (`Fisher.divergence`), and m the
    gradient that is preconditioned,

        c = 0.003 D r²   bounds   max(1, u) δᵀ (F + damping I) δ / 2,   u = mᵀ (F + damping I)⁻¹ m D / (40 s²)

    (without u where F is that of the batch).

    e is by how much batches that were left behind, once most are learnt, exceed the average, themselves
    averaged over 1000 others: of a few hard examples, which can be most of the loss. Without it c would go to
    zero with the loss of the others. One batch at most doubles s.

    Absolute errors are often taken where a few labels are far off, which then make most of s. Steps for all
    the others would be as much too long, so s is at most three times what it would be, were all errors as
    most are: W times their median.

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

    # --- how large the loss is --------------------------------------------------------------------

    def taken_in(self, past: Past, loss: tf.Tensor, anew: tf.Tensor) -> Past:
        """The past with the loss of a step that was taken; `anew` if those before are of another problem."""
        anew |= tf.equal(past.judged, 0)
        level, spread = tf.where(anew, loss, past.level), tf.where(anew, tf.zeros_like(loss), past.spread)
        steps = tf.where(anew, tf.zeros_like(loss), past.judged) + 1
        rate = 1 / tf.minimum(steps, _WINDOW)
        now = past._replace(
            judged=steps,
            level=level + rate * (loss - level),
            spread=spread + rate * (tf.abs(loss - level) - spread),
            last=loss,
            rare=tf.where(anew, tf.zeros_like(loss), past.rare) * (1 - 1 / tf.minimum(steps, _MEMORY)),
            confidence=tf.minimum(past.confidence * _RECOVERY, 1),
        )
        # Until then the average is over fewer steps than it will be, and may be small by luck.
        begins = steps <= _WINDOW
        pace = tf.where(begins | (now.level <= past.best), tf.ones_like(rate), 1 / _MEMORY)
        return now._replace(
            start=tf.where(begins, now.level, past.start),
            best=past.best + pace * (now.level - past.best),
            best_size=past.best_size + pace * (now.own_size - past.best_size),
        )

    def with_rare(self, past: Past, loss: tf.Tensor) -> Past:
        """The past with the loss of a batch that was left behind."""
        excess = (loss - past.level) / tf.minimum(past.judged + 1, _MEMORY)
        return past._replace(rare=past.rare + tf.minimum(excess, past.size))

    # --- how far a step may go --------------------------------------------------------------------

    def radius(self, past: Past, first: tf.Tensor | float = 0.0) -> tf.Tensor:
        """c of the next step, float64; before there is an average, from the `first` loss."""
        if self._radius != "auto":
            return tf.constant(self._radius, tf.float64) * past.confidence
        size = self._size_at_best(past, first)
        return SHARE * self._divergence(size) * _shorter(past) ** 2 * past.confidence

    def reach(self, past: Past, first: tf.Tensor | float = 0.0) -> tf.Tensor | float:
        """By how many times the learning rate a step may go, float64; before there is an average, as above.

        1, but for errors above 1 in the units of an F that takes any for one of 1 (EF, and F under absolute
        error): s / W and s / B, by which (F + damping I)⁻¹ m is too short.
        """
        if self._radius != "auto":
            return 1.0
        size = self._size_at_best(past, first)
        share = tf.math.divide_no_nan(self._fisher.divergence(size, self._curvature.weights), size)
        return tf.maximum(share, 1)

    def surprise(self, past: Past, squared_norm: tf.Tensor, loss: tf.Tensor) -> tf.Tensor:
        """u, float64.

        Args:
            past: What is known of the loss.
            squared_norm: mᵀ (F + damping I)⁻¹ m.
            loss: Of the batch, whose size is s where it is larger.
        """
        size = tf.maximum(past.own_size, tf.abs(tf.cast(loss, tf.float64)))
        return tf.math.divide_no_nan(squared_norm * self._divergence(size), _EXPLAINED * size**2)

    def length(self, past: Past, share: tf.Tensor) -> tf.Tensor:
        """The length of a step as a share of what the loss allows as it is, from that of what c allows."""
        share = tf.minimum(share, 1)
        if self._radius != "auto":
            return share
        best, now = self._divergence(past.size_at_best), self._divergence(past.size)
        return share * _shorter(past) * tf.sqrt(tf.where(best < now, best / now, tf.ones_like(now)))

    def usual(self, past: Past) -> tf.Tensor:
        """c of a loss that has not risen, as a change of the loss is judged by."""
        return SHARE * past.size if self._radius == "auto" else tf.constant(self._radius, tf.float64)

    def _size_at_best(self, past: Past, first: tf.Tensor | float) -> tf.Tensor:
        """s of the best average, of the `first` loss before there is one; of absolute errors no more than
        `_USUAL` times that of most."""
        size = tf.minimum(past.size, past.size_at_best)
        size = tf.where(past.judged > 0, size, tf.abs(tf.cast(first, tf.float64)))
        return tf.minimum(size, _USUAL * self._curvature.usual_size)

    def _divergence(self, size: tf.Tensor) -> tf.Tensor:
        """D of a size."""
        # A curvature of one batch is measured by its F, whatever the kind.
        kind = self._fisher if self._curvature.averages_batches else Expected()
        return kind.divergence(size, self._curvature.weights)


def _shorter(past: Past) -> tf.Tensor:
    """r, by how much a loss above its best shortens steps."""
    size = past.size_at_best
    ratio = tf.math.divide_no_nan(size, size + tf.maximum(past.level - past.best, 0))
    return tf.where(past.judged > 0, ratio, tf.ones_like(ratio))
