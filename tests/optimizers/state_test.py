"""The state of an optimizer: readable names, and whose it is when it comes back."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import models as helpers
from helpers.versions import not_in_oldest

import kfisher
from kfisher.optimizers import EmpiricalNaturalGradient, NaturalGradient, SophiaG

X, Y = np.random.default_rng(0).normal(size=(8, 3)).astype("float32"), np.ones((8, 1), "float32")
OPTIMIZERS = {
    "kfac": lambda: NaturalGradient(0.1, seed=0),
    "ekfac": lambda: NaturalGradient(0.1, curvature="ekfac", seed=0),
    "diagonal": lambda: NaturalGradient(0.1, curvature="diagonal", seed=0),
    "gram": lambda: NaturalGradient(0.1, curvature="gram", seed=0),
    "dense": lambda: NaturalGradient(0.1, curvature="dense", seed=0),
    "matrix_free": lambda: NaturalGradient(0.1, curvature="matrix_free", seed=0),
    "exact": lambda: NaturalGradient(0.1, "exact", "gram", seed=0),
    "empirical": lambda: EmpiricalNaturalGradient(0.1, "gram", damping=1.0, seed=0),
    "sophia": lambda: SophiaG(0.1, seed=0),
}


def network(optimizer, width=2, **options):
    loss = keras.losses.MeanSquaredError()
    return helpers.network(optimizer, keras.layers.Dense(width), loss=loss, outputs=1, **options)


def built(optimizer, width=2):
    """Its state there and its identity settled, without the time that a step takes."""
    model = network(optimizer, width)
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_variable_has_a_readable_name_of_its_own(name):
    names = [v.path for v in built(OPTIMIZERS[name]()).optimizer.variables]
    assert len(set(names)) == len(names)
    for kinds in (("identity",), ("skipped_steps",), ("kernel_", "weights_")):
        assert any(kind in n for n in names for kind in kinds)


def test_what_is_kept_of_the_weights_is_one_vector_however_many_they_are():
    names = [v.name for v in built(NaturalGradient(seed=0)).optimizer.variables]
    kept = ("momentum", "weights_at_start", "weights_previous", "momentum_previous")
    assert [sum(n.endswith(kind) for n in names) for kind in kept] == [1, 1, 1, 1]


def test_variables_of_one_name_are_counted():
    class Twice(keras.layers.Layer):
        def build(self, shape):
            self.a, self.b = (self.add_weight(shape=(3,), name="same") for _ in range(2))

        def call(self, x):
            return tf.reduce_sum(self.a * x + self.b, 1, keepdims=True)

    model = kfisher.Sequential([keras.Input((3,)), Twice()])
    model.compile(NaturalGradient(0.1, momentum=0.5, use_ema=True), "mse")
    model.optimizer.build(model.trainable_variables)
    names = [v.path for v in model.optimizer.variables]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_models_are_written_in_hdf5(name, tmp_path):
    model = built(OPTIMIZERS[name]())
    model.save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5") as file:
        names = list(file["optimizer_weights"].attrs["weight_names"])
    assert [n.decode() if isinstance(n, bytes) else n for n in names] == [
        v.path for v in model.optimizer.variables
    ]


def test_a_model_from_hdf5_is_trained_by_an_optimizer_that_begins_anew(tmp_path, caplog):
    """Keras makes it a plain model, and builds its optimizer for no variable."""
    model = built(OPTIMIZERS["kfac"]())
    model.save(tmp_path / "m.h5")
    loaded = kfisher.attach(keras.saving.load_model(tmp_path / "m.h5"))
    assert "freshly initialized optimizer" in caplog.text
    assert all(map(np.array_equal, loaded.get_weights(), model.get_weights()))
    loaded.run_eagerly = True
    loaded.fit(X, Y, verbose=0)
    assert int(loaded.optimizer.iterations) == 1


# --- whose state it is --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models():
    return {name: built(make()) for name, make in OPTIMIZERS.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory, models):
    folder = tmp_path_factory.mktemp("state")
    for name, model in models.items():
        model.save_weights(folder / f"{name}.weights.h5")
        tf.train.Checkpoint(optimizer=model.optimizer).write(str(folder / name))
    tf.train.Checkpoint(model=models["kfac"]).write(str(folder / "model"))
    return folder


@pytest.mark.parametrize("here", OPTIMIZERS)
def test_the_state_of_another_optimizer_is_refused(here, files, models):
    model = models[here]
    checkpoint = tf.train.Checkpoint(optimizer=model.optimizer)
    before = [v.numpy() for v in model.optimizer.variables]
    for saved in OPTIMIZERS:
        if saved == here:
            continue
        with pytest.raises(ValueError, match=r"(?s)not that of this optimizer and model.* instead of "):
            model.load_weights(files / f"{saved}.weights.h5")
            pytest.fail(f"the weights of {saved} were taken")
        with pytest.raises(ValueError, match=r"(?s)not that of this optimizer and model.* instead of "):
            checkpoint.read(str(files / saved))
            pytest.fail(f"the state of {saved} was taken")
    assert all(np.array_equal(a, v) for a, v in zip(before, model.optimizer.variables))
    checkpoint.read(str(files / here)).assert_consumed()
    model.load_weights(files / f"{here}.weights.h5")
    model.optimizer.check(model)


def test_the_difference_is_named(files, models):
    with pytest.raises(ValueError, match="optimizer='SophiaG' instead of 'NaturalGradient'"):
        models["diagonal"].load_weights(files / "sophia.weights.h5")
    model = built(OPTIMIZERS["gram"]())
    with pytest.raises(ValueError, match="fisher='Exact' instead of 'Sampled'"):
        tf.train.Checkpoint(optimizer=model.optimizer).read(str(files / "exact"))


def test_the_state_of_another_architecture_is_refused(files):
    """Three hidden units have as many variables as two."""
    model = built(OPTIMIZERS["kfac"](), width=3)
    with pytest.raises(ValueError, match="weights='4 with 11 entries .*' instead of '4 with 16 entries"):
        tf.train.Checkpoint(model=model).read(str(files / "model"))
    store = {str(i): v.numpy() for i, v in enumerate(built(OPTIMIZERS["kfac"]()).optimizer.variables)}
    with pytest.raises(ValueError, match="weights='4 with 11 entries .*' instead of '4 with 16 entries"):
        model.optimizer.load_own_variables(store)


@pytest.mark.parametrize("saved", ["sophia", "adam"])
def test_a_backup_of_another_optimizer_is_refused(saved, tmp_path):
    backup = keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
    optimizer = "adam" if saved == "adam" else SophiaG(seed=0)
    network(optimizer, **helpers.EAGER).fit(X, Y, verbose=0, callbacks=[backup])
    model = network(NaturalGradient(0.1, curvature="diagonal"), **helpers.EAGER)
    with pytest.raises(ValueError, match="not that of this optimizer and model"):
        model.fit(X, Y, epochs=2, verbose=0, callbacks=[backup])


@pytest.mark.parametrize("eager", [False, True])
def test_state_that_is_replaced_between_two_steps_is_noticed(eager, models):
    model = network(OPTIMIZERS["gram"](), run_eagerly=eager)
    model.train_on_batch(X, Y)
    for variable, other in zip(model.optimizer.variables, models["exact"].optimizer.variables):
        variable.assign(other)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="not that of this optimizer"):
        model.train_on_batch(X, Y)


# --- whose weights it is for --------------------------------------------------------------------------


@pytest.mark.parametrize("attached, trainable", [(False, True), (True, False)])
def test_layers_that_are_frozen_or_not_since_the_optimizer_was_built_are_noticed(attached, trainable):
    kind = keras.Sequential if attached else kfisher.Sequential
    model = kind([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    if attached:
        kfisher.attach(model)
    model.layers[0].trainable = not trainable
    model.compile(NaturalGradient(0.1, curvature="gram", trust_region=None, damping=1.0), "mse")
    model.fit(X, Y, verbose=0)
    model.layers[0].trainable = trainable
    with pytest.raises(ValueError, match="compile the model with a new optimizer"):
        model.fit(X, Y, verbose=0)
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)


@not_in_oldest("they have no MultiOptimizer")
def test_one_of_several_optimizers_is_refused_when_it_is_compiled():
    several = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.SGD(), {".*kernel": NaturalGradient(0.1)})
    )
    with pytest.raises(ValueError, match="must train all trainable weights.*Received.*NaturalGradient"):
        network(several)
    network(keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.SGD())))
