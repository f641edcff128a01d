"""The rows of all three Fishers on the same examples, from one pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from kfisher._common.vectors import alike
from kfisher.diagnosis.drawn_scores import in_rows
from kfisher.diagnosis.limits import SMALL, Drawn, Limits, labels_for_exact
from kfisher.fisher import Empirical, Exact, Fisher, Sampled, head_seed
from kfisher.jacobian import layers
from kfisher.jacobian.batch import Batch
from kfisher.jacobian.square_root import Recorded
from kfisher.likelihoods import Likelihood
from kfisher.likelihoods.weighted import Head, example_weights, mean_weights


@dataclass
class JointRoot:
    """A of the exact, the empirical and the sampled Fisher, one below the other.

    Rows are numbered r N + n, so that each kind, and each draw of labels, is a block of them. Those of drawn
    labels come last, and are not pulled back through the model: they are combinations of the rows of F.

    Attributes:
        gram: U Uᵀ over the rows that are pulled back, `(R N, R N)`; or `None`.
        rows: U of these, `(R N, P)`: instead, where that is smaller and P at most `SMALL`.
        draws: a of each draw of labels, `(number of draws, R, N)` with R rows of F: its row of example n is
            Σ_r a_rn u_rn; or `None`, where drawn labels stand for the expectation, and all is pulled back.
        coordinates: c with Uᵀ c = the gradient of the likelihood part of L, `(R N,)`.
        layer_traces: tr(U_l U_lᵀ) of each layer for each r of all rows, `(number of layers, R)`.
        shares: w_n over their sum, `(N,)`.
        total_weight: The sum of w_n.
        roots: √w of a position of each example, `(N,)`: as often as that each row of EF is in -∇L, where all
            positions and outputs of an example weigh alike.
        etas: The coordinates of p(y | f) in each term of the loss, `(N, ..., C)`.
    """

    gram: Any
    rows: Any
    draws: Any
    coordinates: Any
    layer_traces: Any
    shares: Any
    total_weight: Any
    roots: Any
    etas: Any


@dataclass
class Layout:
    """Which rows are whose; known once the pass is traced.

    Attributes:
        examples: N.
        counts: R of "exact", "empirical", perhaps "gradient", and "sampled" (the number of draws).
        layers: Name and number of parameters of each entry of `layer_traces`.
        parameters: P.
        drawn: How many drawn labels of each example stand for the expectation over labels; 0 if it is exact.
        likelihoods: p(y | f) of each term of the loss.
    """

    examples: int
    counts: dict[str, int]
    layers: list[tuple[str, int]]
    parameters: int
    drawn: int = 0
    likelihoods: list[Likelihood] = field(default_factory=list)

    def rows(self, kind: str, draw: int | None = None) -> slice:
        """Rows of one kind, or of one draw of labels."""
        first = 0
        for name, count in self.counts.items():
            if name == kind:
                break
            first += count
        count = self.counts[kind]
        if draw is not None:
            first, count = first + draw, 1
        return slice(first * self.examples, (first + count) * self.examples)


EXACT, EMPIRICAL = ("exact", None), ("empirical", None)


def draws(layout: Layout) -> list[tuple[str, int | None]]:
    """The keys of all draws of labels."""
    return [("sampled", i) for i in range(layout.counts["sampled"])]


def joint_root(batch: Batch, draws: int, limits: Limits | None = None) -> tuple[JointRoot, Layout]:
    """One recorded pass over `batch`, with the vectors of all three kinds pulled back together.

    Each draw of labels is an estimate of F of its own: its rows are not divided by √(draws).

    Raises:
        TooManyRows: If they go beyond the `limits`.
    """
    recorded = Recorded(batch)
    drawn = 0 if limits is None else labels_for_exact(recorded, batch, draws, limits)
    groups, counts, coordinates = vectors_of(recorded.loss.heads, batch.seed, draws, drawn)
    placed = _placed(coordinates, counts)
    combined = None
    if not drawn:
        counts["sampled"] = draws
        combined = _in_rows(recorded.loss.heads, batch.seed, draws)
    rules = recorded.rules(groups)
    size = recorded.layer_calls[0].grads[0].shape[1]
    sizes = [sum(v.shape.num_elements() for v in rule.variables) for rule in rules]
    shares, total_weight = example_weights(recorded.loss.heads)
    parameters = sum(v.shape.num_elements() for v in batch.model.trainable_variables)
    layout = Layout(
        examples=size,
        counts=counts,
        layers=[(rule.layer_calls[0].layer.name, n) for rule, n in zip(rules, sizes)],
        parameters=parameters,
        drawn=drawn,
        likelihoods=[head.likelihood for head in recorded.loss.heads],
    )
    small = parameters <= min(SMALL, counts["exact"] * size)
    gram, rows, traces = (_rows if small else _gram)(rules, size, combined)
    return (
        JointRoot(
            gram=gram,
            rows=rows,
            draws=combined,
            coordinates=placed,
            layer_traces=traces,
            shares=shares,
            total_weight=total_weight,
            roots=tf.sqrt(mean_weights(recorded.loss.heads)),
            etas=[head.eta for head in recorded.loss.heads],
        ),
        layout,
    )


Groups = list[list[tuple[tf.Tensor, tf.Tensor]]]


def vectors_of(
    heads: list[Head], seed: tf.Tensor, draws: int, drawn: int = 0
) -> tuple[Groups, dict[str, int], dict[str, tf.Tensor | None]]:
    """V of all that is pulled back, weighted, in the order of the rows; R of each; and the coordinates that
    each has of the gradient.

    Draws of labels are among it where `drawn` labels stand for the expectation: else they are combinations of
    the rows of F.
    """
    # Labels in place of the expectation are not those of `Sampled`.
    exact = Drawn(drawn, tf.random.experimental.stateless_fold_in(seed, 1)) if drawn else Exact()
    kinds: dict[str, Fisher] = {"exact": exact, "empirical": Empirical()}
    groups: Groups = []
    counts: dict[str, int] = {}
    coordinates: dict[str, tf.Tensor | None] = {}
    for name, fisher in kinds.items():
        columns = fisher.columns(heads, seed)
        groups += columns.groups
        counts[name] = sum(group[0][1].shape[0] for group in columns.groups)
        coordinates[name] = columns.coordinates
    if coordinates["exact"] is None and coordinates["empirical"] is None:  # no rows hold the gradient
        weighted = [(eta, -v * head.root_weights) for (eta, v), head in zip(groups[-1], heads)]
        groups.append(weighted)
        counts["gradient"] = 1
        coordinates["gradient"] = tf.ones([1, tf.shape(weighted[0][1])[1]], weighted[0][1].dtype)
    if drawn:
        (own,) = Sampled(draws).columns(heads, seed).groups
        groups.append([(eta, v * np.sqrt(draws)) for eta, v in own])
        counts["sampled"] = draws
    return groups, counts, coordinates


def _placed(coordinates: dict[str, Any], counts: dict[str, int]) -> tf.Tensor:
    """The coordinates of one kind that has them, with zeros for the others, `(R N,)`."""
    # Those of EF first: they are bounded, those of the exact Fisher grow as a model becomes certain.
    order = ("empirical", "exact", "gradient")
    kind = next(kind for kind in order if coordinates.get(kind) is not None)
    above = sum(counts[other] for other in list(counts)[: list(counts).index(kind)])
    below = sum(counts.values()) - above - counts[kind]
    return tf.reshape(tf.pad(coordinates[kind], [[above, below], [0, 0]]), [-1])


def _in_rows(heads: list[Head], seed: tf.Tensor, draws: int) -> tf.Tensor:
    """a of each draw of labels, the same as those of `Sampled`, `(draws, R, N)`."""
    found = []
    for i, head in enumerate(heads):
        labels = Sampled(draws).labels(head.likelihood, head.eta, None, head_seed(seed, i))
        found.append(in_rows(head.likelihood, head.eta, labels))
    return tf.concat(found, 1)


def _gram(rules: list[layers.Rule], size: int, draws: tf.Tensor | None) -> Any:
    parts = alike([rule.gram([tf.ones((), v.dtype) for v in rule.variables]) for rule in rules])
    traces = [tf.reduce_sum(tf.reshape(tf.linalg.diag_part(part), [-1, size]), 1) for part in parts]
    if draws is not None:
        row = tf.range(draws.shape[1] * size)[:, tf.newaxis]
        column = tf.range(draws.shape[1]) * size + row % size  # the rows of the same example
        where = tf.stack([row + tf.zeros_like(column), column], 2)
        for i, part in enumerate(parts):
            within = tf.reshape(tf.gather_nd(part, where), [-1, size, draws.shape[1]])  # u_rn . u_sn
            a = tf.cast(draws, part.dtype)  # made in the dtype of the loss
            lengths = tf.reduce_sum(tf.einsum("drn,rns->dsn", a, within) * a, [1, 2])
            traces[i] = tf.concat([traces[i], lengths], 0)
    return tf.add_n(parts), None, tf.stack(traces)


def _rows(rules: list[layers.Rule], size: int, draws: tf.Tensor | None) -> Any:
    pieces, traces = [], []
    for rule in rules:
        own = tf.concat([tf.reshape(u, [u.shape[0], size, -1]) for u in rule.rows()], 2)
        pieces.append(tf.reshape(own, [-1, own.shape[2]]))
        lengths = tf.reduce_sum(tf.square(own), [1, 2])
        if draws is not None:
            of_draws = tf.einsum("drn,rnp->dnp", tf.cast(draws, own.dtype), own[: draws.shape[1]])
            lengths = tf.concat([lengths, tf.reduce_sum(tf.square(of_draws), [1, 2])], 0)
        traces.append(lengths)
    return None, tf.concat(alike(pieces), 1), tf.stack(alike(traces))
