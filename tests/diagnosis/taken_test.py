"""The step of the optimizer beside the natural one, and Adam's second moments, against dense matrices."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import scipy.stats
from diagnosis.comparison_test import CASES, Dense, dense, jacobian
from helpers.models import EAGER, crossentropy
from helpers.versions import not_in_oldest

import kfisher
from kfisher._keras.private import second_moments
from kfisher.callbacks import FisherDiagnosis
from kfisher.diagnosis.meter import Meter, examples
from kfisher.diagnosis.notes import notes

pytestmark = pytest.mark.usefixtures("float64_module")


def move(model, rng):
    """A step that is nobody's, with a part downhill."""
    update = [rng.normal(size=v.shape) / 10 for v in model.trainable_variables]
    for variable, part in zip(model.trainable_variables, update):
        variable.assign_add(part)
    return np.concatenate([part.ravel() for part in update])


@pytest.mark.parametrize(
    "name", ["softmax, P < rows", "positions, Gram", "two outputs", "unknown variance", "masked"]
)
def test_a_step_is_compared_with_that_of_the_dense_matrices(name):
    keras.utils.set_random_seed(3)
    make, count = CASES[name]
    model, x, y, w, weights, exact = make(count)
    draws, damping, data = 2, 0.01, examples((x, y, w), None)
    meter = Meter(model, draws, 7)
    found, frame = meter(*data, damping=damping)
    d: Dense = dense(model, x, y, w, weights, draws, exact)
    before = meter.before(*data, 0, frame)
    update = move(model, np.random.default_rng(0))
    taken = before.after()
    natural = np.linalg.solve(d.exact + damping * np.eye(len(d.exact)), d.gradient)
    gamma = lambda s: np.sqrt(s @ d.exact @ s) / abs(s @ d.gradient)
    expected = {
        "cosine": -update @ natural / np.linalg.norm(update) / np.linalg.norm(natural),
        "step_norm": np.linalg.norm(update),
        "gamma": gamma(update) / gamma(d.gradient),
    }
    assert taken == pytest.approx(expected, rel=1e-6)
    assert before.after() == taken  # and again, for the same weights
    mine = np.concatenate([np.ravel(part) for part in before.natural])
    np.testing.assert_allclose(mine, natural, rtol=1e-6, atol=1e-9 * np.abs(natural).max())


def test_more_rows_than_are_decomposed_still_give_the_natural_step():
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(5)
    layers = [keras.Input((8,)), keras.layers.Dense(110, "tanh"), keras.layers.Dense(4)]
    model = keras.Sequential(layers)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = examples((rng.normal(size=(360, 8)), rng.integers(0, 4, 360), None), None)  # 1080 rows
    meter = Meter(model, 2, 0)
    found, frame = meter(*data)
    damping = 0.01 * found.spectra["exact"].eigenvalues[0]
    found, frame = meter(*data, damping=damping)
    assert not found.complete
    before = meter.before(*data, 0, frame)
    f = kfisher.FisherOperator(model, data[0], data[1])
    gradient = np.concatenate([np.ravel(g) for g in before.gradient])
    natural = f.damped(damping).solvevec(gradient).numpy()
    mine = np.concatenate([np.ravel(part) for part in before.natural])
    assert mine @ natural / np.linalg.norm(mine) / np.linalg.norm(natural) > 1 - 1e-6
    assert np.linalg.norm(mine) == pytest.approx(found.step_norm["exact"], rel=1e-6)


def test_weights_that_have_not_changed_are_no_step():
    make, count = CASES["softmax, Gram"]
    model, x, y, w, *_ = make(count)
    meter, data = Meter(model, 2, 0), examples((x, y, w), None)
    assert meter.before(*data, 0, meter(*data)[1]).after() == {}


# --- in training ----------------------------------------------------------------------------------


def classifier(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5, "tanh"), keras.layers.Dense(3)])
    model.compile(optimizer, crossentropy(), **EAGER)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3))
    return model, x, np.argmax(x + rng.gumbel(size=x.shape), 1)


def measured(optimizer, log_dir, damping=0.01, **options):
    model, x, y = classifier(optimizer)
    options = {"freq": 1, "damping": damping, "max_overhead": None, "write_images": False, **options}
    callback = FisherDiagnosis(log_dir, verbose=0, **options)
    model.fit(x, y, batch_size=64, epochs=3, verbose=0, shuffle=False, callbacks=[callback])
    return callback


