"""FisherSpectra, FisherDiagnosis, TensorBoard: training is untouched, and what is due is measured."""

import copy
import csv
import dataclasses
import json
import os
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.fisher_logs import make_measurement
from helpers.models import EAGER

import kfisher
from kfisher.callbacks import (
    FisherDiagnosis,
    FisherSpectra,
    StepStatistics,
    TensorBoard,
    _schedule,
    fisher_spectra,
    train_function,
)
from kfisher.callbacks._due import FAILED, SHAPE, TIME, Due
from kfisher.callbacks._pictures import pictures
from kfisher.callbacks._schedule import ALLOWANCE, Budget, due_steps, first_measurements, is_due
from kfisher.callbacks.fisher_diagnosis import _divergence
from kfisher.callbacks.train_function import Hook
from kfisher.diagnosis import limits
from kfisher.diagnosis import meter as meters
from kfisher.diagnosis.meter import Meter, examples
from kfisher.logs import writer

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 3)).astype("float32"), RNG.integers(0, 3, 40)
STATISTICS = ["update_norm", "gradient_norm", "update_to_gradient", "cosine", "weight_norm", "distance"]
STATISTICS += ["learning_rate"]


def network(optimizer="sgd", loss=None, cls=keras.Sequential, **kwargs):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(4, "tanh"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3, seed=1),
        keras.layers.Dense(3),
    ]
    model = cls([keras.Input((3,)), *layers])
    model.compile(optimizer, loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True), **kwargs)
    return model


def fit(model, *callbacks, epochs=2, x=X, y=Y, **kwargs):
    """Four steps an epoch."""
    options = {"batch_size": 10, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **options)


def spectra(log_dir, cls=FisherSpectra, **kwargs):
    more = {"verbose": 0} if cls is FisherDiagnosis else {}
    return cls(log_dir, **{"max_overhead": None, "write_images": False, **more, **kwargs})


def steps(callback):
    return [m.step for m in callback.measurements]


def of_kfisher(warned):
    messages = [str(w.message) for w in warned]
    return [m for m in messages if "training goes on" in m or "are measured" in m]


@pytest.fixture(scope="module")
def shared():
    """One traced model, and its meter in place of new ones: most tests need no other."""
    model = network()
    return model, Meter(model, 2, 0)


@pytest.fixture
def model(shared, monkeypatch):
    model, meter = shared
    monkeypatch.setattr(fisher_spectra, "Meter", lambda *arguments: meter)
    model.optimizer.iterations.assign(0)
    return model


# --- training is the same -------------------------------------------------------------------------


def natural():
    return kfisher.optimizers.NaturalGradient(0.1, "exact", "gram", damping=0.1)


def adam():
    return keras.optimizers.Adam(0.01)


MODES = {
    "adam": (adam, {}),
    "adam, 4 steps at once": (adam, {"steps_per_execution": 4}),
    "adam, XLA": (adam, {"jit_compile": True}),
    "adam, scaled loss": (lambda: keras.optimizers.LossScaleOptimizer(adam()), EAGER),
    "natural": (natural, {"cls": kfisher.Sequential, **EAGER}),
}
# The step alone is compiled, a measurement never.
SLOW = {"adam, XLA": [pytest.mark.slow, pytest.mark.by_hand]}


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=SLOW.get(mode, ())) for mode in MODES])
def test_training_ends_in_the_same_weights_bit_for_bit(mode, tmp_path):
    optimizer, options = MODES[mode]
    plain, watched = (network(optimizer(), **options) for _ in range(2))
    fit(plain)
    attributes = set(vars(plain)), set(vars(plain.optimizer))
    diagnosis = spectra(tmp_path, FisherDiagnosis, freq=3, draws=1)
    fit(watched, StepStatistics(tmp_path), diagnosis)
    for a, b in zip(plain.variables, watched.variables, strict=True):
        assert np.array_equal(a.numpy(), b.numpy()), a.path
    # Of a call with four steps, due is 0 in the first and 6 in the second: both look at their first.
    assert steps(diagnosis) == ([0, 4] if "4 steps" in mode else [0, 3, 6])
    assert diagnosis.verdict is not None
    # And nothing is left behind in the model.
    assert (set(vars(watched)), set(vars(watched.optimizer))) == attributes
    assert type(watched) is options.get("cls", keras.Sequential)
    assert not isinstance(watched.train_function, Hook)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_of_unknown_length(tmp_path):
    def data():
        batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
        return batches.filter(lambda x, y: True)

    plain, watched = network(adam()), network(adam())
    callback = spectra(tmp_path, freq="epoch", draws=1)
    plain.fit(data(), epochs=3, shuffle=False, verbose=0)
    watched.fit(data(), epochs=3, shuffle=False, verbose=0, callbacks=[callback, StepStatistics(tmp_path)])
    assert all(np.array_equal(a, b) for a, b in zip(plain.get_weights(), watched.get_weights()))
    # Keras counts the end of the data as a step of the optimizer, with these callbacks and without them.
    assert int(plain.optimizer.iterations) == int(watched.optimizer.iterations)
    assert len(steps(callback)) == 3 and all(m.examples == 10 for m in callback.measurements)
    assert list(kfisher.read_log(tmp_path).steps["step"]) == list(range(1, 13))


