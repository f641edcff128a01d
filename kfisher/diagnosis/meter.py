"""Measures a model on examples: one pass in TensorFlow, the rest in NumPy."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kfisher._common.models import tensors
from kfisher._common.threads import one_thread
from kfisher._keras.optimizers import inner
from kfisher._keras.private import second_moments
from kfisher.diagnosis.basis import Frame, decompose, frame
from kfisher.diagnosis.comparison import compare
from kfisher.diagnosis.measurement import Measurement
from kfisher.diagnosis.rows import JointRoot, Layout, joint_root
from kfisher.diagnosis.taken import Before, diagonals, rank_correlations
from kfisher.fisher import Empirical
from kfisher.jacobian.batch import Batch
from kfisher.likelihoods import Likelihood
from kfisher.likelihoods.of_model import of_model

MOST_ROWS = 4096  # of the exact Fisher: 256 examples of 16 outputs; their Gram matrix takes 67 MB


class TooManyRows(ValueError):
    """The matrices would be too large; `examples` is how many would fit in."""

    def __init__(self, layout: Layout):
        self.examples = max(1, MOST_ROWS // layout.counts["exact"])
        self.reason = (
            f"the exact Fisher has {layout.counts['exact']} rows for each (outputs times positions), and at "
            f"most {MOST_ROWS} rows are compared"
        )
        super().__init__(
            f"Pass fewer examples, {self.examples} at most: {self.reason}. Received: {layout.examples} "
            "examples"
        )


class Meter:
    """Puts the three Fishers of a model beside each other, again and again.

    The pass is traced once for each shape of the examples.

    Args:
        model: A built and compiled model.
        draws: Positive integer, how many times labels are drawn from the model.
        seed: Integer, for those labels.
        likelihood: Instead of that of the compiled loss; defaults to that of the model's optimizer.
    """

    def __init__(self, model: keras.Model, draws: int, seed: int, likelihood: Likelihood | None = None):
        self.model, self._likelihood = model, of_model(model, likelihood)
        self._draws, self._seed = draws, seed
        self._layouts: dict[Any, Layout] = {}
        self._pass = tf.function(self._traced, autograph=False)
        self._diagonals = tf.function(self._traced_diagonals, autograph=False)

    def _batch(self, x: Any, y: Any, sample_weight: Any, seed: Any) -> Batch:
        return Batch(self.model, x, y, sample_weight, Empirical(), seed, self._likelihood, training=False)

    def _traced_diagonals(self, x: Any, y: Any, sample_weight: Any, seed: Any) -> dict[str, tf.Tensor]:
        return diagonals(self._batch(x, y, sample_weight, seed))

    def _traced(self, x: Any, y: Any, sample_weight: Any, seed: Any) -> Any:
        batch = self._batch(x, y, sample_weight, seed)
        root, layout = joint_root(batch, self._draws)
        rows = layout.counts["exact"] * layout.examples
        if root.gram is not None and rows > MOST_ROWS:
            raise TooManyRows(layout)
        self._layouts[_shapes(x)] = layout
        return {name: value for name, value in vars(root).items() if value is not None}

    def is_traced(self, x: Any) -> bool:
        """True if examples of this shape were measured before."""
        return _shapes(x) in self._layouts

    def __call__(
        self, x: Any, y: Any, sample_weight: Any = None, damping: float | None = None, step: int = 0
    ) -> tuple[Measurement, Frame]:
        """The numbers, and what they came from.

        Args:
            x, y, sample_weight: Examples as `train_step` gets them, as tensors.
            damping: λ, or `None`; see `frame`.
            step: Of the optimizer; also chooses the labels.

        Raises:
            FloatingPointError: If the matrices have entries that are not finite.
            TooManyRows: If there are more outputs and positions than can be compared.
            ValueError: If the loss has no likelihood.
        """
        started = time.perf_counter()
        root, layout = self._root(x, y, sample_weight, step)
        with one_thread():
            compared = frame(root, layout, damping)
            measurement = compare(compared, root, step)
        measurement.seconds = time.perf_counter() - started
        return measurement, compared

    def spectra(self, x: Any, y: Any, sample_weight: Any = None, step: int = 0) -> dict[Any, np.ndarray]:
        """Only the eigenvalues of each kind and draw, descending; arguments and errors as above."""
        root, layout = self._root(x, y, sample_weight, step)
        with one_thread():
            return {key: values for key, (values, _) in decompose(root, layout)[1].items()}

    def _root(self, x: Any, y: Any, sample_weight: Any, step: int) -> tuple[JointRoot, Layout]:
        found = self._pass(x, y, sample_weight, self._seed_of(step))
        arrays = {name: _as_array(t) for name, t in found.items()}
        return JointRoot(**{"gram": None, "rows": None, **arrays}), self._layouts[_shapes(x)]

    def _seed_of(self, step: int) -> tf.Tensor:
        return tf.constant([self._seed, step % 2**31])

    def before(self, x: Any, y: Any, sample_weight: Any, step: int, compared: Frame) -> Before:
        """The same examples at these weights, to look at the step that is taken from here."""
        return Before(self._batch(x, y, sample_weight, self._seed_of(step)), compared, self._draws)

    def second_moments(self, x: Any, y: Any, sample_weight: Any, step: int) -> dict[str, float]:
        """Rank correlations of the second moments that the optimizer keeps with the diagonals of F and EF.

        Empty if it keeps none, or none yet.
        """
        kept = second_moments(inner(self.model.optimizer))
        if [v.shape for v in kept] != [v.shape for v in self.model.trainable_variables] or not step:
            return {}
        found = self._diagonals(x, y, sample_weight, self._seed_of(step))
        return rank_correlations(kept, {name: t.numpy() for name, t in found.items()})


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
