"""What `tests/distribute` runs in a process that has several logical devices; each function is one test."""

import keras
import numpy as np
import tensorflow as tf

import kfisher
from helpers import replicated
from helpers.crossing_cases import are_on_paper, crossings
from helpers.models import EAGER
from helpers.replicated import (
    LABELS,
    X,
    again,
    copies_are_equal,
    distance,
    mirrored,
    moved,
    optimizer,
    skips_what_is_bad_on_any,
    trained,
)


def equals_one(curvature, fisher, replicas, tolerance=1e-12, model="dense", **settings):
    """The weights after six steps of the whole batch, and all copies of all state."""
    make, make_model = optimizer(curvature, fisher, **settings), replicated.MODELS[model]
    # Eagerly, which is quicker; `equals_one_in_single_precision` compares with a graph.
    one = trained(None, make, make_model, **EAGER)
    several = trained(mirrored(replicas), make, make_model)
    assert moved(one, make_model) > 0.01
    assert distance(one, several) < tolerance
    assert copies_are_equal(several)
    assert int(several.optimizer.iterations.numpy()) == int(one.optimizer.iterations.numpy()) > 0


def others_equal_one(name):
    """Optimizers that are no `NaturalGradient` with options."""
    make = {
        "SophiaG": lambda: kfisher.optimizers.SophiaG(0.01, seed=1),
        "ImprovedEmpiricalFisher": lambda: kfisher.optimizers.ImprovedEmpiricalFisher(damping=0.02),
        "EmpiricalNaturalGradient": lambda: kfisher.optimizers.EmpiricalNaturalGradient(),
    }[name]
    one, two = trained(None, make), trained(mirrored(2), make)
    assert moved(one) > 0.01
    assert distance(one, two) < 1e-12
    assert copies_are_equal(two)


def equals_one_in_single_precision():
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    try:
        one, two = trained(None, optimizer()), trained(mirrored(2), optimizer())
        assert two.trainable_variables[0].dtype == "float32"
        assert distance(one, two) < 1e-5 * moved(one)
        assert copies_are_equal(two)
    finally:
        replicated.double()


def equals_one_and_skips_together(curvature="kfac", fisher="sampled"):
    """The same, and then a batch with NaN in the part of either replica: all skip together, and go on."""
    make = optimizer(curvature, fisher)
    one = trained(None, make, steps=3, **EAGER)
    with crossings() as sent:
        model = trained(mirrored(2), make, steps=3)
    assert are_on_paper(sent, (6, 4, 5, 3))
    assert moved(one) > 0.1
    assert distance(one, model) < 1e-12
    skips_what_is_bad_on_any(model, 2)
    before = replicated.weights_of(model)
    again(model, 45)
    assert max(np.abs(a - b).max() for a, b in zip(before, replicated.weights_of(model))) > 1e-3
    assert int(model.optimizer.iterations.numpy()) == 50
    assert copies_are_equal(model)


def all_take_back_together():
    """Weights that something outside has spoilt: all replicas go back by one step."""
    one, two = trained(None, optimizer(), steps=3), trained(mirrored(2), optimizer(), steps=3)
    for model in (one, two):
        for variable in model.trainable_variables:
            variable.assign(50 * variable)
        again(model)
        assert int(model.optimizer.rejected_steps.numpy()) == 1
    assert distance(one, two) < 1e-12
    assert copies_are_equal(two)


def losses_are_scaled():
    """With a LossScaleOptimizer around it the steps are the same, and NaN on one is skipped by all."""

    def scaled():
        return keras.optimizers.LossScaleOptimizer(optimizer()(), initial_scale=8.0)

    one, two = trained(None, scaled, steps=3), trained(mirrored(2), scaled, steps=3)
    assert moved(one) > 0.05
    assert distance(one, two) < 1e-12
    skips_what_is_bad_on_any(two, 2)
    assert float(two.optimizer.dynamic_scale.numpy()) == 2.0
    again(two, 45)
    assert copies_are_equal(two)


def ragged(replicas=4, rows=(24, 9, 5), reduction="sum", l2=0.0, curvature="kfac", **settings):
    """Parts of several sizes, none among them, are weighed as Keras weighs them."""

    def model():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
        own, loss = replicated.dense(loss)
        for layer in own.layers if l2 else ():
            layer.kernel.regularizer = keras.regularizers.L2(l2)
        return own, loss

    region = 0.01 * sum(rows) / len(rows) if reduction == "sum" else 0.01
    make = optimizer(curvature, **{"trust_region": region, **settings})
    one = two = None
    for strategy in (None, mirrored(replicas)):
        with replicated.scope(strategy):
            keras.utils.set_random_seed(3)
            trains, loss = model()
            trains.compile(optimizer=make(), loss=loss, run_eagerly=strategy is None)
        for count in rows:
            weights = None
            if reduction != "sum" and strategy is None:
                weights = keras_weights(count, replicas)
            trains.fit(
                X[:count], LABELS[:count], sample_weight=weights, batch_size=count, shuffle=False, verbose=0
            )
        one, two = (trains, two) if strategy is None else (one, trains)
    assert int(two.optimizer.skipped_steps.numpy()) == 0
    assert moved(one, model) > 0.01
    assert distance(one, two) < 1e-12
    assert copies_are_equal(two)