@pytest.mark.parametrize(
    "error, first", [(KeyboardInterrupt, True), (KeyboardInterrupt, False), (RuntimeError, True)]
)
def test_an_interrupted_fit_leaves_the_model_as_it_was(error, first, model, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                raise error

    fit(model, epochs=1)
    before = set(vars(model)), set(vars(model.optimizer))
    model.optimizer.iterations.assign(0)
    callback = spectra(tmp_path, freq=1)
    order = [Stop(), callback] if first else [callback, Stop()]
    with pytest.raises(error):
        fit(model, *order)
    assert (set(vars(model)), set(vars(model.optimizer))) == before
    assert steps(callback) == [0, 1]
    fit(model, epochs=1)
    # Without it nothing is measured, but for the batch it was armed for when a callback after it raised.
    assert steps(callback) == ([0, 1] if first else [0, 1, 2])
    assert not isinstance(model.train_function, Hook)
    fit(model, callback, epochs=1)
    assert steps(callback)[-4:] == [6, 7, 8, 9]


# --- what is measured, and when -------------------------------------------------------------------


@pytest.mark.parametrize(
    "freq, expected",
    [
        (3, [0, 3, 6, 9, 12, 15, 18]),
        ("epoch", [0, 4, 8, 12, 16]),
        ("logarithmic", [*range(17), 18]),
        (lambda step: step in (1, 13), [1, 13]),
    ],
    ids=["integer", "epoch", "logarithmic", "function"],
)
def test_the_steps_that_are_measured_are_those_of_the_schedule(freq, expected, model, tmp_path):
    callback = spectra(tmp_path, freq=freq)
    fit(model, callback, epochs=5)
    assert steps(callback) == expected
    assert [m.step for m in kfisher.read_log(tmp_path).measurements] == expected


def test_logarithmic_means_eight_in_each_doubling():
    due = np.array([step for step in range(4096) if is_due("logarithmic", step)])
    assert list(due[:8]) == list(range(8))
    for k in range(3, 12):
        assert np.sum((due >= 2**k) & (due < 2 ** (k + 1))) == 8
    assert np.all(np.diff(due[due >= 64]) / due[due >= 64][:-1] < 2 ** (1 / 8) - 1 + 1 / 32)


def test_a_measurement_is_that_of_the_batch_and_the_weights_before_the_step(model, shared, tmp_path):
    class Weights(keras.callbacks.Callback):
        seen = {}

        def on_train_batch_begin(self, batch, logs=None):
            self.seen[int(self.model.optimizer.iterations)] = self.model.get_weights()

    callback, weights = spectra(tmp_path, freq=3, seed=0, damping=1e-3), Weights()
    fit(model, callback, weights)
    after = model.get_weights()
    for measurement in callback.measurements:
        model.set_weights(weights.seen[measurement.step])
        batch = slice(measurement.step % 4 * 10, measurement.step % 4 * 10 + 10)
        data = examples((X[batch], Y[batch]), None)
        found, _ = Meter(model, 2, 0)(*data, damping=1e-3, step=measurement.step)
        found.seconds = measurement.seconds
        # The same computation on the same numbers; only the order of sums in threads may differ.
        one, two = (m.scalars() for m in (found, measurement))
        assert {name for name in two.keys() - one.keys() if "taken" not in name} == set()
        for name in one:
            # Of a condition number κ, which takes the smallest eigenvalue, rounding leaves κ ε.
            exact = 1e-6 * two[name] if "condition" in name else 1e-3
            assert one[name] == pytest.approx(two[name], rel=exact, abs=1e-5, nan_ok=True), name
    model.set_weights(after)
    assert steps(callback) == [0, 3, 6]
    logged = kfisher.read_log(tmp_path).measurements
    assert [m.to_json() for m in logged] == [m.to_json() for m in callback.measurements]


def test_repeated_fits_go_on_counting(model, tmp_path):
    callback = spectra(tmp_path, freq=3)
    fit(model, callback, epochs=1)
    fit(model, epochs=1)
    fit(model, callback, epochs=1)
    assert steps(callback) == [0, 3, 9]


def test_parts_of_a_step_are_steps_here(model, tmp_path):
    optimizer = kfisher.optimizers.NaturalGradient(gradient_accumulation_steps=2, seed=0)
    with_parts = kfisher.Sequential.from_config(model.get_config())
    with_parts.compile(optimizer, model.loss)
    callback = spectra(tmp_path, freq=3)
    fit(with_parts, callback)
    assert steps(callback) == [0, 3, 6]


def test_a_probe_takes_the_place_of_the_batch(model, tmp_path):
    rng = np.random.default_rng(1)
    x, y, weight = rng.normal(size=(10, 3)), rng.integers(0, 3, 10), rng.uniform(size=10)
    probe = x.astype("float32"), y, weight.astype("float32")
    callback = spectra(tmp_path, freq=lambda step: step == 0, probe=probe)
    weights = model.get_weights()
    fit(model, callback, epochs=1)
    model.set_weights(weights)
    found, _ = Meter(model, 2, 0)(*examples(probe, None))
    (measurement,) = callback.measurements
    assert measurement.gradient_norm == pytest.approx(found.gradient_norm, rel=1e-5)
    assert measurement.spectra["exact"].trace == pytest.approx(found.spectra["exact"].trace, rel=1e-5)
    assert measurement.cosine["empirical"] == pytest.approx(found.cosine["empirical"], rel=1e-3)


def test_the_first_examples_of_a_batch_and_not_the_rest_of_an_epoch(model, tmp_path):
    few = spectra(tmp_path / "few", freq=4, examples=6)
    fit(model, few)
    assert [(m.step, m.examples) for m in few.measurements] == [(0, 6), (4, 6)]
    model.optimizer.iterations.assign(0)
    ragged = spectra(tmp_path / "ragged", freq=lambda step: step in (0, 3, 4))
    fit(model, ragged, x=X[:34], y=Y[:34])  # batches of 10, 10, 10, 4
    assert [(m.step, m.examples) for m in ragged.measurements] == [(0, 10), (4, 10)]


# --- how much time it takes -----------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_what_is_spent_stays_below_its_share(share, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    rng, budget = np.random.default_rng(0), Budget(share)
    for step in range(4000):
        if budget.allows(step):
            cost = 0.5  # the same each time: then what the last one took is what the next one takes
            now[0] += cost
            budget.charge(cost)
            budget.tick()
            early = budget.taken <= first_measurements(step) and budget.spent <= ALLOWANCE
            assert early or budget.spent <= share * budget.elapsed * (1 + 1e-9)
        now[0] += rng.uniform(0, 0.1)
    # And it is used: after the last measurement not more than another one fits in.
    assert budget.spent > share * budget.elapsed - 2 * 0.5
    assert budget.taken > 10


@pytest.mark.parametrize("length", [100, 570, 10_000])
def test_ten_to_twenty_measurements_are_spread_over_a_run_that_is_too_short_for_its_share(
    length, monkeypatch
):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    budget, at, pending = Budget(0.05), [], False
    for step in range(length):
        pending = pending or is_due("logarithmic", step)
        if pending and budget.allows(step):
            now[0] += 0.25
            budget.charge(0.25)
            at, pending = [*at, step], False
        now[0] += 1e-4  # so many that the share is used up by a single one
    assert 10 <= len(at) <= 20
    assert at[:4] == [0, 1, 2, 3]
    assert all(later <= 1.85 * step + 2 for step, later in zip(at, [*at[1:], length]))


def test_the_first_measurements_end_with_their_allowance(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    budget = Budget(0.05)
    budget.charge(60.0, traced=True)  # which says nothing of the next
    for _ in range(2):
        assert budget.allows(1000)
        budget.charge(14.0)
    assert not budget.allows(1000)  # there are 2 seconds left of it
    assert "more than 5 % of the time, one 14 s" in budget.limit


@pytest.mark.parametrize("freq", [1, 2, 5, "logarithmic", lambda s: s % 10 == 3])
def test_steps_that_are_due_are_counted(freq):
    single = [is_due(freq, step) for step in range(60)]
    assert [due_steps(freq, first, 4, False) for first in range(0, 60, 4)] == [
        sum(single[first : first + 4]) for first in range(0, 60, 4)
    ]
    assert [due_steps("epoch", 3, 4, begins) for begins in (False, True)] == [0, 1]


def test_what_lies_between_two_calls_of_fit_is_no_time_of_training(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    budget = Budget(0.5)
    budget.charge(1.0)
    now[0] = 1000.0
    budget.start()
    assert not budget.allows(0) and budget.elapsed == 0
    now[0] += 3.0
    assert budget.allows(0) and budget.elapsed == 3


def test_without_a_share_there_is_no_limit():
    budget = Budget(None)
    budget.charge(1e9)
    assert budget.allows(0)


def test_each_reason_why_something_was_not_measured_is_counted_for_itself():
    due = Due()
    assert due.left_out(Budget(0.05)) == ""
    due.add(1)
    due.made()
    due.add(3)  # two of them for nothing
    due.wait(TIME)
    due.add(1)  # in place of the third
    due.wait(SHAPE)
    due.add(0)
    due.add(1)
    due.drop(FAILED)
    due.add(1)  # the last one waits
    said = due.left_out(Budget(0.05))
    assert said.startswith(
        "1 of the 7 measurements that were due were made: 1 would have taken more than 5 %"
    )
    for text in ("1 came with a batch", "2 were due in one call", "1 could not be made", "1 waited"):
        assert text in said
    due.drop()
    assert due.left_out(Budget(0.05)) == said and not due.waiting


@pytest.mark.parametrize("rate, epochs, diverges", [(1e-3, 3, False), (1e3, 3, True), (1e30, 2, True)])
def test_a_summary_says_that_training_diverged(rate, epochs, diverges, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(rate), "mse")
    y = Y[:, np.newaxis].astype("float32")
    history = fit(model, spectra(tmp_path, FisherDiagnosis), epochs=epochs, y=y)
    summary = kfisher.read_log(tmp_path).summary
    assert ("Training diverged" in str(summary)) == diverges == bool(history.fisher_summary.trouble)
    assert summary.trouble == history.fisher_summary.trouble
    assert str(summary).splitlines()[-1].strip() in summary._repr_html_()


@pytest.mark.parametrize(
    "losses, diverged",
    [
        ([], False),
        ([1.0, 1e-9, 5e-8], False),  # far above its least, and yet learnt
        ([1.0, 0.5, 12.0], True),
        ([1.0, 10.0], False),
        ([float("nan")], True),
        ([1.0, float("inf")], True),
        ([-2.0, -1.0], False),
    ],
)
def test_a_loss_diverges_from_where_it_began(losses, diverged):
    assert bool(_divergence(losses)) == diverged


def test_steps_in_one_call_are_not_put_down_to_the_budget(tmp_path):
    fit(network(steps_per_execution=2), spectra(tmp_path, freq=1))
    (said,) = notes(tmp_path)[-1]
    assert said.startswith("4 of the 8 ") and "4 were due in one call" in said and "max_overhead" not in said


def test_what_is_due_is_put_off_until_it_fits_in(model, monkeypatch, tmp_path):
    now = [0.0]

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            now[0] += 1.0  # a step takes a second

    class Slow(FisherSpectra):
        def measured(self, measurement, frame):
            now[0] += 2.0  # and a measurement two

    fit(model, spectra(tmp_path, freq=1), epochs=1)  # traced: all that follow count in full
    model.optimizer.iterations.assign(0)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(_schedule, "ALLOWANCE", 0.0)
    callback = Slow(tmp_path / "log", freq=5, max_overhead=0.1, write_images=False)
    fit(model, callback, Clock(), epochs=12)
    # From the second on, 2 (n + 1) seconds are a tenth of all that will have passed then.
    assert steps(callback) == [0, 36]
    assert callback._budget.spent <= 0.1 * callback._budget.elapsed
    (last,) = notes(tmp_path / "log")[-1]
    assert last.startswith("2 of the 10 measurements that were due were made: 8 would") and "one 2 s" in last


def notes(log_dir):
    """What was said of the run, each time that it was."""
    found = []
    for path in (log_dir / "fisher").glob("*tfevents*"):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            for value in tf.compat.v1.Event.FromString(record).summary.value:
                if value.tag == "fisher/notes":
                    found.append(json.loads(tf.make_ndarray(value.tensor).item()))
    return found


def test_all_that_comes_with_a_measurement_is_charged(model, monkeypatch, tmp_path):
    """Also what it takes to give the batch back, and a batch that is looked at in vain."""
    now, make = [0.0], train_function._iterator

    def slow(batches, spec):
        now[0] += 3.0
        return make(batches, spec)

    fit(model, spectra(tmp_path, freq=1), epochs=1)  # traced
    model.optimizer.iterations.assign(0)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(train_function, "_iterator", slow)
    callback = spectra(tmp_path, freq=lambda step: step in (0, 3))
    fit(model, callback, x=X[:34], y=Y[:34], epochs=1)  # the last batch is not whole
    assert steps(callback) == [0] and callback._budget.spent == 6.0


def test_a_measurement_after_the_step_is_charged_once(model, monkeypatch, tmp_path):
    """As where replicas train: then what follows the step follows at once."""
    now = [0.0]

    class Slow(FisherSpectra):
        def measured(self, measurement, frame):
            now[0] += 2.0

    fit(model, spectra(tmp_path, freq=1), epochs=1)  # traced
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    callback = spectra(tmp_path / "log", Slow)
    callback.set_model(model)
    callback.on_train_begin()
    callback._look(lambda: ((X[:10], Y[:10]), []), None, 0)
    assert steps(callback) == [0] and not callback._said
    assert (callback._budget.spent, callback._budget._last) == (2.0, 2.0)


def test_a_batch_that_is_given_back_costs_the_training_function_no_trace(tmp_path):
    model, traces = network(adam()), []
    plain = model.compute_loss
    model.compute_loss = lambda *args, **kwargs: (traces.append(1), plain(*args, **kwargs))[1]
    fit(model, x=X[:34], y=Y[:34], epochs=1)
    before = len(traces)
    spec = (tf.TensorSpec([None, 3], tf.float32), tf.TensorSpec([None], tf.int64))
    given = [train_function._iterator([(X[:n], Y[:n])], spec) for n in (10, 4, 7)]
    for iterator in given:
        model.train_function(iterator)
    assert len(traces) == before


# --- trouble ---------------------------------------------------------------------------------------


def test_too_many_rows_are_fewer_examples_and_one_warning(tmp_path, monkeypatch):
    # Of softmax with 3 classes, 2 for each example.
    monkeypatch.setattr(meters, "Limits", lambda memory: limits.Limits(memory, rows=12))
    monkeypatch.setattr(limits, "_ENOUGH", 6)
    monkeypatch.setattr(limits, "SMALL", 0)
    callback = spectra(tmp_path, freq=2, draws=1)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        fit(network(), callback)
    assert [m.examples for m in callback.measurements] == [6, 6, 6, 6] and steps(callback) == [0, 2, 4, 6]
    (message,) = of_kfisher(warned)
    assert "Only 6 examples are measured" in message and "Received: 10" in message


@pytest.mark.parametrize("cls", [FisherSpectra, FisherDiagnosis], ids=lambda c: c.__name__)
def test_a_loss_without_a_likelihood_gives_one_warning_and_training_goes_on(cls, tmp_path):
    model, callback = network(loss="huber"), spectra(tmp_path, cls, freq=1)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        history = fit(model, callback, y=np.eye(3)[Y])
    (message,) = of_kfisher(warned)
    assert "huber" in message.lower() and "Received: " in message
    assert len(history.history["loss"]) == 2 and not callback.measurements
    assert int(model.optimizer.iterations) == 8


def full(path, real=tf.io.TFRecordWriter):
    return real("/dev/full")  # each write fails with ENOSPC


@pytest.mark.parametrize("trouble", ["file in the way", "full"])
def test_a_log_that_cannot_be_written_gives_one_warning(trouble, model, tmp_path, monkeypatch):
    log_dir = tmp_path / "logs"
    if trouble == "full":
        if not os.path.exists("/dev/full"):
            pytest.skip("no /dev/full here")
        monkeypatch.setattr(writer.tf.io, "TFRecordWriter", full)
    else:
        log_dir.write_text("in the way")
    callback = spectra(log_dir, freq=1)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        fit(model, callback, epochs=3)
    (message,) = of_kfisher(warned)
    assert str(log_dir) in message and "Received: " in message
    assert steps(callback) == list(range(12))


def test_a_batch_that_is_not_finite_gives_one_warning(model, tmp_path):
    weights = model.get_weights()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        callback = spectra(tmp_path, freq=1)
        fit(model, callback, x=np.full_like(X, np.nan))
    model.set_weights(weights)
    assert len(of_kfisher(warned)) == 1 and not callback.measurements
    assert int(model.optimizer.iterations) == 8


# --- the verdict -----------------------------------------------------------------------------------


def test_verdicts_are_logged_kept_and_printed_when_they_change(model, tmp_path, capsys):
    diagnosis = spectra(tmp_path, FisherDiagnosis, freq=1, verbose=1)
    history = fit(model, diagnosis)
    verdicts = kfisher.read_log(tmp_path).verdicts
    assert [v.step for v in verdicts] == list(range(8))
    assert verdicts[-1].to_json() == diagnosis.verdict.to_json()
    changes = [v for i, v in enumerate(verdicts) if i == 0 or v.verdict != verdicts[i - 1].verdict]
    printed = capsys.readouterr().out
    assert printed.count("\nStep ") == len(changes)
    assert all(f"Step {v.step}: {v}" in printed for v in changes)
    summary = history.fisher_summary  # one, wherever one looks
    assert summary == diagnosis.summary == kfisher.read_log(tmp_path).summary
    assert printed.endswith(f"\n{summary}\n") and summary.measurements == 8
    assert (summary.periods[0].first, summary.periods[-1].last) == (0, 7)


# --- TensorBoard -----------------------------------------------------------------------------------


def files(log_dir):
    """Folders with their tags."""
    found = {}
    for folder, _, names in os.walk(log_dir):
        for name in names:
            if "tfevents" not in name or name.endswith(".profile-empty"):
                continue
            for record in tf.data.TFRecordDataset(os.path.join(folder, name)).as_numpy_iterator():
                event = tf.compat.v1.Event.FromString(record)
                own = found.setdefault(os.path.relpath(folder, log_dir), set())
                own.update(value.tag for value in event.summary.value)
    return found


def test_tensorboard_writes_what_keras_does_and_more(model, tmp_path):
    model.build((None, 3))
    history, logged = {}, {}
    for name, make in (("keras", keras.callbacks.TensorBoard), ("ours", TensorBoard)):
        more = {"spectrum_freq": 2, "max_overhead": None} if name == "ours" else {}
        more |= {"histogram_freq": 1, "update_freq": 2, "write_steps_per_second": True}
        callback = make(str(tmp_path / name), **more)
        table = keras.callbacks.CSVLogger(tmp_path / f"{name}.csv")
        model.optimizer.iterations.assign(0)
        history[name] = fit(model, callback, table, validation_data=(X, Y)).history
        logged[name] = files(tmp_path / name)
        with open(tmp_path / f"{name}.csv") as file:
            history[f"{name} in the file"] = next(csv.reader(file))
    ours = logged["ours"].pop("fisher")
    assert logged["ours"] == logged["keras"]
    assert {f"step/{name}" for name in ["loss", *STATISTICS]} < ours
    some = {"measurement", "verdict", "verdict_text", "notes", "trace/exact", "cosine/empirical"}
    some |= {f"picture/{name}" for name in ("spectra", "cosine")}
    assert {f"fisher/{name}" for name in some} < ours
    assert len(list((tmp_path / "ours" / "fisher").glob("*tfevents*"))) == 1
    assert set(history["ours"]) == {*history["keras"], *STATISTICS}
    assert history["ours in the file"] == history["keras in the file"]
    assert callback.verdict.step == callback.measurements[-1].step == 6


def test_tuners_know_it_by_its_name_and_redirect_all_of_it(model, tmp_path):
    assert TensorBoard.__name__ == "TensorBoard" and issubclass(TensorBoard, keras.callbacks.TensorBoard)
    options = {"spectrum_freq": 4, "max_overhead": None, "write_images": False}
    original = TensorBoard(str(tmp_path / "original"), **options)
    for trial in ("one", "two"):
        callback = copy.deepcopy(original)
        callback.log_dir = str(tmp_path / trial)
        fit(model, callback, epochs=1)
        assert {"fisher", "train"} <= set(os.listdir(tmp_path / trial))
    assert not (tmp_path / "original").exists()


@pytest.mark.parametrize("cls", [FisherSpectra, FisherDiagnosis], ids=lambda c: c.__name__)
def test_a_worker_that_is_not_the_chief_writes_nothing(cls, model, tmp_path, monkeypatch):
    monkeypatch.setattr(fisher_spectra, "is_chief", lambda strategy: False)
    callback = spectra(tmp_path, cls, freq=1)
    fit(model, callback, epochs=1)
    assert not callback.measurements and files(tmp_path) == {}


@pytest.mark.parametrize(
    "off, parts",
    [
        ({"statistics_freq": 0}, {"fisher"}),
        ({"spectrum_freq": 0}, {"step"}),
        ({"statistics_freq": 0, "spectrum_freq": 0}, set()),
    ],
    ids=["no statistics", "no spectra", "neither"],
)
def test_parts_of_it_can_be_switched_off(off, parts, model, tmp_path):
    options = {"spectrum_freq": 4, "max_overhead": None, "write_images": False, **off}
    callback = TensorBoard(str(tmp_path), **options)
    history = fit(model, callback, epochs=1).history
    tags = files(tmp_path).get("fisher", set()) - {"custom_scalars__config__"}
    assert {tag.partition("/")[0] for tag in tags} - {""} == parts
    assert set(os.listdir(tmp_path)) == {"train", *(["fisher"] if parts else [])}
    assert ("update_norm" in history) == ("step" in parts)
    if "fisher" not in parts:
        assert callback.verdict is None and list(callback.measurements) == []


# --- arguments -------------------------------------------------------------------------------------

WRONG = [
    ("freq", 0),
    ("freq", -1),
    ("freq", 1.5),
    ("freq", True),
    ("freq", "batch"),
    ("examples", 0),
    ("examples", 1.0),
    ("draws", 0),
    ("draws", True),
    ("damping", 0.0),
    ("damping", -1),
    ("max_overhead", 0),
    ("max_overhead", 1.5),
    ("max_overhead", "low"),
    ("max_overhead", True),
    ("probe", X),
    ("probe", (X,)),
]


@pytest.mark.parametrize("name, value", WRONG, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_wrong_arguments_are_told_at_once(name, value):
    for cls in (FisherSpectra, FisherDiagnosis):
        with pytest.raises(ValueError, match=f"`{name}`.*Received: "):
            cls("logs", **{name: value})
    if (name, value) != ("freq", 0):  # which is "never"
        known = {"freq": "spectrum_freq", "examples": "spectrum_examples"}.get(name, name)
        with pytest.raises(ValueError, match="Received: "):
            TensorBoard("logs", **{known: value})


@pytest.mark.parametrize(
    "arguments",
    [{"statistics_freq": -1}, {"statistics_freq": 0.5}, {"thresholds": 0.5}],
    ids=lambda a: next(iter(a)),
)
def test_wrong_arguments_of_the_parts_too(arguments):
    with pytest.raises(ValueError, match="Received: "):
        TensorBoard("logs", **arguments)


@pytest.mark.parametrize(
    "make, how",
    [
        (lambda d: spectra(d, freq=7), {}),
        (lambda d: TensorBoard(d, statistics_freq=0, write_images=False), EAGER),
    ],
    ids=["spectra", "board"],
)
def test_a_plain_model_shows_its_batches_for_the_length_of_fit(make, how, tmp_path):
    """Also where no callback records the steps, and long after the last measurement."""
    model = network(kfisher.optimizers.NaturalGradient(curvature="gram", seed=0), **how)
    fit(model, make(str(tmp_path)), epochs=3)
    assert int(model.optimizer.iterations) > 8 and model.train_function is None
    with pytest.raises(ValueError, match="seen no batch"):
        fit(model, keras.callbacks.History(), epochs=1)


def test_no_picture_shows_a_single_dot():
    one, many = (make_measurement(step, 0.5, np.random.default_rng(0), 8, 12) for step in (1, 2))
    one.spectra = {
        kind: dataclasses.replace(s, eigenvalues=s.eigenvalues[:1]) for kind, s in one.spectra.items()
    }
    one.ratio_eigenvalues = one.ratio_eigenvalues[:1]
    assert set(pictures([one])) == set()
    assert set(pictures([many])) == {"spectra", "ratio_eigenvalues"}
    assert set(pictures([many, one])) == {"cosine", "step_lengths", "gamma"}
