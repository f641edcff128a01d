"""Contributions of the examples of a batch to a block of F, as sums of outer products.

The block is Σ_rn vec(M_rn) vec(M_rn)ᵀ with M_rn, `(groups, inputs, outputs)`, the gradient of example n
for vector r, its root weight included. Four forms of M, from the cheapest:

    Positions   M_rn = Σ_s a_ns g_rnsᵀ           layers that are a matrix product at every position
    Lookup      the same, a_ns one-hot              embeddings
    Tied        M_rn = Σ_s l_rns r_rnsᵀ             a matrix with several uses
    Formed      M_rn itself                         everything else

Each gives the Kronecker factors A, B with A ⊗ B close to the block, and the exact sums of squares of its
entries, in any basis. Martens & Grosse 2015 (arXiv:1503.05671); Grosse & Martens 2016; George 2018
(arXiv:1806.03884); Eschenhagen 2023 (arXiv:2311.00636), equations (11) and (22).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.rows import broadcast_counts

# Entries of M that are formed at a time.
_SLICE = 2**22


@dataclass
class Positions:
    """M_rn = Σ_s a_ns g_rnsᵀ.

    Attributes:
        a: Inputs, `(N, S, G, I)`; a constant 1 is the last one where the block has a bias.
        g: Gradients, `(R, N, S, G, O)`.
        key: Equal for layers that read the same input, whose A is then formed once.
    """

    a: tf.Tensor
    g: tf.Tensor
    key: object = None

    def factors(self, weights: Any, sharing: str, diagonal: tuple[bool, bool], cache: dict) -> tuple:
        """A, weighted mean over examples, and B, sum over examples.

        Args:
            weights: `(N,)`, of the examples, with sum 1.
            sharing: `"expand"` takes positions for examples, `"reduce"` averages the inputs and sums the
                gradients of an example first.
            diagonal: Whether A and B are wanted as diagonals.
            cache: A by `key`, and √w_n by what it is used on, for the length of one pass.
        """
        key = self.key and (self.key, diagonal[0])
        if key not in cache or key is None:
            cache[key] = second_moment(self.inputs(weights, sharing, cache), diagonal[0])
        return cache[key], second_moment(self.gradients(sharing), diagonal[1])

    def inputs(self, weights: tf.Tensor, sharing: str, cache: dict) -> tf.Tensor:
        """What A is the second moment of, `(N, S, G, I)`."""
        a = tf.reduce_mean(self.a, 1, keepdims=True) if sharing == "reduce" else self.a
        key = ("scale", a.dtype, a.shape[1])
        if a.shape[1] is None or key not in cache:
            positions = tf.cast(tf.shape(a)[1], a.dtype) if a.shape[1] is None else a.shape[1]
            cache[key] = tf.reshape(tf.sqrt(tf.cast(weights, a.dtype) / positions), [-1, 1, 1, 1])
        return a * cache[key]

    def gradients(self, sharing: str) -> tf.Tensor:
        """What B is the second moment of, `(R, N, S, G, O)`."""
        return tf.reduce_sum(self.g, 2, keepdims=True) if sharing == "reduce" else self.g

    def squares(self, left: tf.Tensor | None = None, right: tf.Tensor | None = None) -> tf.Tensor:
        """Σ_rn (leftᵀ M_rn right)², entry by entry, `(G, I, O)`; `None` stands for the identity."""
        a, g = _rotated(self.a, left), _rotated(self.g, right)
        a = tf.cast(a, g.dtype)
        if a.shape[1] == 1:
            pairs = tf.reduce_sum(tf.square(g[:, :, 0]), 0)  # (N, G, O)
            return tf.einsum("ngi,ngo->gio", tf.square(a[:, 0]), pairs)
        columns = max(1, _SLICE // max(1, (g.shape[0] or 1) * (a.shape[0] or 256) * a.shape[2] * a.shape[3]))
        parts: list[tf.Tensor] = []
        for start in range(0, g.shape[-1], columns):
            with tf.control_dependencies(parts[-1:]):
                m = tf.einsum("nsgi,rnsgo->rngio", a, g[..., start : start + columns])
                parts.append(tf.reduce_sum(tf.square(m), [0, 1]))
        return tf.concat(parts, -1)


@dataclass
class Lookup:
    """M_rn = Σ_s e(index_ns) g_rnsᵀ: A is diagonal, the frequency of each row.

    Attributes:
        index: `(N, S)`.
        rows: How many there are to look up.
        g: Gradients, `(R, N, S, O)`.
    """

    index: tf.Tensor
    rows: int
    g: tf.Tensor

    def factors(self, weights: Any, sharing: str, diagonal: Any, cache: dict) -> tuple:
        """As in `Positions`; A is diagonal whatever is asked for."""
        g, index = self.g, self.index
        size, positions = tf.shape(index)[0], tf.shape(index)[1]
        share = tf.cast(weights, g.dtype) / tf.cast(positions, g.dtype)
        if sharing == "reduce":
            mean = tf.scatter_nd(_pairs(index), tf.ones(tf.shape(index), g.dtype), [size, self.rows])
            mean /= tf.cast(positions, g.dtype)
            a = tf.einsum("n,nv->v", tf.cast(weights, g.dtype), tf.square(mean))
            g = tf.reduce_sum(g, 2, keepdims=True)
        else:
            share = tf.broadcast_to(share[:, tf.newaxis], tf.shape(index))
            a = tf.math.unsorted_segment_sum(tf.reshape(share, [-1]), tf.reshape(index, [-1]), self.rows)
        return a[tf.newaxis], second_moment(g[:, :, :, tf.newaxis], diagonal[1])

    def squares(self, left: Any = None, right: Any = None) -> tf.Tensor:
        """As in `Positions`; the left basis is the identity."""
        g = _rotated(self.g[:, :, :, tf.newaxis], right)[:, :, :, 0]
        # A row that one example looks up several times is summed before it is squared.
        same = tf.cast(tf.equal(self.index[:, :, tf.newaxis], self.index[:, tf.newaxis]), g.dtype)
        summed = tf.einsum("nst,rnto->rnso", same, g)
        share = tf.square(summed) / tf.reduce_sum(same, 2)[..., tf.newaxis]
        flat = tf.reshape(tf.reduce_sum(share, 0), [-1, g.shape[-1]])
        total = tf.math.unsorted_segment_sum(flat, tf.reshape(self.index, [-1]), self.rows)
        return total[tf.newaxis]


@dataclass
class Tied:
    """M_rn = Σ_s l_rns r_rnsᵀ over several uses of one matrix, each with its `left` and `right`.

    Each use alone is close to L ⊗ R, second moments like A and B of `Positions`. The factors are those of
    their sum that have its partial traces, A = Σ tr(R) L / Σ tr(L) tr(R) and B = Σ tr(L) R, as in `Formed`.
    """

    uses: list[Any]

    def sides(self) -> list[tf.Tensor]:
        """l and r of all uses, `(R, N, S, I)` and `(R, N, S, O)`; R = 1 in one that is the same for all."""
        left, right = [use.left for use in self.uses], [use.right for use in self.uses]
        return [tf.concat(broadcast_counts(left), 2), tf.concat(broadcast_counts(right), 2)]

    def factors(self, weights: Any, sharing: str, diagonal: Any, cache: dict) -> tuple:
        pairs = []
        for use in self.uses:
            sides = []
            for t, is_input, kept in zip(
                (use.left, use.right), (use.left_is_input, not use.left_is_input), diagonal
            ):
                if sharing == "reduce":
                    t = (tf.reduce_mean if is_input else tf.reduce_sum)(t, 2, keepdims=True)
                if is_input:  # a mean over examples and positions, as in `Positions`
                    scale = tf.sqrt(tf.cast(weights, t.dtype) / tf.cast(tf.shape(t)[2], t.dtype))
                    t *= scale[:, tf.newaxis, tf.newaxis]
                sides.append(second_moment(t[:, :, :, tf.newaxis], kept))
            pairs.append(sides)
        # They are combined in a way that is not linear: those of the whole batch first.
        crossed = replicas.total([side for pair in pairs for side in pair], symmetric=True)
        pairs = [crossed[i : i + 2] for i in range(0, len(crossed), 2)]
        traces = [[_trace(side) for side in pair] for pair in pairs]
        total = tf.add_n([left * right for left, right in traces])
        a = tf.add_n([right * pair[0] for pair, (_, right) in zip(pairs, traces)])
        b = tf.add_n([left * pair[1] for pair, (left, _) in zip(pairs, traces)])
        # The sum over replicas is taken of what is returned.
        return tf.math.divide_no_nan(a, total), b / replicas.count()

    def squares(self, left: Any = None, right: Any = None) -> tf.Tensor:
        # Every pair (r, n) as an example.
        flat = [
            tf.ensure_shape(tf.reshape(t, tf.concat([[-1], tf.shape(t)[2:]], 0)), [None, *t.shape[2:]])
            for t in broadcast_counts(self.sides())
        ]
        return Positions(flat[0][:, :, tf.newaxis], flat[1][tf.newaxis, :, :, tf.newaxis]).squares(
            left, right
        )


@dataclass
class Formed:
    """M_rn itself, `(R, N, G, I, O)`.

    The factors are its row and column moments over the trace, A = Σ M Mᵀ / Σ ‖M‖² and B = Σ Mᵀ M:
    exact where every M is one outer product in one direction, with the trace of the block always.
    """

    m: tf.Tensor

    def factors(self, weights: Any, sharing: str, diagonal: Any, cache: dict) -> tuple:
        m = self.m
        if m.shape[-2] == 1:
            a = tf.ones([m.shape[2], 1] if diagonal[0] else [m.shape[2], 1, 1], m.dtype)
            return a, second_moment(tf.squeeze(m, -2), diagonal[1])
        rows = tf.einsum("rngio->gi", m * m) if diagonal[0] else tf.einsum("rngio,rngjo->gij", m, m)
        columns = tf.einsum("rngio->go", m * m) if diagonal[1] else tf.einsum("rngio,rngip->gop", m, m)
        trace = tf.reduce_sum(tf.square(m), [0, 1, 3, 4])
        trace = tf.reshape(trace, [-1] + [1] * (rows.shape.rank - 1))
        return tf.math.divide_no_nan(rows, trace), columns

    def squares(self, left: Any = None, right: Any = None) -> tf.Tensor:
        m = self.m
        if left is not None:
            m = tf.einsum("rngio,gij->rngjo", m, left)
        if right is not None:
            m = tf.einsum("rngio,gop->rngip", m, right)
        return tf.reduce_sum(tf.square(m), [0, 1])


def second_moment(t: tf.Tensor, diagonal: bool) -> tf.Tensor:
    """sum t tᵀ over all axes but the last two, `(G, I, I)`, or its diagonal, `(G, I)`."""
    groups, width = t.shape[-2:]
    if groups == 1 and not diagonal:
        flat = tf.reshape(t, [-1, width])
        return tf.expand_dims(tf.matmul(flat, flat, transpose_a=True), 0)
    flat = tf.reshape(t, [-1, groups, width])
    if diagonal:
        return tf.reduce_sum(tf.square(flat), 0)
    flat = tf.transpose(flat, [1, 0, 2])
    return tf.matmul(flat, flat, transpose_a=True)


def _trace(moment: tf.Tensor) -> tf.Tensor:
    """The trace of the one group of a second moment, full or diagonal."""
    return tf.reduce_sum(moment if moment.shape.rank == 2 else tf.linalg.diag_part(moment))


def _rotated(t: tf.Tensor, basis: tf.Tensor | None) -> tf.Tensor:
    """The last axis in another basis, `(G, I, I)`, group by group."""
    if basis is None:
        return t
    groups, width = t.shape[-2:]
    basis = tf.cast(basis, t.dtype)
    if groups == 1:
        flat = tf.matmul(tf.reshape(t, [-1, width]), basis[0])
    else:
        flat = tf.einsum("ngi,gij->ngj", tf.reshape(t, [-1, groups, width]), basis)
    return tf.ensure_shape(tf.reshape(flat, tf.shape(t)), t.shape)


def _pairs(index: tf.Tensor) -> tf.Tensor:
    """`(N, S, 2)`: the example beside the row that it looks up."""
    example = tf.broadcast_to(tf.range(tf.shape(index)[0])[:, tf.newaxis], tf.shape(index))
    return tf.stack([example, index], -1)
