"""How the batch reaches the optimizer: kfisher models, attach, and loops of one's own."""

import copy
import importlib
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import EAGER

import kfisher

X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = (X.sum(1, keepdims=True) > 0).astype("float32")


def optimizer(curvature="gram", **kwargs):
    """In function space, which is traced in half the time."""
    return kfisher.optimizers.NaturalGradient(0.5, "exact", curvature, damping=1e-2, seed=0, **kwargs)


def layers():
    return [keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1, activation="sigmoid")]


def functional(cls):
    inputs = keras.Input((3,))
    outputs = inputs
    for layer in layers():
        outputs = layer(outputs)
    return cls(inputs, outputs)


@keras.saving.register_keras_serializable("kfisher_tests")
class Subclassed(kfisher.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = layers()

    def call(self, x):
        return self.last(self.first(x))


@keras.saving.register_keras_serializable("kfisher_tests")
class Mixed(kfisher.FisherMixin, keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = layers()

    def call(self, x):
        return self.last(self.first(x))


MODELS = {
    "sequential": lambda: kfisher.Sequential([keras.Input((3,)), *layers()]),
    "functional": lambda: functional(kfisher.Model),
    "subclassed": Subclassed,
    "mixin": Mixed,
    "attached": lambda: kfisher.attach(keras.Sequential([keras.Input((3,)), *layers()])),
    "upgraded": lambda: (lambda m: kfisher.Model(m.input, m.output))(functional(keras.Model)),
}


def trained(model, opt=None, run_eagerly=True):
    """Its weights after six steps, which are sooner taken than traced."""
    model(X)
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape) * 0.5 for w in model.get_weights()])
    model.compile(opt or optimizer(), "binary_crossentropy", run_eagerly=run_eagerly)
    model.fit(X, Y, batch_size=10, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.fixture(scope="module")
def reference():
    return trained(MODELS["sequential"]())


@pytest.mark.parametrize("name", [n for n in MODELS if n != "sequential"])
def test_every_way_to_make_a_model_trains_the_same(name, reference):
    for a, b in zip(trained(MODELS[name]()), reference):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sequential", "functional", "subclassed", "mixin"])
def test_a_loaded_model_goes_on_training_as_if_it_had_never_been_saved(name, tmp_path):
    model = MODELS[name]()
    # Those whose layers are known from the model alone, and those that a batch or the configuration tells of.
    opt = optimizer("kfac" if name in ("functional", "subclassed") else "gram", momentum=0.5)
    trained(model, opt, run_eagerly=name != "mixin")
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert type(loaded) is type(model)
    for m in (model, loaded):
        m.fit(X, Y, batch_size=10, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights()):
        assert np.array_equal(a, b)
    for a, b in zip(model.optimizer.variables, loaded.optimizer.variables):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(
    "make, how",
    [(lambda: kfisher.Sequential(layers()), EAGER), (Subclassed, {}), (Mixed, EAGER)],
    ids=["sequential", "subclassed", "mixin"],
)
def test_a_model_that_fit_has_to_build_trains(make, how):
    model = make()
    model.compile(optimizer("kfac"), "binary_crossentropy", **how)
    losses = model.fit(X, Y, batch_size=24, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("error:The structure of `inputs`")
def test_a_model_of_named_inputs_trains_without_a_warning():
    """In any order: Keras takes a list in the place of a dictionary only if its keys are sorted."""
    inputs = {name: keras.Input((size,), name=name) for name, size in (("b", 1), ("a", 2))}
    outputs = keras.layers.Dense(1, "sigmoid")(keras.layers.Concatenate()([inputs["a"], inputs["b"]]))
    model = kfisher.Model(inputs, outputs)
    model.compile(optimizer(), "binary_crossentropy")
    losses = model.fit({"a": X[:, :2], "b": X[:, 2:]}, Y, batch_size=24, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("make", [MODELS["sequential"], MODELS["upgraded"]], ids=["sequential", "upgraded"])
def test_a_step_is_traced_once(make):
    class Counted(kfisher.optimizers.NaturalGradient):
        traces = 0

        def observe(self, *args):
            self.traces += 1
            super().observe(*args)

    model = make()
    model.compile(Counted(0.5, "exact", "gram", damping=1e-2), "binary_crossentropy")
    model.fit(X, Y, batch_size=12, epochs=2, verbose=0)
    assert model.optimizer.traces == 1


def test_a_custom_loop_observes_before_apply_gradients(reference):
    model = keras.Sequential([keras.Input((3,)), *layers()])
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape) * 0.5 for w in model.get_weights()])
    opt = optimizer()
    model.compile(loss="binary_crossentropy")  # observe() reads the loss from the model

    @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([None, 1])])
    def step(x, y):
        opt.observe(model, x, y)
        with tf.GradientTape() as tape:
            loss = model.compute_loss(y=y, y_pred=model(x, training=True))
        opt.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))

    for _ in range(2):
        for start in (0, 10, 20):
            step(tf.constant(X[start : start + 10]), tf.constant(Y[start : start + 10]))
    for a, b in zip(model.get_weights(), reference):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_an_optimizer_that_has_seen_no_batch_names_the_three_ways_and_changes_nothing():
    model = keras.Sequential([keras.Input((3,)), *layers()])
    model.compile(optimizer(), "binary_crossentropy")
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"(?s)kfisher\.Model.*kfisher\.attach\(model\).*optimizer\.observe"):
        model.fit(X, Y, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


def test_a_batch_is_used_once():
    model = keras.Sequential([keras.Input((3,)), *layers()])
    model.compile(loss="binary_crossentropy")
    opt = optimizer()
    opt.observe(model, X, Y)
    gradients = [tf.ones(v.shape) for v in model.trainable_variables]
    opt.apply_gradients(zip(gradients, model.trainable_variables))
    with pytest.raises(ValueError, match="has seen no batch"):
        opt.apply_gradients(zip(gradients, model.trainable_variables))


def test_kfisher_models_train_with_other_optimizers_and_can_be_compiled_again(reference):
    model = MODELS["sequential"]()
    plain = keras.Sequential([keras.Input((3,)), *layers()])
    ours, theirs = (trained(m, keras.optimizers.Adam(0.1)) for m in (model, plain))
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs))
    assert all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(trained(model), reference))


