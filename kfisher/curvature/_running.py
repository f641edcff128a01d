"""Curvature that runs over batches: exponential averages of what each block's examples contribute."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.checks import positive_integer, probability
from kfisher._common.rows import of_shape
from kfisher._common.vectors import Tensors, all_finite, path_of
from kfisher.curvature._base import Curvature
from kfisher.curvature._examples import moment_of
from kfisher.curvature._parts import Parts
from kfisher.curvature._schedule import due, is_far
from kfisher.jacobian.batch import Batch
from kfisher.jacobian.layers.blocks import Block
from kfisher.jacobian.regularisers import ridge_of
from kfisher.likelihoods.weighted import example_weights, weights_of


class Running(Curvature):
    """Exponential averages over batches, without bias towards their start at zero.

        average_t = average_{t-1} + (1 - decay) / (1 - decay^t) (statistic_t - average_{t-1})

    The batch is run through the model at steps 0, 1, 2, 4, 8, ... and from then on at every multiple of
    `update_every`; sooner where the weights have moved far: after half as many steps of the full length that
    the trust region allows. A batch whose statistics are not finite is left out.

    Subclasses say which statistics of a block they average, and solve with the averages.

    Args:
        decay: Float in [0, 1).
        update_every: Positive integer, in steps.
        max_examples: Positive integer, or `None` for all: of a batch of twice as many and more every k-th
            example is taken. Statistics of a part vary more, and are averaged (Martens & Grosse 2015,
            section 8).
    """

    corrected = True
    needs_blocks = True
    averages_batches = True
    accumulates = True
    refines = False  # whether it has a `refine` of its own
    symmetric = False  # whether statistics with three axes are symmetric matrices

    def __init__(self, decay: float, update_every: int, max_examples: int | None):
        self.decay = probability("decay", decay)
        self.update_every = positive_integer("update_every", update_every)
        self.max_examples = max_examples
        if max_examples is not None:
            kind = "a positive integer, or None"
            self.max_examples = positive_integer("max_examples", max_examples, kind)

    def build(self, add_variable: Any, variables: Any, blocks: Any, parts: Any) -> None:
        self.claim()
        self.blocks = blocks
        self.parts = parts
        self._shapes = [v.shape for v in variables]
        self._ridge = [_mean_ridge(variables, block) for block in blocks]
        kinds = [tf.as_dtype(variables[block.variables[0]].dtype) for block in blocks]
        self._dtypes = [kind if kind.size >= 4 else tf.float32 for kind in kinds]
        in_blocks = {i for block in blocks for i in block.variables}
        # Variables that the model does not use.
        self._outside = [i for i in range(len(variables)) if i not in in_blocks]
        self._add_variable = add_variable
        self.updates = self.add((), tf.int32, "updates")
        self._examples = self.add((), tf.float32, "examples")
        self._weights = self.add((4,), tf.float32, "weights_of_batch")
        self._path = self.add((), tf.float32, "path_since_update")
        self.names = [path_of(variables[block.variables[0]]) for block in blocks]
        self.averages = [
            [self.add(shape, dtype, f"{name}_{kind}") for kind, shape in self.statistics(block).items()]
            for block, dtype, name in zip(blocks, self._dtypes, self.names)
        ]
        self._so_far = Parts(self.add, [*self.averages, [self._weights]]) if parts > 1 else None

    def add(self, shape: Any, dtype: tf.DType, name: str) -> keras.Variable:
        """A variable of zeros that is saved with the optimizer."""

        # An initializer would go through float32 and floatx.
        def zeros(shape: Any, dtype: Any = dtype) -> Any:
            return tf.zeros(shape, dtype)

        return self._add_variable(shape, zeros, dtype=dtype.name, name=name)

    def add_like(self, variable: keras.Variable, name: str) -> keras.Variable:
        """One in the shape and dtype of another, whose name it carries on."""
        return self.add(variable.shape, tf.as_dtype(variable.dtype), f"{variable.name}_{name}")

    # --- what subclasses say ----------------------------------------------------------------------

    def statistics(self, block: Block) -> dict[str, tuple[int, ...]]:
        """Name and shape of each average that is kept of a block."""
        raise NotImplementedError

    def measure(self, block: Block, products: Any, weights: tf.Tensor, cache: dict) -> list[tf.Tensor]:
        """The statistics of one batch, in that order."""
        raise NotImplementedError

    def updated(self, step: tf.Tensor, damping: tf.Tensor, xla: bool) -> None:
        """Called once in each step, when the averages are up to date."""

    def solve_block(self, number: int, gradient: tf.Tensor, damping: tf.Tensor, xla: bool) -> tf.Tensor:
        """The solution for one block, `(groups, inputs, outputs)`; a single group may lose its axis.

        What the ridge of the block adds to the damping, `damping_of` knows.
        """
        raise NotImplementedError

    def damping_of(self, number: int, damping: tf.Tensor) -> tf.Tensor:
        """The damping of a block, its ridge included, in its dtype."""
        return tf.cast(damping, self._dtypes[number]) + self._ridge[number]

    # --- one step ---------------------------------------------------------------------------------

    def observe(self, batch: Batch, step: Any, damping: Any, part: Any) -> None:
        last = tf.equal(part, self.parts - 1)
        # Also until there is one: a bad first batch would cost all steps up to the next that is due.
        none = tf.equal(self.updates.value, 0)
        wanted = none | due(step, self.update_every) | is_far(self._path, self.update_every)
        apart = not batch.inlined
        replicas.cond(wanted, lambda: self._update(batch, step, part, last), lambda: None, apart)
        if self.parts == 1:  # a branch more is a long list of tensors handed into it
            self.updated(step, damping, batch.xla)
        else:
            replicas.cond(last, lambda: self.updated(step, damping, batch.xla), lambda: None)

    def _update(self, batch: Batch, step: tf.Tensor, part: tf.Tensor, last: tf.Tensor) -> None:
        batch = batch.part(self.max_examples)
        root = batch.square_root
        shares, total_weight = example_weights(root.loss.heads)
        weights = weights_of(root.loss.heads)
        if replicas.count() > 1:  # of the whole batch: what is a mean over it is a sum over its parts
            own_weight = total_weight
            total_weight, weights = replicas.total([own_weight, weights])
            shares *= tf.math.divide_no_nan(own_weight, total_weight)
        by_variables = {
            tuple(id(v) for v in block.variables): products
            for rule in root.rules
            for block, products in rule.outer_products()
        }
        own = [tuple(id(root.variables[i]) for i in block.variables) for block in self.blocks]
        products = [by_variables.pop(key, None) for key in own]  # None for layers that were not reached
        if by_variables:
            raise ValueError(
                f"The state of this {type(self).__name__} was made for another model: its layers group their "
                "variables in another way. Compile the model with a new optimizer."
            )
        measured: list[Tensors] = []
        cache: dict = {}
        for block, examples, averages in zip(self.blocks, products, self.averages):
            if examples is None:
                measured.append([tf.zeros(v.shape, v.dtype) for v in averages])
            else:
                found = self.measure(block, examples, shares, cache)
                found = [of_shape(t, v.shape) for t, v in zip(found, averages)]
                measured.append([tf.cast(t, v.dtype) for t, v in zip(found, averages)])
        squares, loss = tf.reduce_sum(tf.square(tf.cast(shares, tf.float32))), root.loss.above_least
        if replicas.count() > 1:
            crossing = [
                [None] * len(terms) if p is None else self.examples_of(block, p, shares, batch)
                for block, p, terms in zip(self.blocks, products, measured)
            ]
            measured, squares, loss = self._of_all(measured, crossing, squares, loss)
        measured.append([weights])
        accepted = tf.convert_to_tensor(batch.accepts(batch, loss))
        if self._so_far is not None:
            totals = [self.totals(block, terms, total_weight) for block, terms in zip(self.blocks, measured)]
            measured = self._so_far.statistics(measured, [*totals, [None]], part)
            squares = self._so_far.squares(squares, total_weight, part)
            accepted = self._so_far.accepted(accepted, part)
        usable = all_finite([self.telling(t) for terms in measured for t in terms])
        usable &= squares > 0  # a batch in which no example counts says nothing
        usable &= last & accepted
        # As many examples of equal weight would make an average as certain; few, where few weigh most.
        size = tf.math.divide_no_nan(1.0, squares)
        if self.parts == 1:  # a branch more is a long list of tensors handed into it
            self._take_in(usable, measured, size)
        else:
            replicas.cond(usable, lambda: self._take_in(usable, measured, size), lambda: None)
        if self.refines:
            replicas.cond(usable, lambda: self.refine(products, step, batch.xla), lambda: None)

    def _take_in(self, usable: tf.Tensor, measured: list[Tensors], size: tf.Tensor) -> None:
        """The averages and counts with a batch of so many examples taken in, if it is usable."""
        self.updates.assign_add(tf.cast(usable, tf.int32))
        self._path.assign(tf.where(usable, 0.0, self._path.value))
        examples = tf.convert_to_tensor(self._examples.value)
        self._examples.assign(tf.where(usable, self.decay * examples + size, examples))
        self.mix([*self.averages, [self._weights]], measured, usable)

    def _of_all(self, measured: list[Tensors], crossing: list, squares: tf.Tensor, loss: tf.Tensor) -> tuple:
        """Statistics of the whole batch from those of its parts on all replicas, and the sums of the rest."""
        parts, kinds = [], []
        for block, terms, own in zip(self.blocks, measured, crossing):
            for term, total, instead in zip(terms, self.totals(block, terms, None), own):
                if instead is not None:
                    parts.append(tf.cast(instead, term.dtype))
                else:
                    parts += [term] if total is None else [tf.cast(total, term.dtype) * term, total]
                kinds.append("examples" if instead is not None else "sum" if total is None else "mean")
        *crossed, squares, loss = replicas.total([*parts, squares, loss], self.symmetric)
        sums, kind = iter(crossed), iter(kinds)

        def whole() -> tf.Tensor:
            term, of = next(sums), next(kind)
            if of == "examples":
                return moment_of(term)
            return tf.math.divide_no_nan(term, tf.cast(next(sums), term.dtype)) if of == "mean" else term

        return [[whole() for _ in terms] for terms in measured], squares, loss

    def examples_of(self, block: Block, products: Any, weights: tf.Tensor, batch: Batch) -> list:
        """For each statistic of this part of a batch what crosses instead (see `_examples`), or `None`."""
        return [None] * len(self.statistics(block))

    def totals(self, block: Block, terms: Tensors, weight: tf.Tensor | None) -> list[tf.Tensor | None]:
        """For each statistic that is a mean over examples, the total that it is a mean of; `None` for sums.

        Args:
            block: The block.
            terms: Its statistics on one batch.
            weight: The sum of w_n over that batch; `None` for a part of a batch, the means over which are
                already those of the examples in the whole.
        """
        return [None] * len(terms)

    def mix(self, averages: list[list[keras.Variable]], measured: list[Tensors], usable: tf.Tensor) -> None:
        """The averages with the statistics of update t taken in, if these are usable."""
        rate = tf.constant(1 - self.decay, tf.float64)
        if self.corrected:
            rate /= 1 - tf.constant(self.decay, tf.float64) ** tf.cast(self.updates.value, tf.float64)
        rates = {dtype: tf.cast(rate, dtype) for dtype in {t.dtype for terms in measured for t in terms}}
        for variables, terms in zip(averages, measured):
            for average, term in zip(variables, terms):
                before = tf.convert_to_tensor(average.value)  # `assign_add` would read it once more
                after = before + rates[term.dtype] * (term - before)
                average.assign(tf.where(usable, after, before))

    def telling(self, statistic: tf.Tensor) -> tf.Tensor:
        """A part of a statistic that is finite only if all of it is; no diagonal entry is negative."""
        return statistic

    def refine(self, products: list, step: tf.Tensor, xla: bool) -> None:
        """Called after an update with what the examples contribute to each block, or `None`."""

    def solve(self, batch: Batch, gradient: Any, damping: Any) -> Any:
        solution = list(gradient)
        for i in self._outside:
            solution[i] = gradient[i] / tf.cast(damping, gradient[i].dtype)
        for number, (block, dtype) in enumerate(zip(self.blocks, self._dtypes)):
            matrix = tf.cast(block.to_matrix([gradient[i] for i in block.variables]), dtype)
            solved = self.solve_block(number, matrix, damping, batch.xla)
            parts = block.from_matrix(solved, [self._shapes[i] for i in block.variables])
            for i, part in zip(block.variables, parts):
                solution[i] = tf.cast(part, gradient[i].dtype)
        return solution

    @property
    def examples(self) -> Any:
        return self._examples.value

    def moved(self, share: Any) -> None:
        self._path.assign_add(tf.cast(share, tf.float32))

    def ready(self) -> Any:
        return self.updates.value > 0

    def get_config(self) -> dict[str, Any]:
        names = ("decay", "update_every", "max_examples")
        return {name: getattr(self, name) for name in names}


def _mean_ridge(variables: list[keras.Variable], block: Block) -> float:
    """The diagonal that L2 regularisers add, averaged over the entries of a block."""
    sizes = [math.prod(variables[i].shape) for i in block.variables]
    return sum(n * ridge_of(variables[i]) for n, i in zip(sizes, block.variables)) / sum(sizes)
