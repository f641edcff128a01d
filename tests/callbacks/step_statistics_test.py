"""StepStatistics: every number against weights and gradients recorded by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import oracle
from helpers.models import EAGER
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import kfisher
from kfisher.callbacks import StepStatistics

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 3)).astype("float32"), RNG.normal(size=(30, 2)).astype("float32")
START = [RNG.normal(size=(3, 4)), RNG.normal(size=4), RNG.normal(size=(4, 2)), RNG.normal(size=2)]
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01, weight_decay=0.1, clipnorm=0.5),
    "natural": lambda: textbook(0.3, fisher="exact", curvature="gram", damping=0.1),
}


def textbook(*args, **kwargs):
    """The update of which no step is bounded, judged or taken back."""
    return kfisher.optimizers.NaturalGradient(*args, trust_region=None, **kwargs)


def network(optimizer, **kwargs):
    model = kfisher.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)])
    model.set_weights(START)
    model.compile(optimizer, "mse", **kwargs)
    return model


def fit(model, callbacks=(), epochs=2, **kwargs):
    options = {"batch_size": 10, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **options)


def flat(tensors):
    return np.concatenate([np.asarray(t, "float64").ravel() for t in tensors])


def by_hand(optimizer, steps):
    """The same training one batch at a time, with norms from the saved weights and autodiff."""
    model, rows = network(optimizer, **EAGER), []
    start = flat(model.get_weights())
    for step in range(steps):
        batch = slice(step % 3 * 10, step % 3 * 10 + 10)
        before = flat(model.get_weights())
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(X[batch]) - Y[batch]) ** 2)
        gradient = flat(tape.gradient(loss, model.trainable_variables))
        model.train_on_batch(X[batch], Y[batch])
        after = flat(model.get_weights())
        update = after - before
        norms = np.linalg.norm(update), np.linalg.norm(gradient)
        cosine = -update @ gradient / np.prod(norms)
        lengths = np.linalg.norm(after), np.linalg.norm(after - start)
        rows.append([*norms, norms[0] / norms[1], cosine, *lengths])
    return np.array(rows)


def logged(log_dir):
    """Everything in the event files, as {tag: (steps, values)}."""
    accumulator = EventAccumulator(str(log_dir / "fisher"), size_guidance={"tensors": 0})
    accumulator.Reload()
    found = {}
    for tag in accumulator.Tags()["tensors"]:
        plugin = accumulator.SummaryMetadata(tag).plugin_data.plugin_name
        assert plugin == ("custom_scalars" if tag == "custom_scalars__config__" else "scalars")
        if plugin == "custom_scalars":
            continue
        events = accumulator.Tensors(tag)
        found[tag] = ([e.step for e in events], [float(make_ndarray(e.tensor_proto)) for e in events])
    return found


NAMES = ["update_norm", "gradient_norm", "update_to_gradient", "cosine", "weight_norm", "distance"]


@pytest.mark.parametrize(
    "name, how",
    [
        ("sgd", {}),
        ("sgd", {"steps_per_execution": 2}),
        ("adam", {}),
        ("adam", {"run_eagerly": True}),
        ("adam", {"steps_per_execution": 4}),
        ("natural", {}),
        ("natural", {"steps_per_execution": 3}),
        ("sgd", {"jit_compile": True}),
    ],
    ids=lambda v: v if isinstance(v, str) else next(iter(v), "graph"),
)
def test_each_number_is_that_of_saved_weights_and_autodiff(name, how, tmp_path):
    fit(network(OPTIMIZERS[name](), **how), [StepStatistics(tmp_path)])
    found = logged(tmp_path)
    expected = by_hand(OPTIMIZERS[name](), 6)
    for column, tag in zip(expected.T, NAMES):
        steps, values = found[f"step/{tag}"]
        assert steps == [1, 2, 3, 4, 5, 6]
        # float32 weights of size 1 and updates from 0.01 on: 1e-7 / 0.01
        assert np.allclose(values, column, rtol=1e-4)
    rate = float(keras.ops.convert_to_numpy(OPTIMIZERS[name]().learning_rate))
    assert np.allclose(found["step/learning_rate"][1], rate)
    for tag in ("damping", "skipped_steps", "kl"):
        assert (f"step/{tag}" in found) == (name == "natural")


def kl_by_hand(model, step, damping):
    """delta^T (F + damping I) delta / 2 of one step on a batch, F by autodiff of the loss."""
    batch = slice(step % 3 * 10, step % 3 * 10 + 10)
    before, exact = flat(model.get_weights()), oracle.gauss_newton(model, X[batch], Y[batch])
    model.train_on_batch(X[batch], Y[batch])
    delta = flat(model.get_weights()) - before
    return delta @ exact @ delta / 2 + damping * delta @ delta / 2


@pytest.mark.parametrize(
    "curvature, options",
    [
        pytest.param("gram", {"learning_rate": 0.3}, id="gram"),
        pytest.param("dense", {"learning_rate": 0.3}, id="dense"),
        pytest.param("gram", {"learning_rate": 1.0, "step": "quadratic_model"}, id="quadratic model"),
    ],
)
@pytest.mark.usefixtures("float64")
def test_kl_is_that_of_the_dense_matrix(curvature, options, tmp_path):
    def optimizer():
        return textbook(fisher="exact", curvature=curvature, damping=0.1, **options)

    fit(network(optimizer()), [StepStatistics(tmp_path)], epochs=1)
    model = network(optimizer(), **EAGER)
    expected = [kl_by_hand(model, step, 0.1) for step in range(3)]
    # Event files hold float32.
    assert np.allclose(logged(tmp_path)["step/kl"][1], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: kfisher.optimizers.NaturalGradient(),
        lambda: kfisher.optimizers.NaturalGradient(trust_region=0.01),
        lambda: textbook(clipnorm=0.1),
        lambda: textbook(momentum=0.9),
        lambda: textbook(curvature=kfisher.curvature.Gram(0.9)),
        lambda: textbook(curvature="matrix_free"),
        lambda: kfisher.optimizers.ImprovedEmpiricalFisher(0.1, trust_region=None),
    ],
    ids=["default", "trust region", "clipped", "momentum", "spring", "warm start", "improved"],
)
def test_kl_is_not_claimed_where_the_step_is_not_the_rate_times_the_solution(optimizer, tmp_path):
    fit(network(optimizer(), **EAGER), [StepStatistics(tmp_path)], epochs=1)
    assert "step/kl" not in logged(tmp_path)


@pytest.mark.parametrize("how", [{}, {"steps_per_execution": 4}], ids=["graph", "4 steps at once"])
def test_norms_of_each_layer(how, tmp_path):
    model = network(OPTIMIZERS["adam"](), **how)
    fit(model, [StepStatistics(tmp_path, per_layer=True)])
    found = logged(tmp_path)
    paths = {tag.removeprefix("layer/").rpartition("/")[0] for tag in found if tag.startswith("layer/")}
    assert paths == {layer.path for layer in model.layers}
    hand = network(OPTIMIZERS["adam"](), **EAGER)
    for step in range(6):
        batch = slice(step % 3 * 10, step % 3 * 10 + 10)
        before = hand.get_weights()
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((hand(X[batch]) - Y[batch]) ** 2)
        gradients = tape.gradient(loss, hand.trainable_variables)
        hand.train_on_batch(X[batch], Y[batch])
        for i, layer in enumerate(model.layers):
            own = slice(2 * i, 2 * i + 2)  # kernel and bias
            after = flat(hand.get_weights()[own])
            expected = {
                "update_norm": np.linalg.norm(after - flat(before[own])),
                "gradient_norm": np.linalg.norm(flat(gradients[own])),
                "weight_norm": np.linalg.norm(after),
            }
            for name, value in expected.items():
                steps, values = found[f"layer/{layer.path}/{name}"]
                assert steps == [1, 2, 3, 4, 5, 6]
                assert values[step] == pytest.approx(value, rel=1e-4)  # as above
    # The whole is the root of the sum of squares of its parts.
    for name in ("update_norm", "gradient_norm", "weight_norm"):
        parts = [found[f"layer/{path}/{name}"][1] for path in paths]
        assert np.allclose(np.linalg.norm(parts, axis=0), found[f"step/{name}"][1], rtol=1e-5)


def test_the_loss_is_that_of_the_batch_before_the_step(tmp_path):
    def penalised():
        model = network(keras.optimizers.SGD(0.05))
        model.layers[0].kernel_regularizer = keras.regularizers.L2(0.1)
        return model

    for folder, how in (("graph", {}), ("four", {"steps_per_execution": 4})):
        model, hand, expected = penalised(), penalised(), []
        model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05)), "mse", **how)
        fit(model, [StepStatistics(tmp_path / folder)])
        for step in range(6):
            batch = slice(step % 3 * 10, step % 3 * 10 + 10)
            expected.append(float(hand.compute_loss(X[batch], Y[batch], hand(X[batch]))))
            hand.train_on_batch(X[batch], Y[batch])
        steps, values = logged(tmp_path / folder)["step/loss"]
        assert steps == [1, 2, 3, 4, 5, 6]
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_loss_that_is_no_number_is_infinite_and_one_that_nobody_tells_is_not_logged(tmp_path):
    x = np.where(np.arange(30)[:, None] > 20, np.nan, X)
    network(OPTIMIZERS["sgd"]()).fit(
        x, Y, batch_size=10, shuffle=False, verbose=0, callbacks=[StepStatistics(tmp_path / "nan")]
    )
    _, values = logged(tmp_path / "nan")["step/loss"]
    assert np.isfinite(values[:2]).all() and values[2] == np.inf


def test_statistics_are_in_the_history_and_in_the_logs_on_request(tmp_path, capsys):
    plain = fit(network(OPTIMIZERS["sgd"]()), [StepStatistics(tmp_path / "a")], verbose=2).history
    assert "update_norm" not in capsys.readouterr().out
    asked = fit(network(OPTIMIZERS["sgd"]()), [StepStatistics(tmp_path / "b", in_logs=True)], verbose=2)
    assert "update_norm" in capsys.readouterr().out
    assert asked.history == plain and len(plain["update_norm"]) == len(plain["loss"]) == 2


def test_distance_is_from_where_the_first_fit_began(tmp_path):
    model, callback = network(OPTIMIZERS["sgd"]()), StepStatistics(tmp_path)
    start = flat(model.get_weights())
    for _ in range(2):
        history = fit(model, [callback], epochs=1).history
        assert history["distance"][0] == pytest.approx(
            np.linalg.norm(flat(model.get_weights()) - start), rel=1e-5
        )


@pytest.mark.parametrize("before", [True, False])
def test_a_restored_training_goes_on_with_its_history(before, tmp_path):
    def train(folder, epochs, backup):
        callbacks = [StepStatistics(folder)]
        if backup:
            restoring = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
            callbacks.insert(1 if before else 0, restoring)
        model = network(keras.optimizers.SGD(0.05, momentum=0.9))
        model.set_weights([w + epochs * (epochs < 4) for w in START] if backup else [w + 2 for w in START])
        fit(model, callbacks, epochs=epochs)
        return kfisher.read_log(folder).steps

    train(tmp_path / "parts", 2, True)
    resumed, whole = train(tmp_path / "parts", 4, True), train(tmp_path / "whole", 4, False)
    assert resumed["step"].tolist() == whole["step"].tolist() == list(range(1, 13))
    for name in ("update_norm", "gradient_norm", "weight_norm", "distance"):
        # the same float32 steps, in graphs that may order sums differently
        np.testing.assert_allclose(resumed[name], whole[name], rtol=1e-5)


def test_a_training_that_went_back_counts_from_there(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 8:
                raise RuntimeError

    statistics = StepStatistics(tmp_path / "log")
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    model = network(keras.optimizers.SGD(0.05))
    with pytest.raises(RuntimeError):
        fit(model, [statistics, backup, Stop()], epochs=3)
    fit(model, [statistics, backup], epochs=3)  # restored to step 6, the end of the second epoch
    assert kfisher.read_log(tmp_path / "log").steps["step"].tolist() == list(range(1, 10))


@pytest.mark.parametrize("content", [b"", b"no file of NumPy"])
def test_a_start_that_cannot_be_read_is_said(content, tmp_path):
    model = network(keras.optimizers.SGD(0.05))
    fit(model, epochs=1)
    (tmp_path / "fisher").mkdir()
    (tmp_path / "fisher" / "start.npz").write_bytes(content)
    with pytest.warns(UserWarning, match="Distances count from here on"):
        fit(model, [StepStatistics(tmp_path)], epochs=1)
    table = kfisher.read_log(tmp_path).steps
    assert table["distance"][0] == pytest.approx(table["update_norm"][0], rel=1e-3)  # of float32 weights


def test_the_start_of_a_large_model_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(kfisher.callbacks._start, "MOST", 25)  # the network has 26 parameters
    fit(network(keras.optimizers.SGD(0.05)), [StepStatistics(tmp_path)], epochs=1)
    assert not (tmp_path / "fisher" / "start.npz").exists()


def test_loss_scaling_is_taken_out_of_the_gradient(tmp_path):
    plain, scaled = tmp_path / "plain", tmp_path / "scaled"
    fit(network(keras.optimizers.SGD(0.05)), [StepStatistics(plain)])
    fit(network(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05))), [StepStatistics(scaled)])
    for tag, (_, values) in logged(plain).items():
        assert np.allclose(logged(scaled)[tag][1], values, rtol=1e-4)
    fit(network(keras.optimizers.SGD(0.05, loss_scale_factor=8.0)), [StepStatistics(tmp_path / "factor")])
    for tag, (_, values) in logged(plain).items():
        assert np.allclose(logged(tmp_path / "factor")[tag][1], values, rtol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_ends_in_the_same_weights_bit_for_bit(name, tmp_path):
    with_it, without = network(OPTIMIZERS[name]()), network(OPTIMIZERS[name]())
    fit(with_it, [StepStatistics(tmp_path)]), fit(without)
    assert all(np.array_equal(a, b) for a, b in zip(with_it.get_weights(), without.get_weights()))


def test_repeated_fits_go_on_counting_and_leave_model_and_optimizer_as_they_were(tmp_path):
    model, callback = network(OPTIMIZERS["sgd"]()), StepStatistics(tmp_path)
    for _ in range(3):
        fit(model, [callback], epochs=1)
        assert "apply" not in vars(model.optimizer)
    fit(model, epochs=1)  # without it: nothing is logged
    fit(model, [callback], epochs=1)
    expected = by_hand(OPTIMIZERS["sgd"](), 15)[[*range(9), 12, 13, 14], 0]
    steps, values = logged(tmp_path)["step/update_norm"]
    assert steps == [*range(1, 10), 13, 14, 15]
    assert np.allclose(values, expected, rtol=1e-4)


@pytest.mark.parametrize("make", [keras.optimizers.SGD, lambda **parts: kfisher.optimizers.SophiaG(**parts)])
def test_parts_of_a_step_are_counted_on_in_a_new_callback(make, tmp_path):
    model = network(make(gradient_accumulation_steps=3), **EAGER)
    for part in ("before", "after"):
        fit(model, [StepStatistics(tmp_path / part)], epochs=2)
    assert logged(tmp_path / "after")["step/update_norm"][0] == [*range(7, 13)]


def test_parts_whose_gradients_are_kept_back_count_once(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        optimizer = kfisher.optimizers.NaturalGradient(gradient_accumulation_steps=2)
        model = network(keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**20), **EAGER)
        callback = StepStatistics(tmp_path)
        for _ in range(3):
            fit(model, [callback], epochs=1)
    finally:
        keras.config.set_dtype_policy("float32")
    assert int(optimizer.skipped_steps) > 0
    assert logged(tmp_path)["step/loss"][0] == [*range(1, 10)]


def test_what_an_optimizer_has_only_with_the_first_batch_is_logged_too(tmp_path):
    class Net(kfisher.FisherMixin, keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Net()
    model.compile(kfisher.optimizers.NaturalGradient(), "mse")
    fit(model, [StepStatistics(tmp_path)], epochs=1)
    found = logged(tmp_path)
    assert found["step/rate_in_use"][0] == found["step/momentum_in_use"][0] == [1, 2, 3]
    assert found["step/radius"][0] == [2, 3]


def test_the_region_has_no_radius_before_there_is_a_loss(tmp_path):
    fit(network(kfisher.optimizers.NaturalGradient(), **EAGER), [StepStatistics(tmp_path)], epochs=1)
    steps, values = logged(tmp_path)["step/radius"]
    assert steps == [2, 3] and min(values) > 0


def test_every_and_history(tmp_path):
    history = fit(network(OPTIMIZERS["sgd"]()), [StepStatistics(tmp_path, every=4)], epochs=4).history
    expected = by_hand(OPTIMIZERS["sgd"](), 12)
    steps, values = logged(tmp_path)["step/gradient_norm"]
    assert steps == [4, 8, 12]
    assert np.allclose(values, expected[[3, 7, 11], 1], rtol=1e-4)
    assert np.isnan(history["update_norm"][0])  # no step of the first epoch is a multiple of 4
    assert np.allclose(history["update_norm"][1:], expected[[3, 7, 11], 0], rtol=1e-4)


@pytest.mark.parametrize("steps_per_execution", [100, 750])
def test_more_steps_than_the_buffer_holds(steps_per_execution, tmp_path):
    model = network(keras.optimizers.SGD(1e-3), steps_per_execution=steps_per_execution)
    x, y = np.tile(X, (50, 1)), np.tile(Y, (50, 1))
    model.fit(x, y, batch_size=1, verbose=0, callbacks=[StepStatistics(tmp_path)])
    steps, values = logged(tmp_path)["step/update_norm"]
    assert steps == list(range(1, 1501))
    assert np.all(np.isfinite(values)) and np.all(np.array(values) > 0)


def test_an_interrupted_fit_leaves_nothing_behind(tmp_path):
    class Boom(keras.layers.Layer):
        def call(self, x):
            return tf.debugging.check_numerics(x, "boom")

    model = kfisher.Sequential([keras.Input((3,)), Boom(), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    bad = np.where(np.arange(30)[:, None] > 20, np.nan, X)
    with pytest.raises(tf.errors.InvalidArgumentError, match="boom"):
        model.fit(bad, Y, batch_size=10, shuffle=False, verbose=0, callbacks=[StepStatistics(tmp_path)])
    assert "apply" not in vars(model.optimizer)
    fit(model, epochs=1)
    assert logged(tmp_path)["step/update_norm"][0] == [1, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_another_callback_may_end_fit_at_any_time(error, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                raise error

    model = network(OPTIMIZERS["sgd"]())
    fit(model, epochs=1)
    plain, attributes = model.train_function, set(vars(model.optimizer))
    statistics = StepStatistics(tmp_path)
    with pytest.raises(error):
        fit(model, [Stop(), statistics])
    assert model.train_function is plain and set(vars(model.optimizer)) == attributes
    fit(model, epochs=1)
    fit(model, [statistics], epochs=1)  # writes the two steps that the interrupted fit could not
    steps, values = logged(tmp_path)["step/update_norm"]
    assert steps == [4, 5, 9, 10, 11]
    # by_hand sees the batches in turn; the two fits after the interruption begin with the first again
    expected = by_hand(OPTIMIZERS["sgd"](), 5)[3:, 0]
    assert np.allclose(values[:2], expected, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_two_callbacks_and_data_of_unknown_length(tmp_path):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10).filter(lambda x, y: True)
    model, one, two = network(OPTIMIZERS["sgd"]()), tmp_path / "one", tmp_path / "two"
    callbacks = [StepStatistics(one), StepStatistics(two, every=2)]
    model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=callbacks)
    expected = by_hand(OPTIMIZERS["sgd"](), 9)[:, 0]
    for log_dir, chosen in (one, range(1, 10)), (two, range(2, 10, 2)):
        steps, values = logged(log_dir)["step/update_norm"]
        assert steps == list(chosen)
        assert np.allclose(values, expected[np.array(chosen) - 1], rtol=1e-4)


def test_a_directory_that_cannot_be_written_to_gives_one_warning_and_training_goes_on(tmp_path):
    (tmp_path / "file").write_text("in the way")
    model = network(OPTIMIZERS["sgd"]())
    with pytest.warns(UserWarning, match="training goes on") as warned:
        history = fit(model, [StepStatistics(tmp_path / "file")], epochs=3).history
    assert len([w for w in warned if "training goes on" in str(w.message)]) == 1
    assert len(history["loss"]) == len(history["update_norm"]) == 3


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_every_must_be_a_positive_integer(every):
    with pytest.raises(ValueError, match=f"Received: every={every}"):
        StepStatistics("logs", every=every)


def test_a_train_step_may_apply_gradients_without_naming_the_variables(tmp_path):
    class Bare(kfisher.Sequential):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(x))
            self.optimizer.apply(tape.gradient(loss, self.trainable_variables))
            return {"loss": loss}

    model = Bare([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    fit(model, [StepStatistics(tmp_path)], epochs=1)
    assert logged(tmp_path)["step/update_norm"][0] == [1, 2, 3]
    assert "step/loss" not in logged(tmp_path)
