"""The Fisher matrix of a model on given data, as a linear operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher import fisher as fishers
from kfisher._common import checks, memory
from kfisher._common.models import built, has_loss, tensors
from kfisher._common.vectors import alike, flatten, unflatten
from kfisher._keras.private import no_strategy
from kfisher.damped_operator import DampedFisherOperator
from kfisher.jacobian.batch import Batch
from kfisher.likelihoods import Likelihood, of_model


class FisherOperator(tf.linalg.LinearOperator):
    """F = Σ_n w_n J_nᵀ V_n V_nᵀ J_n as a `tf.linalg.LinearOperator` of shape `(P, P)`.

    P runs over `model.trainable_variables` in their order, each flattened row-major. F is in the units of
    the loss that Keras minimises: for `"exact"` it is the generalised Gauss-Newton matrix of the compiled
    loss wherever the two coincide, plus the Hessian of L2 regularisers.

    Products never form an N × P tensor for dense layers; `to_dense`, `diag_part` and `trace` do.

    F is self-adjoint and positive semidefinite, and in general singular: it has no inverse, determinant or
    Cholesky factor. `F.damped(damping)`, that is F + damping I, has all of them.

    Args:
        model: A built `keras.Model`.
        x: Inputs, as for `model.fit`: one batch, arrays or tensors.
        y: Labels; needed for `"empirical"` only.
        fisher: `"exact"`, `"sampled"`, `"empirical"` or an instance. Defaults to `"exact"`.
        sample_weight: As for `model.fit`.
        loss: As for `model.compile`; by default the loss that the model is compiled with.
        seed: Integer, for labels drawn from the model. Defaults to `0`.
        training: Whether layers run in training mode (dropout; batch statistics). Defaults to `False`.
        likelihood: A `kfisher.likelihoods.Likelihood`, instead of that of the loss. Defaults to the
            `likelihood` of the model's optimizer, if it has one and no `loss` is given.

    Raises:
        ValueError: If there is no loss, the loss has no likelihood, labels are needed and missing, or an
            argument is wrong; from a method that has no meaning for a singular matrix; and where what is
            asked for does not fit into memory.

    Reference:
        Kunstner, Balles, Hennig 2019, equations (3)-(5); Martens 2020, section 5.

    Example:

    >>> F = kfisher.FisherOperator(model, x)
    >>> F.matvec(tf.ones(F.shape[-1]))
    >>> F.eigvals()
    >>> F.damped(1e-3).solvevec(tf.ones(F.shape[-1]))
    """

    def __init__(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        *,
        fisher: str | fishers.Fisher = "exact",
        sample_weight: Any = None,
        loss: Any = None,
        seed: int = 0,
        training: bool = False,
        likelihood: Likelihood | None = None,
    ):
        parameters = {
            "model": model,
            "x": x,
            "y": y,
            "fisher": fisher,
            "sample_weight": sample_weight,
            "loss": loss,
            "seed": seed,
            "training": training,
            "likelihood": likelihood,
        }
        built("model", model)
        fisher = fishers.get(fisher)
        seed, training = checks.seed("seed", seed), checks.boolean("training", training)
        # A loss of its own has nothing to do with what the optimizer was told.
        likelihood = of_model.of_model(model, likelihood) if loss is None else of_model.get(likelihood)
        if x is None:
            raise ValueError("F is that of a model on examples. Received: x=None")
        x, y, sample_weight = tensors(x=x, y=y, sample_weight=sample_weight)
        compute_loss = _compute_loss(model, loss, y)
        with no_strategy():
            batch = Batch(
                model,
                x,
                y,
                sample_weight,
                fisher,
                seed=tf.constant([seed, 0]),
                likelihood=likelihood,
                training=training,
                compute_loss=compute_loss,
            )
            self.root = batch.square_root
        self._like = [tf.zeros(v.shape, v.dtype) for v in self.root.variables]
        self._size = sum(v.shape.num_elements() for v in self._like)
        super().__init__(
            dtype=alike([tf.zeros((), tf.float32), *self._like])[0].dtype,  # rows are in no half precision
            is_self_adjoint=True,
            is_square=True,
            parameters=parameters,
            name="FisherOperator",
        )

    def damped(self, damping: float) -> DampedFisherOperator:
        """F + damping I, a positive definite linear operator, with `solve`, `log_abs_determinant` and so on.

        Args:
            damping: Positive float, in the units of F (loss / parameter²).

        Raises:
            ValueError: If `damping` is not a positive float.

        Example:

        >>> damped = kfisher.FisherOperator(model, x).damped(1e-3)
        >>> damped.solvevec(gradient)
        >>> tf.linalg.experimental.conjugate_gradient(damped, gradient).x
        """
        return DampedFisherOperator(self, damping)

    def _shape(self) -> Any:
        return tf.TensorShape([self._size, self._size])

    def _shape_tensor(self) -> Any:
        return tf.constant([self._size, self._size])

    def _product(self, vector: Any) -> Any:
        """Aᵀ A v + ridge * v."""
        vectors = unflatten(vector, self._like)
        products = self.root.rmatvec(self.root.matvec(vectors))
        products = [p + d * v for p, d, v in zip(products, self.root.ridge, vectors)]
        return tf.cast(flatten(products), self.dtype)

    def _matvec(self, x: Any, adjoint: Any = False) -> Any:
        return self._product(x) if x.shape.rank == 1 else super()._matvec(x, adjoint)

    def _matmul(self, x: Any, adjoint: Any = False, adjoint_arg: Any = False) -> Any:
        columns = x if adjoint_arg else tf.linalg.matrix_transpose(x)
        # Converting all that is called would take seconds.
        product = tf.autograph.experimental.do_not_convert(self._product)
        products = tf.map_fn(product, tf.reshape(columns, [-1, self._size]))
        return tf.linalg.matrix_transpose(tf.reshape(products, tf.shape(columns)))

    def _to_dense(self) -> Any:
        memory.require(
            2.0 * self._size**2 * self.dtype.size,
            "The dense matrix",
            "Use products (`matvec`), or kfisher.spectra for eigenvalues.",
            parameters=self._size,
        )
        rows = self.root.rows()
        matrix = tf.matmul(rows, rows, transpose_a=True)
        return tf.linalg.set_diag(matrix, tf.linalg.diag_part(matrix) + self._ridge())

    def _diag_part(self) -> Any:
        return tf.reduce_sum(tf.square(self.root.rows()), 0) + self._ridge()

    def _eigvals(self) -> Any:
        """Ascending; through the Gram matrix A Aᵀ where that is smaller, as it shares all but zeros."""
        count = self.root.num_rows
        if any(self.root.ridge) or tf.is_tensor(count) or count >= self._size:
            return tf.linalg.eigvalsh(self.to_dense())
        gram = self.root.gram([tf.ones((), v.dtype) for v in self._like])
        zeros = tf.zeros(self._size - count, self.dtype)
        return tf.sort(tf.concat([zeros, tf.cast(tf.linalg.eigvalsh(gram), self.dtype)], 0))

    def _ridge(self) -> Any:
        diagonal = [tf.fill(t.shape, tf.constant(d, t.dtype)) for t, d in zip(self._like, self.root.ridge)]
        return tf.cast(flatten(diagonal), self.dtype)


def _without_meaning(name: str) -> Callable:
    def method(self: FisherOperator, *args: Any, **kwargs: Any) -> None:
        raise ValueError(
            f"F is positive semidefinite and in general singular, so `{name}` has no meaning for it. Use "
            f"that of F + damping I, `F.damped(damping).{name}`. Received: F of shape {tuple(self.shape)}"
        )

    method.__name__ = name
    method.__doc__ = f"Has no meaning for a singular matrix: see `F.damped(damping).{name}`."
    return method


for _name in (
    "solve",
    "solvevec",
    "inverse",
    "determinant",
    "log_abs_determinant",
    "cholesky",
    "cond",
    "assert_non_singular",
    "assert_positive_definite",
):
    setattr(FisherOperator, _name, _without_meaning(_name))


def _compute_loss(model: keras.Model, loss: Any, y: Any) -> Any:
    """`compute_loss` for a loss of its own, or that of the model."""
    own = loss is None
    if own and not has_loss(model):
        raise ValueError(
            f"The model {model.name!r} is not compiled with a loss. Call `model.compile(loss=...)` or pass "
            "`loss=`. Received: loss=None"
        )
    loss = model.loss if own else loss
    if y is None and any(str(part).lower() in ("crossentropy", "ce") for part in keras.tree.flatten(loss)):
        raise ValueError(
            "Which cross-entropy 'crossentropy' is Keras decides from the labels. Pass `y`, or name the loss "
            f"in full. Received: y=None, loss={loss!r}"
        )
    if own:
        return model.compute_loss
    if not all(map(_is_loss, keras.tree.flatten(loss))):
        raise checks.wrong("loss", "a loss as for `model.compile`", loss)
    holder = keras.Model()
    holder.output_names = getattr(model, "output_names", None)
    holder.compile(loss=loss)
    return holder.compute_loss


def _is_loss(part: Any) -> bool:
    """Check that Keras knows it; it would tell only when the loss is first taken."""
    if not isinstance(part, str):
        return part is None or callable(part)
    try:
        return part.lower() in ("crossentropy", "ce") or callable(keras.losses.get(part))
    except ValueError:
        return False
