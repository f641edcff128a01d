"""The rules of layers against automatic differentiation: Aᵀ u in two ways, once for every trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from kfisher._common.vectors import Tensors, stacked
from kfisher._keras.private import compiled_by_xla, cond_of_functions
from kfisher.jacobian.layers import Rule
from kfisher.jacobian.layers.base import combine
from kfisher.jacobian.plan import Plan

if TYPE_CHECKING:
    from kfisher.jacobian.batch import Batch

_HALF = (tf.float16, tf.bfloat16)


class SelfCheck:
    """A second tape around a recorded pass, that watches the parameters instead of the layers.

    A rule that does not fit its layer, or a variable that is used where no recorded call shows it, gives
    another Aᵀ u than this tape, for all but some u of measure zero. In a graph the comparison runs when the
    graph runs for the first time; XLA drops assertions, so there it is left out.

    Attributes:
        values: For the pass, the trainable variables as tensors; `None` if there is nothing to check.
    """

    def __init__(self, plan: Plan, batch: Batch):
        self._plan = plan
        self._variables = list(batch.model.trainable_variables)
        done = tf.executing_eagerly() and plan.checked
        wanted = not (done or batch.xla or compiled_by_xla())
        self.values: Tensors | None = None
        if wanted:  # copies: in a scope that holds the variables `_read` has the same tensors
            self.values = [tf.identity(tf.convert_to_tensor(v.value)) for v in self._variables]
        # Both what Keras reads in the scope of a pass and what is read past it.
        self._read = [v.value for v in self._variables]
        self._tape = tf.GradientTape(watch_accessed_variables=False)

    def __enter__(self) -> SelfCheck:
        if self.values is not None:
            self._tape.__enter__()
            self._tape.watch([*self.values, *self._read])
        return self

    def __exit__(self, *error: Any) -> None:
        if self.values is not None:
            self._tape.__exit__(*error)

    def __call__(self, rules: list[Rule], groups: list[list[tuple[tf.Tensor, tf.Tensor]]]) -> None:
        """Raises unless the rules say of these vectors what the tape says."""
        if self.values is None:
            return
        for rule in rules:
            rule.prepare()  # wanted in any case: once, here and later
        if tf.executing_eagerly():
            names = [name for name, bad in zip(self._names(rules), self._wrong(rules, groups).numpy()) if bad]
            if names:
                raise ValueError(f"{_MESSAGE} {', '.join(names)}")
            self._plan.checked = True
            return
        pending = [True]  # of this graph

        def first() -> np.ndarray:
            return np.array(bool(pending) and pending.pop())

        def compare() -> Any:
            wrong = self._wrong(rules, groups)
            names = tf.boolean_mask(tf.constant(self._names(rules)), wrong)
            return tf.debugging.Assert(~tf.reduce_any(wrong), [_MESSAGE, names], summarize=10)

        cond_of_functions(tf.ensure_shape(tf.numpy_function(first, [], tf.bool), []), compare, tf.no_op)

    def _names(self, rules: list[Rule]) -> list[str]:
        layers = ["/".join(dict.fromkeys(call.layer.path for call in rule.layer_calls)) for rule in rules]
        named = [f"{name} (rule {rule.name!r})" for name, rule in zip(layers, rules)]
        return named + [f"{v.path} (no rule)" for v in self._left(rules)]

    def _left(self, rules: list[Rule]) -> list:
        covered = {id(v) for rule in rules for v in rule.variables}
        return [v for v in self._variables if id(v) not in covered]

    def _wrong(self, rules: list[Rule], groups: Any) -> tf.Tensor:
        """For each rule, and each variable without one, whether its part of Aᵀ u is not that of the tape."""
        grads = rules[0].layer_calls[0].grads[0]
        u = tf.random.stateless_normal(tf.shape(grads)[:2], [1, 2], dtype=tf.float64)
        first, targets, cotangents = 0, [], []
        for group in groups:
            count = group[0][1].shape[0]
            for output, vectors in group:
                targets.append(output)
                cotangents.append(combine(u if len(groups) == 1 else u[first : first + count], vectors))
            first += count
        count, expected = len(self._variables), {}
        found = self._tape.gradient(targets, [*(self.values or []), *self._read], cotangents)
        for v, *parts in zip(self._variables, found[:count], found[count:]):
            known = [tf.convert_to_tensor(g) for g in parts if g is not None]
            expected[id(v)] = tf.add_n(known) if known else tf.zeros(v.shape, v.dtype)
        u = tf.cast(u, grads.dtype)
        actual = [rule.rmatvec(u) for rule in rules]
        reference = [[expected[id(v)] for v in rule.variables] for rule in rules]
        for v in self._left(rules):
            reference.append([expected[id(v)]])
            actual.append([tf.zeros_like(expected[id(v)])])
        sizes = _lengths(reference)
        errors = _lengths(
            [[tf.cast(p, q.dtype) - q for p, q in zip(*pair)] for pair in zip(actual, reference)]
        )
        relative, absolute = self._tolerances(rules)
        # What is not finite on either side is told of elsewhere.
        return errors > relative * sizes + absolute * tf.norm(sizes)

    def _tolerances(self, rules: list[Rule]) -> tuple[float, float]:
        """Tolerance of a layer, relative to its own length and to that of all: rounding."""
        dtypes = [tf.as_dtype(call.layer.compute_dtype) for rule in rules for call in rule.layer_calls]
        if any(dtype in _HALF for dtype in dtypes):
            return 0.5, 0.1
        return (1e-6, 1e-10) if all(dtype == tf.float64 for dtype in dtypes) else (1e-2, 1e-4)


def _lengths(parts: list[Tensors]) -> tf.Tensor:
    """The Euclidean length of each part, float64."""
    flat = [tf.cast(t, tf.float32) if t.dtype in _HALF else t for part in parts for t in part]
    of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return tf.sqrt(2 * tf.math.segment_sum(stacked([tf.nn.l2_loss(t) for t in flat]), of))


_MESSAGE = (
    "The rows of the Fisher's square root are not the derivative of the model that automatic differentiation "
    "gives: a layer uses its variables outside of its call, or its `call` is not what its rule knows. Use "
    "`curvature='matrix_free'`, or put that use into one layer that owns the variables. Received: layers:"
)