def keras_weights(count, replicas):
    """N / (R N_r): what makes the mean over a batch that of the means over its parts."""
    size = -(-count // replicas)
    sizes = [len(range(count)[i * size : (i + 1) * size]) for i in range(replicas)]
    return np.concatenate([np.full(n, count / (replicas * n)) for n in sizes if n])


def layers_on_two_devices_train():
    """Without any strategy: a branch that takes up the variables of both cannot run on one of them."""
    first, second = keras.layers.Dense(4, "tanh"), keras.layers.Dense(3)
    with tf.device("CPU:0"):
        first.build((None, 5))
    with tf.device("CPU:1"):
        second.build((None, 4))
    assert "CPU:1" in second.kernel.value.device
    model = kfisher.Sequential([keras.Input((5,)), first, second])
    model.compile(kfisher.optimizers.NaturalGradient(seed=0), replicated.crossentropy())
    before = replicated.weights_of(model)
    again(model, 2)
    assert int(model.optimizer.skipped_steps.numpy()) == 0
    assert all((a != b).any() for a, b in zip(before, replicated.weights_of(model)))


def labels_are_those_of_one_draw():
    likelihood = kfisher.likelihoods.Categorical(from_logits=True)
    eta = tf.constant(np.random.default_rng(1).normal(size=(10, 3)))
    seed = tf.constant([5, 6])
    fisher = kfisher.Sampled(2)
    whole = fisher.labels(likelihood, eta, None, seed)
    sizes = [4, 4, 2]
    starts = np.cumsum([0, *sizes])
    strategy = mirrored(3)

    @tf.function(autograph=False)
    def drawn():
        def here():
            i = tf.distribute.get_replica_context().replica_id_in_sync_group
            part = eta[tf.gather(starts, i) : tf.gather(starts, i + 1)]
            return fisher.labels(likelihood, part, None, seed)

        return strategy.run(here)

    parts = strategy.experimental_local_results(drawn())
    assert [p.shape[1] for p in parts] == sizes
    assert np.array_equal(np.concatenate(parts, 1), whole)


def state_goes_on(folder):
    """Saved on two, loaded on one or four: it goes on as if nothing had been."""
    path = f"{folder}/model.keras"
    two = trained(mirrored(2), optimizer(), steps=2)
    assert moved(two) > 0.05
    two.save(path)
    again(two, 2)
    for strategy in (None, mirrored(4)):
        with replicated.scope(strategy):
            loaded = keras.models.load_model(path)
        again(loaded, 2)
        assert int(loaded.optimizer.iterations.numpy()) == 4
        assert distance(two, loaded) < 1e-12


def backup_goes_on(folder):
    """`BackupAndRestore` after an error: all state ends in the bits of a training without one."""

    class Interrupted(Exception):
        pass

    def interrupt(epoch, logs):
        if epoch == 3:
            raise Interrupted

    def fitted(name, *callbacks):
        with replicated.scope(mirrored(2)):
            keras.utils.set_random_seed(3)
            model, loss = replicated.dense()
            model.compile(optimizer=optimizer()(), loss=loss)
        backup = keras.callbacks.BackupAndRestore(f"{folder}/{name}")
        callbacks = [*callbacks, backup]
        model.fit(X, LABELS, batch_size=12, epochs=5, shuffle=False, verbose=0, callbacks=callbacks)
        return model

    whole = fitted("whole")
    try:
        fitted("parts", keras.callbacks.LambdaCallback(on_epoch_begin=interrupt))
    except Interrupted:
        resumed = fitted("parts")
    assert int(resumed.optimizer.iterations.numpy()) == int(whole.optimizer.iterations.numpy()) == 10
    for a, b in zip(
        [*whole.variables, *whole.optimizer.variables], resumed.variables + resumed.optimizer.variables
    ):
        assert np.array_equal(a.numpy(), b.numpy())
    assert copies_are_equal(resumed)


def one_replica_alone():
    one, alone = trained(None, optimizer(), steps=3), trained(mirrored(1), optimizer(), steps=3)
    assert moved(one) > 0.05
    assert distance(one, alone) == 0.0


def refusals():
    """Each with what to do instead."""

    def message(make_model=replicated.dense, strategy=None, **compiled):
        try:
            trained(strategy or mirrored(2), steps=1, make_model=make_model, **compiled)
        except ValueError as error:
            return str(error)
        raise AssertionError("nothing was refused")

    def normalised():
        layers = [
            keras.Input((5,)),
            keras.layers.BatchNormalization(synchronized=True),
            keras.layers.Dense(3),
        ]
        return kfisher.Sequential(layers), keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    assert "`synchronized=False`" in message(normalised, make_optimizer=optimizer())

    def in_a_list():
        class Listed(kfisher.FisherMixin, keras.Model):
            def __init__(self):
                super().__init__()
                self.parts = [keras.layers.BatchNormalization(synchronized=True), keras.layers.Dense(3)]

            def call(self, x, training=False):
                return self.parts[1](self.parts[0](x, training=training))

        return Listed(), keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    assert "`synchronized=False`" in message(in_a_list, make_optimizer=optimizer("matrix_free"))
    assert "`jit_compile=False`" in message(make_optimizer=optimizer(), jit_compile=True)
    assert "`steps_per_execution=1`" in message(make_optimizer=optimizer(), steps_per_execution=2)
    averaged = optimizer(use_ema=True, ema_overwrite_frequency=2)
    assert "ema_overwrite_frequency=2" in message(make_optimizer=averaged)
    assert "ema_overwrite_frequency=2" in message(make_optimizer=averaged, strategy=mirrored(1))
    outside = optimizer()()
    assert "inside of `with strategy.scope():`" in message(make_optimizer=lambda: outside)
    central = tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"], "CPU:0")
    others = {
        "strategy=CentralStorageStrategy": central.scope(),
        "On TensorFlow `keras.distribution` distributes": keras.distribution.DataParallel(
            devices=["cpu:0"]
        ).scope(),
    }
    for part, scope in others.items():
        with scope:
            try:
                optimizer()()
            except ValueError as error:
                assert part in str(error)
            else:
                raise AssertionError(f"not refused: {part}")


def loss_scaling_in_a_loop_of_ones_own_is_refused():
    """There Keras takes the gradients of each replica for those of all; `train_step` asks all."""
    strategy = mirrored(2)
    with strategy.scope():
        model, loss_of = replicated.dense()
        outer = keras.optimizers.LossScaleOptimizer(optimizer()(), initial_scale=8.0)
        model.compile(optimizer=outer, loss=loss_of)
        outer.build(model.trainable_variables)
    data = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(24)
    data = strategy.experimental_distribute_dataset(data)

    def by_hand(x, y):
        outer.inner_optimizer.observe(model, x, y)
        with tf.GradientTape() as tape:
            loss = outer.scale_loss(loss_of(y, model(x, training=True)))
        weights = model.trainable_variables
        outer.apply_gradients(zip(tape.gradient(loss, weights), weights))

    before = replicated.weights_of(model)
    for step in (by_hand, lambda x, y: model.train_step((x, y))):
        try:
            for x, y in data:
                tf.function(lambda x, y: strategy.run(step, (x, y)))(x, y)
        except ValueError as error:
            assert "call `model.train_step(data)` there" in str(error)
            assert step is by_hand
            assert all(np.array_equal(a, b) for a, b in zip(before, replicated.weights_of(model)))
    assert int(outer.inner_optimizer.iterations.numpy()) == 1
    assert not np.array_equal(before[0], replicated.weights_of(model)[0])


def keras_stops_at_a_batch_that_does_not_divide():
    """Without `build_from_part`; with it, any optimizer trains."""
    with mirrored(2).scope():
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
    arguments = {"x": X[:23], "y": X[:23, :1], "batch_size": 23, "verbose": 0}
    try:
        model.fit(**arguments)
    except Exception:
        kfisher.attach(model).fit(**arguments)
    else:
        raise AssertionError("Keras needs `build_from_part` no more: remove it")


class Subclassed(keras.Model):
    """A model that is built when it is first called."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(3)

    def call(self, x):
        return self.out(self.hidden(x))


def a_loop_of_ones_own():
    """A subclassed model that nothing has built, trained without `fit`."""

    def trained_by_hand(strategy):
        with replicated.scope(strategy):
            keras.utils.set_random_seed(3)
            model, optimizer_ = Subclassed(), optimizer()()
            loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(optimizer=optimizer_, loss=loss_of)
            data = tf.data.Dataset.from_tensor_slices((X, LABELS)).repeat(3).batch(24)
            data = data if strategy is None else strategy.experimental_distribute_dataset(data)

        def step(x, y):
            optimizer_.observe(model, x, y)
            with tf.GradientTape() as tape:
                loss = optimizer_.scale_loss(loss_of(y, model(x, training=True)))
            weights = model.trainable_variables
            optimizer_.apply_gradients(zip(tape.gradient(loss, weights), weights))

        @tf.function
        def run(x, y):
            if strategy is None:
                step(x, y)
            else:
                strategy.run(step, (x, y))

        for batch in data:
            run(*batch)
        return model

    one, two = trained_by_hand(None), trained_by_hand(mirrored(2))
    assert int(two.optimizer.iterations.numpy()) == 3
    assert int(one.optimizer.skipped_steps.numpy()) == int(two.optimizer.skipped_steps.numpy()) == 0
    assert distance(one, two) < 1e-12
    assert copies_are_equal(two)