def test_natural_gradient_takes_the_natural_step_and_gradient_descent_the_gradient(tmp_path):
    rate = 0.5
    natural = kfisher.optimizers.NaturalGradient(rate, "exact", "gram", damping=0.01, trust_region=None)
    for m in measured(natural, tmp_path / "natural").measurements:
        assert m.cosine["taken"] == pytest.approx(1, abs=1e-6)
        assert m.step_norm["taken"] == pytest.approx(rate * m.step_norm["exact"], rel=1e-6)
        assert m.gamma["taken"] == pytest.approx(m.gamma["exact"], rel=1e-6)
    for m in measured(keras.optimizers.SGD(rate), tmp_path / "sgd").measurements:
        assert m.step_norm["taken"] == pytest.approx(rate * m.gradient_norm, rel=1e-6)
        assert m.gamma["taken"] == pytest.approx(1, rel=1e-6) and 0 < m.cosine["taken"] < 0.999


def test_of_several_steps_at_once_none_is_compared(tmp_path):
    model, x, y = classifier("sgd")
    model.compile("sgd", model.loss, steps_per_execution=2)
    callback = FisherDiagnosis(tmp_path, freq=1, max_overhead=None, write_images=False, verbose=0)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=[callback])
    assert len(callback.measurements) == 2 and "taken" not in callback.measurements[0].cosine


@pytest.mark.parametrize(
    "name", ["lion", pytest.param("muon", marks=not_in_oldest("Keras does not find it"))]
)
def test_any_optimizer_has_its_step_logged_and_told(name, tmp_path):
    callback = measured(name, tmp_path)
    log = kfisher.read_log(tmp_path)
    for name in ("cosine/taken", "step_norm/taken", "gamma/taken"):
        assert len(log.spectra[name]) == 3 and np.all(np.isfinite(log.spectra[name]))
    (note,) = callback.verdict.notes
    assert f"cosine {callback.measurements[-1].cosine['taken']:.2f} with the natural" in note
    assert note in str(callback.verdict) and log.verdicts[-1].notes == callback.verdict.notes
    assert all(m.second_moment == {} for m in callback.measurements)  # it keeps none of all weights


def test_second_moments_are_compared_with_the_diagonals(tmp_path):
    """Against the squares of single gradients, from Jacobians; there are none before the first step."""
    model, x, y = classifier(keras.optimizers.Adam(0.01))
    model.fit(x, y, batch_size=64, epochs=2, verbose=0)
    moments = np.concatenate([np.ravel(v) for v in second_moments(model.optimizer)])
    assert np.all(moments > 0)
    j = jacobian(model, x).reshape(64, 3, -1)
    p = keras.ops.convert_to_numpy(keras.ops.softmax(model(x)))
    gradients = np.einsum("nc,ncp->np", p - np.eye(3)[y], j)
    expected = scipy.stats.spearmanr(moments, np.square(gradients).sum(0))[0]
    found = Meter(model, 2, 0).second_moments(*examples((x, y, None), None), 2)
    assert found["empirical"] == pytest.approx(expected, rel=1e-9)
    exact = np.einsum("nc,cd->ncd", p, np.eye(3)) - p[:, :, None] * p[:, None]
    diagonal = np.einsum("ncp,ncd,ndp->p", j, exact, j)
    # One drawn label an example: the noise of 64 squares.
    assert found["sampled"] == pytest.approx(scipy.stats.spearmanr(moments, diagonal)[0], abs=0.15)
    callback = measured("adam", tmp_path)
    assert [sorted(m.second_moment) for m in callback.measurements] == [[], *[["empirical", "sampled"]] * 2]
    assert "rank correlation" in callback.verdict.notes[-1]
    assert list(kfisher.read_log(tmp_path).spectra["second_moment/empirical"][1:]) == [
        m.second_moment["empirical"] for m in list(callback.measurements)[1:]
    ]


@pytest.mark.parametrize("name", ["adam", "adamw", "nadam", "rmsprop"])
def test_keras_keeps_second_moments_where_they_are_looked_for(name):
    model, *_ = classifier(name)
    model.optimizer.build(model.trainable_variables)
    gradients = [np.full(v.shape, 2.0) for v in model.trainable_variables]
    model.optimizer.apply(gradients, model.trainable_variables)
    kept = second_moments(model.optimizer)
    assert [v.shape for v in kept] == [v.shape for v in model.trainable_variables]
    for v in kept:  # 1 - decay of a square
        share = np.ravel(v)[0] / 4
        assert 0.0009 < share < 0.2 and np.allclose(v, 4 * share)
    assert second_moments(keras.optimizers.SGD()) == []


def test_a_note_tells_how_the_step_compares():
    now = SimpleNamespace(
        cosine={"taken": 0.75, "empirical": 0.25},
        step_norm={"taken": 3.0, "exact": 2.0},
        gamma={"taken": 0.875, "exact": 0.5, "empirical": 0.625},
        second_moment={"sampled": -0.5, "empirical": 0.125},
    )
    step, moments = notes(now)
    assert "cosine 0.75 " in step and "(EF: 0.25)" in step and "and 1.5 times its length" in step
    assert "is 0.875 (natural gradient: 0.5, EF: 0.625," in step
    assert "0.12 with the diagonal of EF and -0.50 with that of F" in moments
