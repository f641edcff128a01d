"""Natural gradient descent as a Keras optimizer."""

from __future__ import annotations

import random
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher import curvature as curvatures
from kfisher import damping as dampings
from kfisher import fisher as fishers
from kfisher import layers, plan
from kfisher.batch import Batch
from kfisher.blocks import Block
from kfisher.likelihoods import Likelihood
from kfisher.optimizers.step_size import dot, quadratic_model, within_trust_region

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
        curvature: `"kfac"`, `"ekfac"`, `"diagonal"`, `"gram"`, `"dense"`, `"matrix_free"`, or an instance
            from `kfisher.curvature`. Defaults to `"kfac"`.
        damping: A positive float, a schedule, or a policy from `kfisher.damping`: lambda in the units of F
            (loss / parameter^2). Defaults to `1e-3`. A float can be set anew while training,
            `optimizer.damping = 1e-4`.
        momentum: Float in [0, 1), as in `keras.optimizers.SGD`, on the natural-gradient step. Defaults to
            `0.0`.
        trust_region: `None`, or a positive float c: the KL divergence of one step, in the units of the loss,
            is kept at or below c, by shortening the step. With the F of the curvature and g the gradient,

                eta' = min(learning_rate, (1 - momentum) sqrt(2 c / g^T (F + damping I)^{-1} g))

            so that delta^T F delta / 2 <= c. Defaults to `None`.
        step: `"fixed"`, or `"quadratic_model"`: learning rate and momentum are chosen anew at each step, as
            the minimum of the damped quadratic model of the loss along the natural-gradient step and the
            last update, with the exact Fisher of the batch; `learning_rate` and `momentum` are then not
            used, and c bounds the exact delta^T F delta / 2. Defaults to `"fixed"`.
        likelihood: A `kfisher.likelihoods.Likelihood` to use instead of the one of the compiled loss.
        seed: Integer for labels that are drawn from the model, or `None` for a random one. With the step
            counter it determines every label, so a restored run repeats itself.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: As in
            `keras.optimizers.Optimizer`. Clipping acts on the natural-gradient step, not on the gradient.
            With `gradient_accumulation_steps` k the curvature, too, is that of k batches; `"gram"`,
            `"dense"`, `"ekfac"` and `"matrix_free"` know one batch only and refuse it at the first step.

    Attributes:
        skipped_steps: How many steps were left out because the batch, the gradient or the solve was not
            finite. No weight changes in such a step; `fit` warns at its end.

    Raises:
        ValueError: At the first step, if the optimizer has seen no batch, or the loss has no likelihood.

    Reference:
        Amari 1998; Martens 2020 (arXiv:1412.1193); Kunstner, Balles, Hennig 2019 (arXiv:1905.12558),
        equation (2); Martens & Grosse 2015 (arXiv:1503.05671), sections 6 and 7.

    Example:

    >>> model = kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile(optimizer=kfisher.optimizers.NaturalGradient(1.0, fisher="exact"), loss="mse")
    >>> history = model.fit(np.eye(3), np.ones((3, 1)), verbose=0)
    """

    def __init__(
        self,
        learning_rate=0.1,
        fisher="sampled",
        curvature="kfac",
        damping=1e-3,
        momentum=0.0,
        trust_region=None,
        step="fixed",
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
            # Keras would add up gradients behind `apply`; here the sum must be there before the solve.
            gradient_accumulation_steps=None,
            name=name,
            **kwargs,
        )
        self._parts = _parts(gradient_accumulation_steps)
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
        if trust_region is not None:
            trust_region = dampings.positive("trust_region", trust_region, "a positive float or None")
        if step not in ("fixed", "quadratic_model"):
            raise ValueError(f"`step` must be 'fixed' or 'quadratic_model'. Received: step={step!r}")
        self.momentum = momentum
        self.trust_region = trust_region
        self.step = step
        self.likelihood = likelihood
        self.seed = random.randrange(2**31) if seed is None else seed
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise ValueError(f"`seed` must be an integer from 0 to 2^31 - 1, or None. Received: seed={seed}")
        self._policy = dampings.get(damping)
        self._damping = self._policy
        if isinstance(self._policy, dampings.Damping):
            self._damping = self.add_variable(
                (),
                # initializers.Constant goes through float32
                lambda shape, dtype: tf.constant(self._policy.initial, dtype),
                aggregation="only_first_replica",
                name="damping",
            )
        self._seen = _Seen()
        self._model: Callable[[], keras.Model | None] = lambda: None
        self._blocks: list[Block] | None = None
        self._curved = False  # whether the state of the curvature is there
        self._reported: int | None = None  # skipped steps that the user knows of

    # --- hyper-parameters -----------------------------------------------------------------------

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
        self._damping.assign(dampings.positive("damping", value))

    # --- state ----------------------------------------------------------------------------------

    def build(self, variables):
        """Creates all state: momenta (if there are any), the count of skipped steps, and the curvature's.

        The state of a running curvature follows the layers of the model. It is known from the model, from the
        configuration of an optimizer that was saved, or else from the first batch.
        """
        if not self.built:
            super().build(variables)
            self.skipped_steps = self.add_variable(
                (), dtype="int", aggregation="only_first_replica", name="skipped_steps"
            )
            needs_last = self.momentum or self.step == "quadratic_model"
            self.momentums = self.add_optimizer_variables(variables, "momentum") if needs_last else []
            self._sums: list[keras.Variable] = []
            self._part: keras.Variable | None = None
            if self._parts > 1:
                self._sums = self.add_optimizer_variables(variables, "gradient_sum")
                self._part = self.add_variable(
                    (), dtype="int", aggregation="only_first_replica", name="part_of_step"
                )
        model = self._model() if self.curvature.needs_blocks else None
        if self._blocks is None and model is not None and model.built and getattr(model, "inputs", None):
            self._blocks = _blocks_of(model, None)
        if not self._curved and (self._blocks is not None or not self.curvature.needs_blocks):
            self._curved = True
            self.curvature.build(self.add_variable, variables, self._blocks, self._parts)

    def bind(self, model: keras.Model) -> None:
        """Tells the optimizer which model it will train, so that `build` need not wait for a batch.

        `compile` of kfisher models and `kfisher.attach` call it.
        """
        self._model = weakref.ref(model)

    # --- one step -------------------------------------------------------------------------------

    def observe(self, model: keras.Model, x: Any, y: Any, sample_weight: Any = None) -> None:
        """Shows the optimizer the batch of the next step; `train_step` of kfisher models calls it.

        Runs the model once more, with nothing in it changed, and keeps what the next `apply` needs.

        Args:
            model: The model that is trained, compiled with its loss.
            x, y, sample_weight: The batch, in the structures that `fit` takes.
        """
        if self._parts > 1 and not self.curvature.accumulates:
            raise ValueError(
                f"curvature={type(self.curvature).__name__} knows the Fisher matrix of one batch only: a "
                "step cannot be put together from several. Use a larger batch, or curvature='kfac'. Received: "
                f"gradient_accumulation_steps={self._parts}"
            )
        x, y, sample_weight = keras.tree.map_structure(
            lambda t: t if t is None else tf.convert_to_tensor(t), (x, y, sample_weight)
        )
        if not model.built or not model.trainable_variables:
            model(keras.tree.map_structure(lambda t: keras.KerasTensor(t.shape, t.dtype.name), x))
        if not self._curved and self._blocks is None and self.curvature.needs_blocks:
            self._blocks = _blocks_of(model, x)
        if not self.built or not self._curved:
            if not self.built:
                self._reported = 0
            self.build(model.trainable_variables)
        if self._reported is None:  # a count that was loaded
            with tf.init_scope():
                self._reported = int(self.skipped_steps.value.numpy())
        self._check_variables(model)
        part = tf.zeros((), tf.int32) if self._part is None else tf.cast(self._part.value, tf.int32)
        step = tf.cast(self.iterations.value, tf.int32)
        seed = tf.stack([self.seed, step * self._parts + part])
        batch = Batch(model, x, y, sample_weight, self.fisher, seed, self.likelihood)
        damping = tf.convert_to_tensor(self.damping)
        self._seen.put((batch, self.curvature.observe(batch, step, damping, part)))

    def _check_variables(self, model: keras.Model) -> None:
        if not self.curvature.needs_blocks:
            return
        names = [v.path for v in model.trainable_variables]
        if names != [v.path for v in self._trainable_variables]:
            raise ValueError(
                "The trainable variables of the model are not those that the optimizer was built for: its "
                f"{type(self.curvature).__name__} has no curvature of the others. Compile the model with a "
                f"new optimizer. Received: {names}"
            )

    def apply(self, grads, trainable_variables=None):
        """Takes one natural-gradient step from the gradients of the loss on the observed batch."""
        seen = self._seen.take()
        if seen is None:
            raise ValueError(_UNBOUND.format(name=type(self).__name__))
        batch = seen[0]
        own = batch.model.trainable_variables
        grads = list(grads)
        variables = list(own if trainable_variables is None else trainable_variables)
        gradient = self._gradient(grads, variables, own)
        missing = {id(v) for v, g in zip(variables, grads) if g is None}
        if self._part is None:
            self._take_step(seen, gradient, own, missing)
            return
        last = tf.equal(self._part.value, self._parts - 1)
        for total, g in zip(self._sums, gradient):
            kept = tf.where(self._part.value > 0, tf.convert_to_tensor(total.value), tf.zeros_like(g))
            total.assign(kept + g / self._parts)
        mean = [tf.convert_to_tensor(total.value) for total in self._sums]
        tf.cond(last, lambda: self._take_step(seen, mean, own, missing), lambda: None)
        self._part.assign((self._part.value + 1) % self._parts)

    def _gradient(self, grads: list, variables: list, own: list) -> list[tf.Tensor]:
        """The gradient in the order of the variables of the model, zero where there is none."""
        given = {id(v): g for v, g in zip(variables, grads)}
        if set(given) != {id(v) for v in own}:
            raise ValueError(
                "The gradients must be those of all trainable variables of the observed model. Received: "
                f"{len(given)} gradients for {[v.name for v in variables]}, a model with "
                f"{len(own)} trainable variables"
            )
        scale = self.loss_scale_factor
        gradient = []
        for variable in own:
            g = given[id(variable)]
            g = tf.zeros(variable.shape, variable.dtype) if g is None else tf.convert_to_tensor(g)
            gradient.append(tf.ensure_shape(g if scale is None else g / scale, variable.shape))
        return gradient

    def _take_step(self, seen: tuple[Batch, Any], gradient: list, variables: list, missing: set) -> None:
        batch, evidence = seen
        damping = tf.convert_to_tensor(self.damping)
        solution = self.solve(evidence, gradient, damping)
        steps = self._scaled(batch, gradient, solution, damping)
        finite = tf.math.is_finite(tf.linalg.global_norm(steps))
        if self.loss_scale_factor is not None:  # `apply` of the base class divides by it
            steps = [s * self.loss_scale_factor for s in steps]
        steps = [None if id(v) in missing else s for v, s in zip(variables, steps)]
        base = super().apply

        def take():
            self.curvature.remember(solution)
            base(steps, variables)

        def take_and_adapt():
            before = [tf.convert_to_tensor(v.value) for v in variables]
            old, linearization = batch.loss(), batch.exact_linearization
            take()
            delta = [tf.cast(v.value, b.dtype) - b for v, b in zip(variables, before)]
            predicted = dot(gradient, delta) + linearization.quadratic([delta])[0, 0] / 2
            actual = tf.cast(batch.loss(), tf.float64) - tf.cast(old, tf.float64)
            # No decrease promised: nothing to trust.
            ratio = tf.where(predicted < 0, actual / predicted, tf.constant(float("nan"), tf.float64))
            self._damping.assign(self._policy.adapted(damping, tf.cast(ratio, damping.dtype)))

        def skip():
            self.iterations.assign_add(1)
            self.skipped_steps.assign_add(1)

        every = getattr(self._policy, "every", None)
        if every is None:
            tf.cond(finite, take, skip)
            return
        due = tf.equal((self.iterations.value + 1) % every, 0)
        tf.cond(finite, lambda: tf.cond(due, take_and_adapt, take), skip)

    def solve(self, evidence: Any, gradient: list[tf.Tensor], damping: tf.Tensor) -> list[tf.Tensor]:
        """(F + damping I)^{-1} gradient, from what the curvature has seen."""
        return self.curvature.solve(evidence, gradient, damping)

    def _scaled(self, batch: Batch, gradient: list, solution: list, damping: tf.Tensor) -> list[tf.Tensor]:
        """The step that `update_step` multiplies by the learning rate (by -1 in the quadratic model)."""
        if self.step == "quadratic_model":
            last = [tf.cast(m.value, x.dtype) for m, x in zip(self.momentums, solution)]
            return quadratic_model(
                batch.exact_linearization, gradient, solution, last, damping, self.trust_region
            )
        if self.trust_region is None:
            return solution
        factor = within_trust_region(
            gradient, solution, tf.convert_to_tensor(self.learning_rate), self.trust_region, self.momentum
        )
        return [tf.cast(factor, x.dtype) * x for x in solution]

    def update_step(self, gradient, variable, learning_rate):
        """theta <- theta + m, m <- momentum * m - learning_rate * step; in the quadratic model m <- step."""
        delta = tf.cast(gradient, variable.dtype)
        if self.step == "fixed":
            delta *= -tf.cast(learning_rate, variable.dtype)
        if self.momentums:
            m = self.momentums[self._get_variable_index(variable)]
            if self.step == "fixed":
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
        trouble = self.curvature.trouble()
        if trouble:
            warnings.warn(trouble, stacklevel=2)

    # --- serialization --------------------------------------------------------------------------

    def get_config(self):
        config = super().get_config()
        serialize = keras.saving.serialize_keras_object
        damping = self._policy
        if type(damping) is dampings.Constant:
            damping = float(self._damping.numpy())
        config.update(
            fisher=serialize(self.fisher),
            curvature=serialize(self.curvature),
            damping=damping if isinstance(damping, float) else serialize(damping),
            momentum=self.momentum,
            trust_region=self.trust_region,
            step=self.step,
            gradient_accumulation_steps=self._parts if self._parts > 1 else None,
            likelihood=None if self.likelihood is None else serialize(self.likelihood),
            seed=self.seed,
        )
        if self._blocks is not None:
            config["blocks"] = [block.get_config() for block in self._blocks]
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        blocks = config.pop("blocks", None) if "blocks" in config else None
        optimizer = super().from_config(config, custom_objects)
        if blocks is not None:
            optimizer._blocks = [Block.from_config(block) for block in blocks]
        return optimizer


class _Seen:
    """The observed batch between `observe` and `apply`; each replica of a strategy has its own."""

    def __init__(self):
        self._batches: dict[int, tuple[Batch, Any]] = {}

    @staticmethod
    def _replica() -> int:
        context = tf.distribute.get_replica_context()
        return 0 if context is None else int(tf.get_static_value(context.replica_id_in_sync_group) or 0)

    def put(self, seen: tuple[Batch, Any]) -> None:
        self._batches[self._replica()] = seen

    def take(self) -> tuple[Batch, Any] | None:
        return self._batches.pop(self._replica(), None)


def _blocks_of(model: keras.Model, x: Any) -> list[Block]:
    """The blocks of all variables that the model uses, by their positions."""
    positions = {id(v): i for i, v in enumerate(model.trainable_variables)}
    tapped = [layer for layer in plan.plan(model, x).calls if layer.trainable_variables]
    return [block.located(lambda v: positions[id(v)]) for block in layers.structure(tapped)]


def _parts(gradient_accumulation_steps: Any) -> int:
    if gradient_accumulation_steps is None:
        return 1
    if not isinstance(gradient_accumulation_steps, int) or gradient_accumulation_steps < 2:
        raise ValueError(
            "`gradient_accumulation_steps` must be an integer of at least 2, or None. Received: "
            f"gradient_accumulation_steps={gradient_accumulation_steps}"
        )
    return gradient_accumulation_steps
