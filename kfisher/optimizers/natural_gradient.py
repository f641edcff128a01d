"""Natural gradient descent as a Keras optimizer."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.checks import one_of, positive
from kfisher._common.vectors import norm
from kfisher.curvature import Curvature
from kfisher.fisher import Fisher
from kfisher.jacobian.batch import Batch
from kfisher.likelihoods import Likelihood
from kfisher.optimizers._adaptive_damping import AdaptiveDamping
from kfisher.optimizers._guard import Guard
from kfisher.optimizers._keras_arguments import Rate
from kfisher.optimizers._momentum import Momentum, share_of
from kfisher.optimizers._observing import ObservingOptimizer
from kfisher.optimizers._skips import stays_finite
from kfisher.optimizers._step_size import bounded, estimates, in_use, longest_of


@keras.saving.register_keras_serializable("kfisher")
class NaturalGradient(ObservingOptimizer):
    """Natural gradient descent.

        δ = -learning_rate * (F + damping I)⁻¹ ∇L(θ)
        F = Σ_n w_n J_nᵀ V_n V_nᵀ J_n

    with L the loss that Keras minimises, w_n the weight of example n in it, J_n the Jacobian of the model
    and V_n V_nᵀ the Fisher matrix of p(y | f_n): see `kfisher.Exact`, `kfisher.Sampled` and
    `kfisher.Empirical`. The likelihood is read from the compiled loss.

    The model has to show its batches to the optimizer: make it with `kfisher.Model` or
    `kfisher.Sequential`, or call `kfisher.attach(model)`. In a loop of your own call `observe` before the
    forward pass of each step (dropout then uses the same mask in both).

    With no argument it is meant to be safe and good where the loss is a likelihood, for three reasons:

    1. Each update stays in a trust region. Its KL divergence, momentum included and by the F that the
       curvature holds, is at most c = 0.003 s, with s the size of the running loss at its best:

           δᵀ (F + damping I) δ / 2 ≤ c.

       So the mean square by which the outputs move, in the units of the likelihood and as far as F is
       known, is at most 0.6 % of s. Steps become shorter as the loss rises above its best, and where the
       gradient is larger than F can explain, as that of many inputs and few examples is.
    2. Curvature that is averaged over batches is never staler than the weights have moved: factors and
       inverses are made anew after half as many steps of full length as their periods say.
    3. Each step is judged on the batch after it, which had no part in it, at no cost: Keras knows its loss.
       If that has jumped, the same batch is tried with the weights before the step; if these are better out
       of all proportion to c, the step is taken back, with all that it changed (weights, momentum, EMA,
       statistics of BatchNormalization), a damping that adapts is raised, and the next steps are shorter. A
       batch out of all proportion itself is left out, unless it was ordinary at the start, and until more
       come in a row than by accident, a new problem; so are seven far above the average that no step made
       worse. Nothing judges the last step of a `fit`.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule` instance, or a callable
            that takes no arguments. With a trust region it is an upper bound; of `"auto"`, and where F takes
            any error for one of 1 (EF, and F under absolute error), as many times that as the running loss is
            larger. Defaults to `0.3`.
        fisher: `"exact"`, `"sampled"`, `"empirical"`, or an instance. Defaults to `"sampled"`.
        curvature: `"kfac"`, `"ekfac"`, `"diagonal"`, `"gram"`, `"dense"`, `"matrix_free"`, or an instance
            from `kfisher.curvature`. Defaults to `"kfac"`.
        damping: `"auto"`, a positive float, a schedule, or a policy from `kfisher.damping`: λ in the
            units of F (loss / parameter²). A float can be set anew while training,
            `optimizer.damping = 1e-4`; what is set under a policy holds for one step, and the policy goes on
            from there. Defaults to `"auto"`, `kfisher.damping.Cautious()`: 0.08 / n for an F known from
            n ≥ 16 examples, seldom below 1e-4, more after a step taken back, and where gradients are larger
            than F explains (the last two with a trust region).
        momentum: `"auto"`, or a float in [0, 1). What is preconditioned is a running average of gradients,
            m ← momentum m + (1 - momentum) ∇L, without bias towards its start at zero, so that the step is
            as long as without. `"auto"`, the default, is 0.5 where the curvature averages over batches and
            there is a trust region, else 0.
        trust_region: `"auto"`, a positive float, or `None`. A float is c itself, in the units of the loss.
            For a curvature of one batch F above is the exact one of the batch, whatever the kind (or with
            labels drawn anew). For averages of EF c is 0.003 s² / W, with W as in `kfisher.damping.Cautious`:
            δᵀ EF δ is the mean square by which losses of examples change. With several layers no update is
            longer than half of the weights (or than 1/2), either. `None` is the textbook update: nothing is
            bounded, judged or taken back. Defaults to `"auto"`.
        step: `"fixed"`, or `"quadratic_model"`: learning rate and momentum are chosen anew at each step, as
            the minimum of the damped quadratic model of the loss along the natural-gradient step and the
            last update, with the exact Fisher of the batch; `learning_rate` and `momentum` are then not
            used. Defaults to `"fixed"`.
        likelihood: A `kfisher.likelihoods.Likelihood` to use instead of the one of the compiled loss.
        seed: Integer for labels that are drawn from the model, or `None` for a random one. With the step
            counter it determines every label, so a restored run repeats itself.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: As in
            `keras.optimizers.Optimizer`. Clipping acts on the natural-gradient step, not on the gradient.
            With `gradient_accumulation_steps` k the curvature, too, is that of k batches; `"gram"`,
            `"dense"`, `"ekfac"` and `"matrix_free"` know one batch only and refuse it at the first step.

    Attributes:
        skipped_steps: How many steps were left out, with no weight changed: the batch, the gradient or the
            solve was not finite, or the loss of the batch out of all proportion.
        rejected_steps: How many steps were taken back. Five in a row of the one or the other, or an average
            loss that is far above its start, and there is a warning in the middle of `fit`, once;
            `kfisher.callbacks.TerminateOnDivergence` ends it instead. `fit` also tells of skipped steps at
            its end.
        rate_in_use, momentum_in_use: Those of the last step: of the rate (see `learning_rate`) what the trust
            region left.

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

    knows_errors = False  # whether steps go by the size of errors, whatever F knows of it

    def __init__(
        self,
        learning_rate: Rate = 0.3,
        fisher: str | Fisher = "sampled",
        curvature: str | Curvature = "kfac",
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
        name: str = "natural_gradient",
        **kwargs: Any,
    ):
        super().__init__(
            fisher,
            curvature,
            likelihood,
            seed,
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
        if trust_region is not None and not (isinstance(trust_region, str) and trust_region == "auto"):
            trust_region = positive("trust_region", trust_region, "'auto', a positive float, or None")
        averages = self.curvature.averages_batches
        self.momentum = share_of(momentum, trust_region is not None and averages)
        self.trust_region = trust_region
        self.step = one_of("step", step, ("fixed", "quadratic_model"))
        self._adaptive = AdaptiveDamping(damping, self.fisher.exact and not averages, self.add_variable)

    @property
    def damping(self) -> Any:
        """λ of the next step: a variable, or the value of the schedule."""
        return self._adaptive.value(self.iterations)

    @damping.setter
    def damping(self, value: Any) -> None:
        self._adaptive.set(value)

    @property
    def radius(self) -> Any:
        """c of the trust region in use: the KL divergence that the next step may have, at most.

        NaN while `"auto"` has seen no loss.
        """
        if self.guard is None or self.trust_region is None:
            raise AttributeError(f"{type(self).__name__} has no trust region (yet).")
        return self.guard.radius(self.guard.memory.read(), float("nan"))

    # --- one step -------------------------------------------------------------------------------

    def observe(self, model: Any, x: Any, y: Any, sample_weight: Any = None) -> None:
        self._accumulation.require_one_batch(self.step, self._adaptive.policy)
        super().observe(model, x, y, sample_weight)

    def build_own(self, variables: Any) -> None:
        share = self.momentum if self.step == "fixed" else 0.0
        self._average = Momentum(share, self.add_variable, variables)
        self.rate_in_use, self.momentum_in_use = in_use(self.add_variable)
        moved = variables if self.step == "quadratic_model" else []
        self._last = [self.add_variable_from_reference(v, name="last_update") for v in moved]
        self._adaptive.build(self.add_variable)

    def build_guard(self, variables: Any, kept: Any) -> None:
        if self.trust_region is not None or self._adaptive.every is not None:
            self.guard = Guard(self.trust_region, self.fisher, self.curvature)
            self.rejected_steps = self.add_variable((), dtype="int", name="rejected_steps")
            own = [*self._average.variables, *self._last]
            self.guard.build(self.add_variable, variables, [*kept, *own, *self.curvature.remembered])

    def accepts(self, batch: Batch, loss: tf.Tensor) -> Any:
        if self.guard is None:
            return True
        return self.guard.judge(batch, loss, loss, False, blame=False).harmless

    def take_step(self, batch: Batch, gradient: Any, variables: Any, missing: set[int], losses: Any) -> None:
        whole = not (estimates(self) or self.curvature.averages_batches)  # F is that of the batch itself
        examples = float("inf") if whole else self.curvature.examples
        if self.guard is None:
            self._adaptive.follow(self.curvature, examples)
        damping = tf.convert_to_tensor(self.damping)
        # 1. What this batch says of the last step, and of itself.
        judgement: Any = self.guard and self.guard.judge(batch, *losses, ask=self._adaptive.is_judged())
        weighed = self.weighed(batch, gradient)
        vectors = self._average.vectors(weighed)
        seen = vectors if weighed is gradient else gradient  # what a step that is left out is told by
        kept = self._average.averaged(vectors)
        m = self._average.of_variables(kept)
        solution = self.solve(batch, m, damping)
        # 2. The update, as long as F describes the model.
        prepared = self._prepared(batch, m, solution, damping, judgement, variables, missing)
        finite, solved, surprise, move = prepared
        finite &= tf.math.is_finite(losses[0])  # of one that is NaN, XLA can make a gradient of 0

        def remember() -> None:
            self._average.keep(kept)
            self.curvature.remember(solution)

        def go() -> None:
            move()
            remember()
            self.succeeded()

        if self.guard is None:
            replicas.cond(finite, go, lambda: self.skip(batch, losses[0], seen, solved))
            return

        def accept() -> None:
            remember()
            self.guard.accept(judgement)

        def go_on() -> None:
            last = self.guard.last_update
            self._adaptive.after_step(judgement, gradient, last, self.curvature, examples, surprise)
            self.guard.keep(judgement)
            move()
            replicas.cond(judgement.behind, lambda: self.guard.catch_up(judgement), accept)
            self.succeeded()

        def skip() -> None:
            self.skip(batch, judgement.loss, seen, solved, judgement.outlier)
            self.guard.count_outlier(judgement)

        def take_back() -> None:
            self.iterations.assign_add(1)
            self.rejected_steps.assign_add(1)
            self.guard.take_back()
            self.curvature.moved(tf.constant(float("inf"), tf.float64))
            self._adaptive.after_rejection(self.curvature)
            self.failed()

        # 3. One of three.
        good = finite & ~(judgement.outlier | judgement.rejected)
        apart = self._adaptive.every is None
        replicas.cond(good, go_on, lambda: replicas.cond(judgement.rejected, take_back, skip), apart)

    def _prepared(
        self, batch: Batch, m: Any, solution: Any, damping: Any, judgement: Any, variables: Any, missing: Any
    ) -> Any:
        """If there is a step, if there is a solution, its surprise, and the function that takes the step."""
        last = [tf.cast(v.value, x.dtype) for v, x in zip(self._last, solution)]
        found = bounded(self, batch, m, solution, last, damping, judgement)
        steps, used, radius, length, factor, share, surprise = found
        rate = -used[0] if self.step == "fixed" else tf.ones((), tf.float64)
        size = norm(steps) if radius is None else length
        longest = longest_of(size, rate, damping, radius)
        finite = tf.math.is_finite(longest if share is None else share)
        rate_in_use = factor * used[0]
        if self.clipnorm or self.clipvalue or self.global_clipnorm:
            # What is clipped is the step that the trust region leaves.
            steps, factor = [tf.cast(factor, s.dtype) * s for s in steps], 1.0

        solved = self.curvature.ready() & tf.math.is_finite(size)  # only if what it is the size of is
        self._scales = {d: tf.cast(factor * rate, d) for d in {tf.as_dtype(v.dtype) for v in variables}}
        steps = [None if id(v) in missing else s for v, s in zip(variables, steps)]
        finite &= solved & stays_finite(self, steps, variables, longest)
        finite, numbers = replicas.settled(finite, [] if share is None else [share, surprise])
        share, surprise = numbers or (None, None)

        def move() -> None:
            self.rate_in_use.assign(rate_in_use)
            self.momentum_in_use.assign(used[1])
            self.apply_steps(steps, variables)
            if share is not None:
                self.curvature.moved(self.guard.length(share))

        def move_and_measure() -> None:
            before = [tf.convert_to_tensor(v.value) for v in variables]
            linearization = batch.exact_linearization
            move()
            delta = [tf.cast(v.value, b.dtype) - b for v, b in zip(variables, before)]
            self._adaptive.bent.assign(linearization.quadratic([delta])[0, 0])

        if self._adaptive.every is None:
            return finite, solved, surprise, move
        due = self._adaptive.is_due(self.iterations.value)
        return finite, solved, surprise, lambda: replicas.cond(due, move_and_measure, move, apart=False)

    def weighed(self, batch: Batch, gradient: list[tf.Tensor]) -> list[tf.Tensor]:
        """The gradient of L, or one in which examples count otherwise."""
        return gradient

    def solve(self, batch: Batch, gradient: list[tf.Tensor], damping: tf.Tensor) -> list[tf.Tensor]:
        """(F + damping I)⁻¹ gradient, from what the curvature has seen."""
        return self.curvature.solve(batch, gradient, damping)

    def added(self, step: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> tf.Tensor:
        """What `update_step` adds to a variable."""
        return self._scales[tf.as_dtype(variable.dtype)] * tf.cast(step, variable.dtype)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """θ ← θ - factor * learning_rate * step, or θ + factor * step."""
        delta = self.added(gradient, variable, learning_rate)
        if self._last:
            self.assign(self._last[self._get_variable_index(variable)], delta)
        # Not `assign_add`: the guard may hold the weights as they are, which would be copied first.
        self.assign(variable, tf.convert_to_tensor(variable) + delta)

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("momentum", "trust_region", "step")}
        return {**super().get_config(), "damping": self._adaptive.config, **own}
