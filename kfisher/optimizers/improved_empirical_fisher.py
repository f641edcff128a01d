"""The empirical Fisher without its inverted scaling."""

from __future__ import annotations

import copy
from typing import Any

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher.curvature import Curvature, Dense, Gram
from kfisher.jacobian.square_root import SquareRoot
from kfisher.likelihoods import Likelihood
from kfisher.likelihoods.weighted import mean_weights
from kfisher.optimizers._keras_arguments import Rate
from kfisher.optimizers.empirical_natural_gradient import EmpiricalNaturalGradient


@keras.saving.register_keras_serializable("kfisher")
class ImprovedEmpiricalFisher(EmpiricalNaturalGradient):
    """The improved empirical Fisher (iEF): each example is weighed by how wrong the model is about it.

        δ = -learning_rate · Gᵀ (G Gᵀ + damping I)⁻¹ s,    s_n = ‖∂ℓ_n/∂f_n‖²

    with G the gradients of the examples as rows, scaled by √(w_n), and s by the same. The plain empirical
    Fisher is the case s = 1: it makes every example decrease equally, however well it is fitted already.
    With s it equals natural gradient descent on least squares as damping goes to 0 (for no more examples than
    parameters), and Gauss-Newton for scalar outputs; it works at nearly no damping. No label is drawn.

    A squared error with another factor than 1/2 (Keras' mean squared error is (f - y)²) is taken in units in
    which it has that factor: its s is multiplied by the variance of its likelihood.

    An example with several outputs or positions is taken as a whole. What is no likelihood in the loss
    (regularisers, `add_loss`) enters as in `EmpiricalNaturalGradient`.

    Args:
        curvature: `"gram"`, `"dense"`, or an instance of one of those: the formula needs the examples of
            the batch, which running curvatures do not keep. Defaults to `"gram"`.
        learning_rate, damping, momentum, trust_region, likelihood, seed, and all others: as in
            `NaturalGradient`.

    Reference:
        Wu, Yu, Zhang & Woodland 2024, "An improved empirical Fisher approximation for natural gradient
        descent", NeurIPS (arXiv:2406.06420), equation (9).

    Example:

    >>> optimizer = kfisher.optimizers.ImprovedEmpiricalFisher(0.5, damping=1e-6)
    """

    knows_errors = True

    def __init__(
        self,
        learning_rate: Rate = 0.3,
        curvature: str | Curvature = "gram",
        damping: Any = "auto",
        momentum: str | float = "auto",
        trust_region: str | float | None = "auto",
        step: str = "fixed",
        likelihood: Likelihood | None = None,
        seed: int | None = None,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str = "improved_empirical_fisher",
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate=learning_rate,
            curvature=curvature,
            damping=damping,
            momentum=momentum,
            trust_region=trust_region,
            step=step,
            likelihood=likelihood,
            seed=seed,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            **kwargs,
        )
        if not isinstance(self.curvature, (Gram, Dense)):
            raise ValueError(
                "The improved empirical Fisher needs the examples of the batch. Use curvature='gram' or "
                f"'dense'. Received: curvature={curvature!r}"
            )

    def weighed(self, batch: Any, gradient: Any) -> Any:
        """The gradient in which example n counts s_n times."""
        root = batch.whole_square_root
        likelihood = root.rmatvec(replicas.gathered(_by_error(root), 1))
        return [a + h for a, h in zip(likelihood, _beyond_likelihood(root, gradient))]

    def solve(self, batch: Any, gradient: Any, damping: Any) -> Any:
        """(EF + damping I)⁻¹ of that gradient."""
        weighed, root = copy.copy(batch), copy.copy(batch.whole_square_root)
        root.coordinates = replicas.gathered(_by_error(root), 1)
        weighed.whole_square_root = root
        return super().solve(weighed, gradient, damping)


def _by_error(root: SquareRoot) -> tf.Tensor:
    """-sum phi ‖v_rn‖² / √(w_n) over all outputs and positions, `(R, N)`: example n counts s_n times."""
    heads, (vectors,) = root.loss.heads, root.columns.groups
    squares = [
        head.likelihood.dispersion(head.eta) * tf.reduce_sum(tf.square(v), list(range(2, v.shape.rank)))
        for head, (_, v) in zip(heads, vectors)
    ]
    return -tf.math.divide_no_nan(tf.add_n(squares), tf.sqrt(mean_weights(heads)))


def _beyond_likelihood(root: SquareRoot, gradient: list[tf.Tensor]) -> list[tf.Tensor]:
    """The part of the gradient that is not that of the likelihood."""
    if not root.loss.other_losses:
        return root.ridge_gradient()
    if root.coordinates is None:
        raise ValueError(
            "With several outputs or positions an example, the improved empirical Fisher cannot tell "
            "`add_loss` terms and regularisers other than L2 from the likelihood. Leave them out, or use "
            "`EmpiricalNaturalGradient`."
        )
    return [g - a for g, a in zip(gradient, root.rmatvec(root.coordinates))]
