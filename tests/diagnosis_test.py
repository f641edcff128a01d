"""The verdict on the empirical Fisher: experiments B and C of the paper, and where EF is fine."""

import keras
import numpy as np
import paper_test as paper
import pytest
import tensorflow as tf

import kfisher
from kfisher.callbacks import FisherDiagnosis
from kfisher.diagnosis import judge
from kfisher.meter import Meter, examples
from kfisher.optimizers import EmpiricalNaturalGradient

pytestmark = pytest.mark.usefixtures("float64_module")

N = 1000
B = [("logistic", name) for name in paper.LOGISTIC] + [("linear", name) for name in paper.LINEAR]


def sample(family, name, seed):
    """Experiment B's data, as the paper draws them."""
    rng = np.random.RandomState(seed)
    if family == "linear":
        x, noise = rng.randn(N, 1), rng.randn(N, 1)
        return x, paper.LINEAR[name][0](x, noise)
    mean, first, second, *_ = paper.LOGISTIC[name]
    x = [rng.randn(N // 2, 2) @ first + mean, rng.randn(N // 2, 2) @ second - mean]
    return np.concatenate(x), np.repeat([0.0, 1.0], N // 2)[:, None]


def minimum(family, x, y):
    """The maximum-likelihood weights, in NumPy."""
    if family == "linear":
        theta = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
        return [theta[:1], theta[1]]
    theta = np.zeros((2, 1))
    for _ in range(20):
        p = 1 / (1 + np.exp(-x @ theta))
        theta -= np.linalg.solve(x.T @ (x * p * (1 - p)), x.T @ (p - y))
    return [theta]


@pytest.fixture(scope="module")
def meters(float64_module):
    """For each family a model with a meter that is traced once."""

    def make(features, use_bias, loss):
        model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(1, use_bias=use_bias)])
        model.compile("sgd", loss)
        return Meter(model, draws=8, seed=0)

    return {
        "logistic": make(2, False, paper.logistic()),
        "linear": make(1, True, paper.half_squared_error()),
    }


def at_the_minimum(meter, family, name, seed):
    x, y = sample(family, name, seed)
    meter.model.set_weights(minimum(family, x, y))
    measurement, frame = meter(*examples((x, y), None))
    return measurement, judge([measurement], frame, kfisher.Thresholds(), seed)


@pytest.mark.parametrize("family, name", B, ids=" ".join)
def test_the_verdict_at_the_minimum_over_twenty_seeds(family, name, meters):
    verdicts = [at_the_minimum(meters[family], family, name, seed)[1] for seed in range(20)]
    expected = "fine" if name == "correct" else "misspecified"
    assert [v.verdict for v in verdicts] == 20 * [expected]
    assert all(v.trusted == (expected == "fine") for v in verdicts)
    for verdict in verdicts:  # at a minimum a step has no direction, and one measurement is no history
        levels = {f.name: f.level for f in verdict.findings}
        assert levels["direction"] == levels["length"] == levels["inversion"] == "unknown"


@pytest.mark.parametrize("family, name", B, ids=" ".join)
def test_diagnose_says_the_same_of_the_model_and_changes_nothing_in_it(family, name, meters):
    measurement, expected = at_the_minimum(meters[family], family, name, 0)
    model = meters[family].model
    before = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    attributes = set(vars(model))
    verdict = kfisher.diagnose(model, *sample(family, name, 0))
    assert verdict.verdict == expected.verdict
    found, reference = verdict.findings[3].values, expected.findings[3].values
    assert np.allclose(found["eigenvalues"], reference["eigenvalues"])
    # The numbers behind it are those of the paper's table.
    table = {**paper.LOGISTIC, **paper.LINEAR}[name] if name != "correct" else None
    table = table or getattr(paper, family.upper())[name]
    assert np.allclose(found["eigenvalues"][::-1], table[-1], atol=5.1e-3)
    after = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after)) and set(vars(model)) == attributes
    assert verdict.sentence in str(verdict) and verdict.findings[3].text in str(verdict)


def test_a_trace_of_two_does_not_clear_logistic_b(meters):
    """tr(F^-1 EF) = D, as if EF were F, and yet eigenvalues far from 1."""
    measurement, verdict = at_the_minimum(meters["logistic"], "logistic", "misspecified B", 0)
    finding = verdict.findings[3]
    assert finding.values["trace"] == pytest.approx(2, abs=5e-3)
    assert measurement.trace_ratio == pytest.approx(2, abs=5e-3)
    assert verdict.verdict == "misspecified" and finding.level == "bad"
    assert "trace" not in finding.text


# --- experiment C: along EF's own path ------------------------------------------------------------


def experiment_c(name, log_dir, damping):
    """EF with the step size and the damping of the paper; the verdict before each measured step."""
    if name == "wine":
        x, y = kfisher.datasets.wine()
        loss, rate, own = paper.half_squared_error(), 10**-1.375, 1e-6
    else:
        x, y = kfisher.datasets.breast_cancer()
        loss, rate, own = paper.logistic(), 10**-1.25, 1e-10
    model = paper.linear_model(x.shape[1], 1, loss, EmpiricalNaturalGradient(rate, "dense", damping=own))
    diagnosis = FisherDiagnosis(
        log_dir,
        examples=len(x),
        damping=own if damping == "given" else None,
        max_overhead=None,
        write_images=False,
        verbose=0,
    )
    y = y[:, None].astype("float64")
    model.fit(x, y, batch_size=len(x), epochs=60, verbose=0, callbacks=[diagnosis])
    return diagnosis, kfisher.read_log(log_dir).verdicts
