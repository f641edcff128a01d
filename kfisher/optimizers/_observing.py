"""Optimizers that see batches: what every kfisher optimizer is built on.

A Keras optimizer is given gradients and variables. Here `observe` shows it the batch first, from which the
curvature takes what it needs; `apply` then hands both on to `take_step`.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher import curvature as curvatures
from kfisher import fisher as fishers
from kfisher._common import checks, replicas
from kfisher._common.borrowed import filled
from kfisher._keras.optimizers import summed
from kfisher.jacobian import layers
from kfisher.jacobian.batch import Batch
from kfisher.jacobian.layers.blocks import Block
from kfisher.likelihoods import of_model
from kfisher.likelihoods.weighted import labels_checked
from kfisher.optimizers import _divergence, _keras_arguments, _replicated, _skips
from kfisher.optimizers._accumulation import Accumulation
from kfisher.optimizers._gradients import apart, in_order
from kfisher.optimizers._identity import Identity

_UNBOUND = (
    "{name} has seen no batch, and the gradient alone does not say what the Fisher matrix is. Use one of:\n"
    "  1. a model made with `kfisher.Model` or `kfisher.Sequential` (or a class with "
    "`kfisher.FisherMixin` before `keras.Model`),\n"
    "  2. `kfisher.attach(model)` before `fit`, for a model that is there already (again for a clone "
    "of a Sequential, and for a copy of one of a class of your own, loaded or unpickled),\n"
    "  3. `optimizer.observe(model, x, y, sample_weight)` before `apply_gradients`, in a training loop of "
    "your own."
)


class ObservingOptimizer(keras.optimizers.Optimizer):
    """A Keras optimizer that is shown each batch before its gradient.

    Subclasses take the step in `take_step`. Arguments as in
    `kfisher.optimizers.NaturalGradient`, all others as in `keras.optimizers.Optimizer`.
    """

    skipped_steps: Any = 0  # none before the first step
    rejected_steps: Any = 0  # none, where no step is taken back
    damping: Any = None  # λ of the next step, where there is one

    def __init__(
        self,
        fisher: Any,
        curvature: Any,
        likelihood: Any,
        seed: Any,
        gradient_accumulation_steps: Any,
        **kwargs: Any,
    ):
        replicas.require_supported(type(self).__name__)
        super().__init__(gradient_accumulation_steps=None, **_keras_arguments.checked(kwargs))
        self._strategy = tf.distribute.get_strategy()
        self._identity = Identity(self.add_variable)
        self._accumulation = Accumulation(gradient_accumulation_steps)
        self.fisher = fishers.get(fisher)
        self.curvature: Any = curvatures.get(curvature)
        self.likelihood = of_model.get(likelihood)
        kind = "an integer from 0 to 2^31 - 1, or None"
        drawn = seed is None
        self.seed = replicas.agreed(random.randrange(2**31)) if drawn else checks.seed("seed", seed, kind)
        self._of_steps = _replicated.OfSteps()
        self.guard: Any = None
        self._model: Callable[[], keras.Model | None] = lambda: None
        self._blocks: list[Block] | None = None
        self._curved = False  # whether the state of the curvature is there
        self._reported: Any = None  # skipped steps that the user knows of, by their causes

    def take_step(self, batch: Batch, gradient: list, variables: list, missing: set, losses: tuple) -> None:
        """Changes the weights.

        Args:
            batch: The last batch of the step.
            gradient: Of the loss on all batches of the step, a tensor for each of `variables`.
            variables: The trainable variables, in the order of the model.
            missing: The `id`s of those that the loss does not depend on.
            losses: The loss on all batches of the step, and on the last of them, with the weights before it.
        """
        raise NotImplementedError

    # --- state ----------------------------------------------------------------------------------

    def build(self, variables: Any) -> None:
        """Creates all state: counts, sums of gradients, and the curvature's.

        That of a running curvature follows the layers of the model. They are known from the model, from the
        configuration of an optimizer that was saved, or else from the first batch.
        """
        if not variables:  # Keras' reader of .h5 hands over those of no layer
            return
        if not self.built:
            _replicated.check_strategy(self, self._strategy)
            super().build(variables)
            own = self._identity.variable
            self._of_keras = [v for v in self.variables if len(v.shape) and v is not own]  # averages
            # Not the variables: Keras would save them with the state of the optimizer.
            self._built_for = [id(v) for v in variables]
            names = ("skipped_steps", "failed_steps_in_a_row", "divergence_told")
            self.skipped_steps, self.failed_steps, self.told = (
                self.add_variable((), dtype="int", name=name) for name in names
            )
            self.skips = self.add_variable((len(_skips.CAUSES),), dtype="int", name="skipped_by_cause")
            self._accumulation.build(self, variables)
            self.build_own(variables)
        model = self._model() if self.curvature.needs_blocks else None
        if not self._curved and model is not None and model.built and getattr(model, "inputs", None):
            self._blocks = layers.blocks_of(model, None)
        if not self._curved and (self._blocks is not None or not self.curvature.needs_blocks):
            self._curved = True
            self.curvature.build(self.add_variable, variables, self._blocks, self._accumulation.parts)
            self.build_guard(variables, self._of_keras)
            self._identity.settle(self, variables, self._blocks)

    def add_variable(
        self,
        shape: Any,
        initializer: Any = "zeros",
        dtype: Any = None,
        aggregation: Any = "none",
        layout: Any = None,
        name: Any = None,
    ) -> Any:
        """As in Keras, with a name that no other variable here has: files in HDF5 keep state by its name."""
        taken, first = {v.name for v in self.variables}, name or "variable"
        names = itertools.chain([first], (f"{first}_{i}" for i in itertools.count(1)))
        name = next(n for n in names if n not in taken)
        return super().add_variable(shape, initializer, dtype, aggregation, layout, name)

    def build_own(self, variables: list[keras.Variable]) -> None:
        """Creates the state of a subclass."""

    def build_guard(self, variables: list[keras.Variable], kept: list[keras.Variable]) -> None:
        """Creates what a subclass needs to judge its steps by, when all other state is there.

        Args:
            variables: The trainable variables.
            kept: What else Keras changes in a step.
        """

    def accepts(self, batch: Batch, loss: tf.Tensor) -> tf.Tensor | bool:
        """True if averages over batches may take in one with this loss."""
        return True

    def bind(self, model: keras.Model) -> None:
        """Tells the optimizer which model it will train, so that `build` need not wait for a batch.

        `compile` of kfisher models and `kfisher.attach` call it.
        """
        self._model = weakref.ref(model)

    # --- one step -------------------------------------------------------------------------------

    @tf.autograph.experimental.do_not_convert  # there is no Python control flow on tensors in all of kfisher
    def observe(self, model: keras.Model, x: Any, y: Any, sample_weight: Any = None) -> None:
        """Shows the optimizer the batch of the next step; `train_step` of kfisher models calls it.

        Runs the model once more, with nothing in it changed, and keeps what the next `apply` needs. In a loop
        of your own pass the loss through `scale_loss` before its gradient is taken, as `fit` does: otherwise
        each step takes one more forward pass to know it.

        Args:
            model: The model that is trained, compiled with its loss.
            x, y, sample_weight: The batch, in the structures that `fit` takes.
        """
        _replicated.check(self, self._strategy, model)
        self._accumulation.check(self.curvature)
        x, y, sample_weight = keras.tree.map_structure(
            lambda t: t if t is None else tf.convert_to_tensor(t), (x, y, sample_weight)
        )
        (x, y, sample_weight), known = filled((x, y, sample_weight))
        if not self.built:
            self._reported = 0
        if not model.built or not model.trainable_variables or not self.built or not self._curved:
            replicas.outside(lambda: self._build_for(model, x))
        if self._reported is None:  # a count that was loaded
            with tf.init_scope():
                self._reported = self.skips.value.numpy()
        self.check(model)
        part = self._accumulation.part()
        step = tf.cast(self.iterations.value, tf.int32)
        seed = tf.stack([self.seed, step * self._accumulation.parts + part])
        batch = Batch(model, x, y, sample_weight, self.fisher, seed, self.likelihood, **known)
        batch.accepts = self.accepts
        self._of_steps.here.loss = self._of_steps.here.least = None
        damping = tf.convert_to_tensor(0.0 if self.damping is None else self.damping)
        self._identity.assertion()
        self.curvature.observe(batch, step, damping, part)
        self._of_steps.here.observed(batch)

    @property
    def parts_of_step(self) -> int:
        """From how many batches each step is accumulated, `gradient_accumulation_steps` or 1."""
        return self._accumulation.parts

    @property
    def batch(self) -> Batch | None:
        """The batch that this replica has observed, until its step is taken."""
        return self._of_steps.here.seen

    def _build_for(self, model: keras.Model, x: Any) -> None:
        if not model.built or not model.trainable_variables:
            model(keras.tree.map_structure(lambda t: keras.KerasTensor(t.shape, t.dtype.name), x))
        if not self._curved and self._blocks is None and self.curvature.needs_blocks:
            self._blocks = layers.blocks_of(model, x)
        self.build(model.trainable_variables)

    def checking(self, model: keras.Model) -> contextlib.AbstractContextManager[None]:
        """The block in which the loss of `model` refuses bad labels; each training step enters it."""
        return labels_checked(model, self.likelihood, self._of_steps.tell_least, self._of_steps.counting)

    def check(self, model: keras.Model) -> None:
        """Raises if its state is that of something else, or not of the weights that `model` trains now."""
        if not self.built:
            return
        self._identity.check()
        trained = model.trainable_variables
        if [id(v) for v in trained] != self._built_for:
            raise ValueError(
                "The trainable variables of the model are not those that the optimizer was built for: it "
                "has no state of the others. After layers were frozen or unfrozen, compile the model with a "
                f"new optimizer. Received: {[v.path for v in trained]}"
            )

    def scale_loss(self, loss: Any) -> Any:
        """As in Keras; `fit` calls it with the loss of each step, which is remembered."""
        self._of_steps.here.loss = loss
        return super().scale_loss(loss)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Takes one natural-gradient step from the gradients of the loss on the observed batch."""
        between = self._of_steps.here
        batch, loss, least = between.taken()
        if batch is None:
            raise ValueError(_UNBOUND.format(name=type(self).__name__))
        own = batch.model.trainable_variables
        grads = list(grads)
        variables = list(own if trainable_variables is None else trainable_variables)
        missing = {id(v) for v, g in zip(variables, grads) if g is None}
        between.written, grads = apart(grads, variables)
        if loss is None:  # not known from a loop that does not call `scale_loss`
            with self.checking(batch.model):
                loss, least = batch.loss_above_least(), None
        loss = tf.convert_to_tensor(loss if least is None else tf.cast(loss, least.dtype) - least)
        with tf.control_dependencies([loss]):  # so what it checks comes before any change
            gradient = [tf.identity(g) for g in in_order(grads, variables, own, self.loss_scale_factor)]
        *gradient, loss = _replicated.whole(batch, [*gradient, loss])
        own_loss = tf.cast(loss, tf.float64)

        def take_step(mean: Any, mean_loss: Any) -> None:
            self.take_step(batch, mean, own, missing, (mean_loss, own_loss))

        self._accumulation.add(batch, gradient, own_loss, take_step)
        _divergence.warn_once(self, batch.xla)

    def skip(
        self, batch: Batch, loss: Any, gradient: list, solved: Any, outlier: Any = False, scaled: bool = False
    ) -> None:
        """Leaves a step out, of a `scaled` loss or not, and counts it by what was seen (`_skips.cause`)."""
        self.iterations.assign_add(self._accumulation.begin_again() if scaled else 1)
        self.skipped_steps.assign_add(1)
        bad = self._accumulation.bad(batch, alone=scaled)  # a scale is of each part
        found = _skips.cause(*bad, loss, gradient, solved, outlier)
        self.skips.assign_add(tf.one_hot(found, len(_skips.CAUSES), dtype=self.skips.dtype))
        # A scale that is too large is made smaller until it is not: that is no failure.
        self.failed(tf.cast(tf.not_equal(found, _skips.OVERFLOW), tf.int32) if scaled else 1)

    def withheld(self, finite: tf.Tensor, grads: list) -> None:
        """Called when an optimizer around this one will keep gradients to itself unless they are `finite`."""
        batch, loss = self._of_steps.here.withheld()
        if batch is not None:
            replicas.cond(finite, lambda: None, lambda: self.skip(batch, loss, grads, True, scaled=True))
            _divergence.warn_once(self, batch.xla)

    def failed(self, count: Any = 1) -> None:
        """Called when a step was skipped or taken back."""
        self.failed_steps.assign_add(tf.cast(count, self.failed_steps.dtype))

    def succeeded(self) -> None:
        """Called when a step was taken."""
        self.failed_steps.assign(0)

    def trouble(self) -> str | None:
        """A sentence on what is wrong with the training so far, with the numbers, or `None`."""
        return _divergence.trouble(self, self._of_steps.counts_from_least) if self.built else None

    def finalize_variable_values(self, var_list: Any) -> None:
        """Called by `fit` at its end: reports skipped steps."""
        super().finalize_variable_values(var_list)
        self._reported = _skips.report(self, self.skips.numpy(), self._reported)
        trouble = self.curvature.trouble()
        if trouble:
            warnings.warn(trouble, stacklevel=2)

    def apply_steps(self, steps: list, variables: list) -> None:
        """Keras' treatment of gradients, given to directions: clipping, weight decay, `update_step`, EMA."""
        if self.loss_scale_factor is not None:  # Keras divides by it
            steps = [s if s is None else s * self.loss_scale_factor for s in steps]
        steps = [self._of_steps.here.written.get(id(v), s) for v, s in zip(variables, steps)]
        with summed(self):
            super().apply(steps, variables)

    def load_own_variables(self, store: Any) -> None:
        """As in Keras, but state of something else is an error where there is some to be replaced."""
        if self._curved:
            self._identity.check_store(store, self.variables)
        super().load_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        config = {
            **super().get_config(),
            "fisher": serialize(self.fisher),
            "curvature": serialize(self.curvature),
            "likelihood": None if self.likelihood is None else serialize(self.likelihood),
            "seed": self.seed,
            "gradient_accumulation_steps": self.parts_of_step if self.parts_of_step > 1 else None,
        }
        if self._blocks is not None:
            config["blocks"] = [block.get_config() for block in self._blocks]
        return config

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None) -> Any:
        config = dict(config)
        blocks = config.pop("blocks", None)
        optimizer = super().from_config(config, custom_objects)
        if blocks is not None:
            optimizer._blocks = [Block.from_config(block) for block in blocks]
        return optimizer
