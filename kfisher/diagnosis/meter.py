"""Measures a model on examples: one pass in TensorFlow, the rest in NumPy."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kfisher._common.models import tensors
from kfisher._common.threads import one_thread
from kfisher._keras.optimizers import inner
from kfisher._keras.private import no_strategy, second_moments
from kfisher.diagnosis.basis import Frame, eigenvalues_of_all, frame
from kfisher.diagnosis.comparison import compare
from kfisher.diagnosis.drawn_scores import DrawnScores
from kfisher.diagnosis.limits import MEMORY, Limits
from kfisher.diagnosis.measurement import Measurement
from kfisher.diagnosis.rows import JointRoot, Layout, joint_root
from kfisher.diagnosis.taken import Before, diagonals, rank_correlations
from kfisher.fisher import Empirical
from kfisher.jacobian.batch import Batch
from kfisher.likelihoods import Likelihood
from kfisher.likelihoods.of_model import of_model


class Meter:
    """Puts the three Fishers of a model beside each other, again and again.

    The pass is traced once for each shape of the examples.

    Args:
        model: A built and compiled model.
        draws: Positive integer, how many times labels are drawn from the model.
        seed: Integer, for those labels.
        likelihood: Instead of that of the compiled loss; defaults to that of the model's optimizer.
        max_memory: Bytes of what is formed.
    """

    def __init__(
        self,
        model: keras.Model,
        draws: int,
        seed: int,
        likelihood: Likelihood | None = None,
        max_memory: float = MEMORY,
    ):
        self.model, self._likelihood = model, of_model(model, likelihood)
        self._draws, self._seed, self._limits = draws, seed, Limits(max_memory)
        self._layouts: dict[Any, Layout] = {}
        self._held: list[keras.Variable] = []
        self._pass = tf.function(self._traced, autograph=False)
        self._diagonals = tf.function(self._traced_diagonals, autograph=False)

    @contextlib.contextmanager
    def _batch(self, x: Any, y: Any, sample_weight: Any, seed: Any, values: Any = None) -> Iterator[Batch]:
        """A batch, in a block in which variables that are held have the given values."""
        state = list(zip(self._held, values or ()))
        options: dict[str, Any] = {"training": False, "state": state}
        with no_strategy(), keras.StatelessScope(state) if state else contextlib.nullcontext():
            yield Batch(self.model, x, y, sample_weight, Empirical(), seed, self._likelihood, **options)

    def _traced_diagonals(self, *arguments: Any) -> dict[str, tf.Tensor]:
        with self._batch(*arguments) as batch:
            return diagonals(batch)

    def _traced(self, x: Any, *arguments: Any) -> Any:
        with self._batch(x, *arguments) as batch:
            root, layout = joint_root(batch, self._draws, self._limits)
        self._layouts[_shapes(x)] = layout
        return {name: value for name, value in vars(root).items() if value is not None}

    @property
    def traces(self) -> int:
        """For how many shapes it was traced."""
        return len(self._layouts)

    def is_traced(self, x: Any) -> bool:
        """True if examples of this shape were measured before."""
        return _shapes(x) in self._layouts

    def __call__(
        self,
        x: Any,
        y: Any,
        sample_weight: Any = None,
        damping: float | None = None,
        step: int = 0,
        held: Any = None,
    ) -> tuple[Measurement, Frame]:
        """The numbers, and what they came from.

        Args:
            x, y, sample_weight: Examples as `train_step` gets them, as tensors.
            damping: λ, or `None`; see `frame`.
            step: Of the optimizer; also chooses the labels.
            held: `(variable, value)` pairs, the same variables each time: they are measured at these values.

        Raises:
            FloatingPointError: If the matrices have entries that are not finite.
            kfisher.diagnosis.limits.TooManyRows: If fewer examples fit into the memory.
            ValueError: If the loss has no likelihood.
        """
        started = time.perf_counter()
        root, layout = self._root(x, y, sample_weight, step, held)
        with one_thread():
            draw = DrawnScores(layout.likelihoods, root.etas, self._seed_of(step))
            compared = frame(root, layout, damping, draw)
            measurement = compare(compared, root, step)
        measurement.seconds = time.perf_counter() - started
        return measurement, compared

    def spectra(self, x: Any, y: Any, sample_weight: Any = None, step: int = 0) -> dict[Any, np.ndarray]:
        """Only the eigenvalues of each kind and draw, descending; arguments and errors as above."""
        root, layout = self._root(x, y, sample_weight, step)
        with one_thread():
            return eigenvalues_of_all(root, layout)

    def _root(
        self, x: Any, y: Any, sample_weight: Any, step: int, held: Any = None
    ) -> tuple[JointRoot, Layout]:
        with no_strategy():
            found = _once(self._pass, x, y, sample_weight, self._seed_of(step), self._values(held))
        etas = found.pop("etas")
        arrays = {name: _as_array(t) for name, t in found.items()}
        missing = dict.fromkeys(("gram", "rows", "draws"))
        return JointRoot(**{**missing, **arrays}, etas=etas), self._layouts[_shapes(x)]

    def _values(self, held: Any) -> list[tf.Tensor]:
        self._held = [variable for variable, _ in held or ()]
        return [value for _, value in held or ()]

    def _seed_of(self, step: int) -> tf.Tensor:
        return tf.constant([self._seed, step % 2**31])

    def before(
        self, x: Any, y: Any, sample_weight: Any, step: int, compared: Frame, held: Any = None
    ) -> Before:
        """The same examples at these weights, to look at the step that is taken from here."""
        with self._batch(x, y, sample_weight, self._seed_of(step), self._values(held)) as batch:
            return Before(batch, compared, self._draws)

    def second_moments(
        self, x: Any, y: Any, sample_weight: Any, step: int, held: Any = None
    ) -> dict[str, float]:
        """Rank correlations of the second moments that the optimizer keeps with the diagonals of F and EF.

        Empty if it keeps none, or none yet.
        """
        kept = second_moments(inner(self.model.optimizer))
        if [v.shape for v in kept] != [v.shape for v in self.model.trainable_variables] or not step:
            return {}
        values = {id(variable): value for variable, value in held or ()}
        with no_strategy():
            found = _once(self._diagonals, x, y, sample_weight, self._seed_of(step), self._values(held))
        moments = [values.get(id(v), tf.convert_to_tensor(v.value)) for v in kept]
        return rank_correlations(moments, {name: t.numpy() for name, t in found.items()})


def _once(function: Any, *arguments: Any) -> Any:
    """The function, without TensorFlow's warning where many models are measured: each is traced but once."""
    return function.get_concrete_function(*arguments)(*arguments)


def variables_of(model: keras.Model) -> list[keras.Variable]:
    """All that is measured of a model and its optimizer."""
    own = [*model.trainable_variables, *model.non_trainable_variables]
    return own + second_moments(inner(model.optimizer))


def _as_array(tensor: tf.Tensor) -> np.ndarray:
    """The memory of a tensor as an array, or a copy where TensorFlow (2.18) does not lend it."""
    return np.from_dlpack(tensor) if hasattr(type(tensor), "__dlpack__") else tensor.numpy()


def _shapes(x: Any) -> tuple:
    return tuple((tuple(t.shape), t.dtype.name) for t in keras.tree.flatten(x))


def examples(data: Any, most: int | None) -> tuple[Any, Any, Any]:
    """x, y and sample_weight of a batch as tensors, the first `most` examples of each."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    found = tensors(x=x, y=y, sample_weight=sample_weight)
    return tuple(keras.tree.map_structure(lambda t: t if t is None else t[:most], found))
