"""What the optimizer does: its step beside the natural one, its second moments beside the diagonals."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import scipy.stats
import tensorflow as tf

from kfisher._common.vectors import Tensors, dot
from kfisher.diagnosis.basis import Frame
from kfisher.diagnosis.rows import Groups, vectors_of
from kfisher.fisher import Empirical, Exact, Sampled
from kfisher.jacobian.batch import Batch
from kfisher.jacobian.square_root import Recorded
from kfisher.likelihoods.weighted import Head

_ENTRIES = 10_000  # parameters, for a rank correlation


class Before:
    """The model linearised at the weights before a step, until it is known where the step went.

    Args:
        batch: The measured examples.
        frame: In which they were compared.
        draws: Of labels, in that.

    Attributes:
        natural: (F + λ I)⁻¹ ∇L, in the shapes of the trainable variables.
        gradient: ∇L, without regularisers.
    """

    def __init__(self, batch: Batch, frame: Frame, draws: int):
        linear = batch.linearization
        groups, _, _ = vectors_of(linear.heads, batch.seed, draws)
        natural = frame.gradient / (frame.values + frame.damping)  # in the frame, where F is diagonal
        coefficients = frame.lift(natural).reshape(-1, frame.layout.examples)
        self._linear, self._seed = linear, batch.seed
        self.natural = linear.pull(_combined(groups, coefficients, linear.heads))
        slopes = [-h.likelihood.score(h.eta, h.labels) * tf.square(h.root_weights) for h in linear.heads]
        self.gradient = linear.pull(slopes)
        self._weights = [v.numpy().copy() for v in linear.variables]

    def after(self) -> dict[str, float]:
        """What there is to say of the step, now that the weights have changed; empty if they have not.

        "cosine" with the natural-gradient step, "step_norm", and "gamma" over that of the gradient.
        """
        update = [v.value - w for v, w in zip(self._linear.variables, self._weights)]
        length, natural = (float(dot(d, d)) ** 0.5 for d in (update, self.natural))
        if not length * natural:
            return {}
        return {
            "cosine": -float(dot(update, self.natural)) / (length * natural),
            "step_norm": length,
            "gamma": self._gamma(update) / self._gamma(self.gradient),
        }

    def _gamma(self, direction: Tensors) -> float:
        """√(dᵀ F d) / |dᵀ ∇L|."""
        pushed = self._linear.push(direction)
        weighed = Exact().output_products(self._linear.heads, self._seed)(pushed)
        slope = max(abs(float(dot(direction, self.gradient))), np.finfo(np.float64).tiny)
        return float(dot(pushed, weighed)) ** 0.5 / slope


def _combined(groups: Groups, coefficients: np.ndarray, heads: list[Head]) -> list[tf.Tensor]:
    """Σ_r z_rn V_rn at each output, for z of shape `(R, N)` over all groups."""
    totals = [tf.zeros_like(head.eta) for head in heads]
    first = 0
    for group in groups:
        own = coefficients[first : first + group[0][1].shape[0]]
        first += len(own)
        for eta, v in group:
            position = next(i for i, head in enumerate(heads) if head.eta is eta)
            z = tf.reshape(tf.cast(own, v.dtype), [*own.shape, *[1] * (v.shape.rank - 2)])
            totals[position] += tf.reduce_sum(z * v, 0)
    return totals


def diagonals(batch: Batch) -> dict[str, tf.Tensor]:
    """Of F with drawn labels, "sampled", and of EF, "empirical": `(P,)`, in the order of the variables.

    A label is drawn for each example, so that both have the same noise.
    """
    recorded = Recorded(batch)
    kinds = {"sampled": Sampled(1), "empirical": Empirical()}
    groups = [g for fisher in kinds.values() for g in fisher.columns(recorded.loss.heads, batch.seed).groups]
    rules, variables = recorded.rules(groups), batch.model.trainable_variables
    found = {}
    for r, name in enumerate(kinds):
        squares: dict[int, tf.Tensor] = {}
        for rule in rules:
            calls = [replace(call, grads=[g[r : r + 1] for g in call.grads]) for call in rule.layer_calls]
            for block, products in type(rule)(rule.variables, calls).outer_products():
                parts = block.from_matrix(products.squares(), [v.shape for v in block.variables])
                squares |= {id(v): part for v, part in zip(block.variables, parts)}
        entries = [squares.get(id(v), tf.zeros(v.shape, v.dtype)) for v in variables]
        found[name] = tf.concat([tf.reshape(tf.cast(e, tf.float32), [-1]) for e in entries], 0)
    return found


def rank_correlations(second_moments: list[keras.Variable], found: dict[str, np.ndarray]) -> dict[str, float]:
    """Of the second moments with each of the diagonals, over at most `_ENTRIES` parameters."""
    moments = np.concatenate([np.ravel(keras.ops.convert_to_numpy(v)) for v in second_moments])
    if not np.any(moments):  # before the first step
        return {}
    chosen = np.unique(np.linspace(0, len(moments) - 1, _ENTRIES).astype(int))
    return {
        name: float(scipy.stats.spearmanr(moments[chosen], diagonal[chosen])[0])
        for name, diagonal in found.items()
    }