def test_attach_and_detach_leave_the_model_as_it_was():
    model = keras.Sequential([keras.Input((3,)), *layers()])
    model.compile(keras.optimizers.SGD(), "binary_crossentropy")
    model.fit(X, Y, verbose=0)
    names = set(vars(model))
    kfisher.attach(kfisher.attach(model))
    model.compile(optimizer(), "binary_crossentropy")
    model.fit(X, Y, verbose=0)  # a training function that was traced before is not used again
    kfisher.detach(kfisher.detach(model))
    assert set(vars(model)) <= names | {"optimizer"} and "train_step" not in vars(model)
    with pytest.raises(ValueError, match="has seen no batch"):
        model.fit(X, Y, verbose=0)


def test_detach_gives_back_a_train_step_that_was_set_on_the_instance():
    model = keras.Sequential([keras.Input((3,)), *layers()])
    own = model.train_step = lambda data: {"loss": 0.0}
    assert kfisher.detach(model).train_step is own
    kfisher.attach(model)
    assert model.train_step is not own
    assert kfisher.detach(model).train_step is own


def test_a_functional_subclass_of_model_is_refused_before_keras_rewrites_it():
    class Net(kfisher.Model):
        def __init__(self):
            inputs = keras.Input((3,))
            super().__init__(inputs, keras.layers.Dense(1)(inputs))

    with pytest.raises(TypeError, match="kfisher.FisherMixin"):
        Net()
    assert Subclassed()(X).shape == (24, 1)


def test_making_a_functional_model_leaves_the_class_open_to_subclasses():
    functional(kfisher.Model)
    assert Subclassed.__mro__.count(keras.Model) == 1
    assert Subclassed()(X).shape == (24, 1)
    assert isinstance(functional(kfisher.Model), kfisher.FisherMixin)
    assert isinstance(functional(kfisher.Model), keras.Model)


@pytest.mark.parametrize(
    "make",
    [lambda: keras.Sequential([keras.Input((3,)), *layers()]), lambda: functional(keras.Model)],
    ids=["sequential", "functional"],
)
def test_copies_of_an_attached_model_of_keras_show_their_batches(make, tmp_path):
    model = kfisher.attach(make())
    model.compile(optimizer(), "binary_crossentropy")
    model.save(tmp_path / "m.keras")
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        keras.saving.load_model(tmp_path / "m.keras"),
    ]
    assert all(np.array_equal(other(X), model(X)) for other in copies)
    if not isinstance(model, keras.Sequential):  # of which Keras makes one of its own
        copies.append(keras.models.clone_model(model))
    assert all(isinstance(other, kfisher.FisherMixin) for other in copies)
    assert type(kfisher.detach(model)) is type(make())


def test_a_copy_of_an_attached_model_trains_in_scikit_learn_and_can_be_exported(tmp_path):
    for name in ("pipeline", "utils.multiclass"):
        importlib.import_module(f"sklearn.{name}")  # which Keras 3.10 uses, and does not import
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(inputs))
    kfisher.attach(model).compile(optimizer(), "categorical_crossentropy")
    fit = {"epochs": 8, "verbose": 0, "batch_size": 24}
    found = keras.wrappers.SKLearnClassifier(model, fit_kwargs=fit).fit(X, Y[:, 0].astype(int))
    assert np.mean(found.predict(X) == Y[:, 0]) > 0.7
    found.model_.export(tmp_path / "served", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "served")
    assert np.allclose(loaded.serve(tf.constant(X)), found.model_(X), atol=1e-6)


def test_a_class_with_a_train_step_of_its_own_shows_its_batches(reference):
    class Own(Mixed):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            variables = self.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
            return {"loss": loss}

    class Calling(Mixed):
        def train_step(self, data):
            return super().train_step(data)

    for model, run_eagerly in ((Own(), False), (Calling(), True)):
        found = trained(model, run_eagerly=run_eagerly)
        assert all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(found, reference))


def test_a_loss_computed_by_a_train_step_alone_is_asked_for():
    class Own(Mixed):
        def train_step(self, data):
            raise AssertionError("not reached")

    model = Own()
    model.compile(optimizer())
    with pytest.raises(ValueError, match="Pass `loss=` to `compile`.*`train_step` of your own"):
        model.fit(X, Y, verbose=0)
