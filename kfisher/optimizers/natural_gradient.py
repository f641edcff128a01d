"""Natural gradient descent as a Keras optimizer."""

from __future__ import annotations

import random
import warnings
from typing import Any

import keras
import tensorflow as tf

from kfisher import curvature as curvatures
from kfisher import fisher as fishers
from kfisher.likelihoods import Likelihood
from kfisher.square_root import SquareRoot, square_root

register = keras.saving.register_keras_serializable("kfisher")

_UNBOUND = (
    "{name} has seen no batch, and the gradient alone does not say what the Fisher matrix is. Use one of:\n"
    "  1. a model made with `kfisher.Model` or `kfisher.Sequential` (or a class with "
    "`kfisher.FisherMixin` before `keras.Model`),\n"
    "  2. `kfisher.attach(model)` before `fit`, for a model whose class cannot change (again after it is "
    "loaded),\n"
    "  3. `optimizer.observe(model, x, y, sample_weight)` before `apply_gradients`, in a training loop of "
    "your own."
)


@register
class NaturalGradient(keras.optimizers.Optimizer):
    """Natural gradient descent.

        delta = -learning_rate * (F + damping I)^{-1} grad L(theta)
        F = sum_n w_n J_n^T V_n V_n^T J_n

    with L the loss that Keras minimises, w_n the weight of example n in it, J_n the Jacobian of the model
    and V_n V_n^T the Fisher matrix of p(y | f_n): see `kfisher.Exact`, `kfisher.Sampled` and
    `kfisher.Empirical`. The likelihood is read from the compiled loss.

    The model has to show its batches to the optimizer: make it with `kfisher.Model` or
    `kfisher.Sequential`, or call `kfisher.attach(model)`. In a loop of your own call `observe` before the
    forward pass of each step (dropout then uses the same mask in both).

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule` instance, or a callable
            that takes no arguments. Defaults to `0.1`.
        fisher: `"exact"`, `"sampled"`, `"empirical"`, or an instance. Defaults to `"sampled"`.
        curvature: `"gram"`, `"dense"`, or an instance from `kfisher.curvature`. Defaults to `"gram"`.
        damping: A positive float or a schedule, lambda in the units of F (loss / parameter^2). Defaults to
            `1e-3`. It can be set while training, `optimizer.damping = 1e-4`.
        momentum: Float in [0, 1), as in `keras.optimizers.SGD`, on the natural-gradient step. Defaults to
            `0.0`.
        likelihood: A `kfisher.likelihoods.Likelihood` to use instead of the one of the compiled loss.
        seed: Integer for labels that are drawn from the model, or `None` for a random one. With the step
            counter it determines every label, so a restored run repeats itself.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: As in
            `keras.optimizers.Optimizer`. Clipping acts on the natural-gradient step, not on the gradient.
            `gradient_accumulation_steps` is refused: a step from one small batch is not a part of the step
            from all of them.

    Attributes:
        skipped_steps: How many steps were left out because the batch, the gradient or the solve was not
            finite. No weight changes in such a step; `fit` warns at its end.

    Raises:
        ValueError: At the first step, if the optimizer has seen no batch, or the loss has no likelihood.

    Reference:
        Amari 1998; Martens 2020 (arXiv:1412.1193); Kunstner, Balles, Hennig 2019 (arXiv:1905.12558),
        equation (2).

    Example:

    >>> model = kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile(optimizer=kfisher.optimizers.NaturalGradient(1.0, fisher="exact"), loss="mse")
    >>> history = model.fit(np.eye(3), np.ones((3, 1)), verbose=0)
    """

    def __init__(
        self,
        learning_rate=0.1,
        fisher="sampled",
        curvature="gram",
        damping=1e-3,
        momentum=0.0,
        likelihood=None,
        seed=None,
        weight_decay=None,
        clipnorm=None,
        clipvalue=None,
        global_clipnorm=None,
        use_ema=False,
        ema_momentum=0.99,
        ema_overwrite_frequency=None,
        loss_scale_factor=None,
        gradient_accumulation_steps=None,
        name="natural_gradient",
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate,
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
        if gradient_accumulation_steps:
            raise ValueError(
                "`gradient_accumulation_steps` needs a curvature that is averaged over batches; "
                f"{type(self).__name__} solves with the Fisher of one. Use a larger batch. Received: "
                f"gradient_accumulation_steps={gradient_accumulation_steps}"
            )
        if not isinstance(momentum, (int, float)) or not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be a float in [0, 1). Received: momentum={momentum}")
        if isinstance(likelihood, dict):
            likelihood = keras.saving.deserialize_keras_object(likelihood)
        if likelihood is not None and not isinstance(likelihood, Likelihood):
            raise ValueError(
                "`likelihood` must be an instance of a class of kfisher.likelihoods. Received: "
                f"likelihood={likelihood!r}"
            )
        self.fisher = fishers.get(fisher)
        self.curvature = curvatures.get(curvature)
        self.momentum = momentum
        self.likelihood = likelihood
        self.seed = random.randrange(2**31) if seed is None else seed
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise ValueError(f"`seed` must be an integer from 0 to 2^31 - 1, or None. Received: seed={seed}")
        self._damping = self._damping_from(damping)
        self._seen = _Seen()
        self._reported: int | None = None  # skipped steps that the user knows of

    # --- hyper-parameters -----------------------------------------------------------------------

    def _damping_from(self, damping):
        if isinstance(damping, dict):
            damping = keras.saving.deserialize_keras_object(damping)
        if isinstance(damping, keras.optimizers.schedules.LearningRateSchedule):
            return damping
        value = _positive(damping)
        return self.add_variable(
            (),
            lambda shape, dtype: tf.constant(value, dtype),  # initializers.Constant goes through float32
            aggregation="only_first_replica",
            name="damping",
        )

    @property
    def damping(self):
        """lambda of the next step: a variable, or the value of the schedule."""
        if isinstance(self._damping, keras.Variable):
            return self._damping
        return self._damping(self.iterations)

    @damping.setter
    def damping(self, value):
        if not isinstance(self._damping, keras.Variable):
            raise TypeError(
                "This optimizer was created with a schedule as its `damping`, so its damping cannot be set. "
                f"Received: damping={value}"
            )
        self._damping.assign(_positive(value))

    # --- state ----------------------------------------------------------------------------------

    def build(self, variables):
        """Creates all state: momenta (if there is momentum) and the count of skipped steps."""
        if self.built:
            return
        super().build(variables)
        self.skipped_steps = self.add_variable(
            (), dtype="int", aggregation="only_first_replica", name="skipped_steps"
        )
        self.momentums = self.add_optimizer_variables(variables, "momentum") if self.momentum else []

    # --- one step -------------------------------------------------------------------------------

    def observe(self, model: keras.Model, x: Any, y: Any, sample_weight: Any = None) -> None:
        """Shows the optimizer the batch of the next step; `train_step` of kfisher models calls it.

        Runs the model once more, with nothing in it changed, and keeps what the next `apply` needs.

        Args:
            model: The model that is trained, compiled with its loss.
            x, y, sample_weight: The batch, in the structures that `fit` takes.
        """
        x, y, sample_weight = keras.tree.map_structure(
            lambda t: t if t is None else tf.convert_to_tensor(t), (x, y, sample_weight)
        )
        if not model.built or not model.trainable_variables:
            model(keras.tree.map_structure(lambda t: keras.KerasTensor(t.shape, t.dtype.name), x))
        if not self.built:
            self.build(model.trainable_variables)
            self._reported = 0
        if self._reported is None:  # a count that was loaded
            with tf.init_scope():
                self._reported = int(self.skipped_steps.value.numpy())
        seed = tf.stack([self.seed, tf.cast(self.iterations.value, tf.int32)])
        self._seen.put(
            square_root(
                model,
                x,
                y,
                sample_weight,
                fisher=self.fisher,
                seed=seed,
                training=True,
                likelihood=self.likelihood,
            )
        )

    def apply(self, grads, trainable_variables=None):
        """Takes one natural-gradient step from the gradients of the loss on the observed batch."""
        root = self._seen.take()
        if root is None:
            raise ValueError(_UNBOUND.format(name=type(self).__name__))
        grads = list(grads)
        variables = list(root.variables if trainable_variables is None else trainable_variables)
        if not self.built:
            with keras.name_scope(self.name):
                self.build(variables)
        steps = self.step(root, grads, variables)
        finite = tf.math.is_finite(tf.linalg.global_norm([s for s in steps if s is not None]))
        apply = super().apply

        def skip():
            self.iterations.assign_add(1)
            self.skipped_steps.assign_add(1)

        tf.cond(finite, lambda: apply(steps, variables), skip)

    def step(self, root: SquareRoot, grads: list, variables: list) -> list:
        """(F + damping I)^{-1} g for the gradients of `variables`, `None` where the gradient is `None`."""
        given = {id(v): g for v, g in zip(variables, grads)}
        if set(given) != {id(v) for v in root.variables}:
            raise ValueError(
                "The gradients must be those of all trainable variables of the observed model. Received: "
                f"{len(given)} gradients for {[v.name for v in variables]}, a model with "
                f"{len(root.variables)} trainable variables"
            )
        scale = self.loss_scale_factor
        dense = []
        for variable in root.variables:
            g = given[id(variable)]
            g = tf.zeros(variable.shape, variable.dtype) if g is None else tf.convert_to_tensor(g)
            dense.append(tf.ensure_shape(g if scale is None else g / scale, variable.shape))
        solved = self.curvature.solve(root, dense, tf.convert_to_tensor(self.damping))
        if scale is not None:  # `apply` of the base class divides by it
            solved = [step * scale for step in solved]
        found = {id(v): step for v, step in zip(root.variables, solved)}
        return [None if given[id(v)] is None else found[id(v)] for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        """theta <- theta + m with m <- momentum * m - learning_rate * step."""
        delta = -tf.cast(learning_rate, variable.dtype) * tf.cast(gradient, variable.dtype)
        if self.momentums:
            m = self.momentums[self._get_variable_index(variable)]
            delta += tf.constant(self.momentum, variable.dtype) * tf.cast(m.value, variable.dtype)
            self.assign(m, delta)
        self.assign_add(variable, delta)

    def finalize_variable_values(self, var_list):
        """Called by `fit` at its end: reports skipped steps."""
        super().finalize_variable_values(var_list)
        skipped, steps = int(self.skipped_steps.numpy()), int(self.iterations.numpy())
        new = skipped - (self._reported or 0)
        if new > 0:
            self._reported = skipped
            warnings.warn(
                f"{type(self).__name__} skipped {new} of {steps} steps, in which the batch, its gradient or "
                "the solve was not finite. Look for NaN or infinite inputs and labels out of range, or raise "
                "`damping`.",
                stacklevel=2,
            )

    # --- serialization --------------------------------------------------------------------------

    def get_config(self):
        config = super().get_config()
        serialize = keras.saving.serialize_keras_object
        is_variable = isinstance(self._damping, keras.Variable)
        config.update(
            fisher=serialize(self.fisher),
            curvature=serialize(self.curvature),
            damping=float(self._damping.numpy()) if is_variable else serialize(self._damping),
            momentum=self.momentum,
            likelihood=None if self.likelihood is None else serialize(self.likelihood),
            seed=self.seed,
        )
        return config


class _Seen:
    """The observed batch between `observe` and `apply`; each replica of a strategy has its own."""

    def __init__(self):
        self._roots: dict[int, SquareRoot] = {}

    @staticmethod
    def _replica() -> int:
        context = tf.distribute.get_replica_context()
        return 0 if context is None else int(tf.get_static_value(context.replica_id_in_sync_group) or 0)

    def put(self, root: SquareRoot) -> None:
        self._roots[self._replica()] = root

    def take(self) -> SquareRoot | None:
        return self._roots.pop(self._replica(), None)


def _positive(damping):
    """A float from any scalar, so that `optimizer.damping *= 0.5` works."""
    try:
        value = float("nan") if isinstance(damping, (bool, str)) else float(damping)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 < value < float("inf"):
        raise ValueError(f"`damping` must be a positive float or a schedule. Received: damping={damping}")
    return value
