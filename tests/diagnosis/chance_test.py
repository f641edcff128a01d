"""Intervals and tests of the verdict, against simulated data, SciPy and brute force."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats

from kfisher.diagnosis import chance
from kfisher.diagnosis.rows import Layout

N, K = 40, 3


def a_frame(rng, examples=N, directions=K, mean=0.0, scale=1.0, draws=4):
    """Rows of F with the identity for F, EF and drawn labels with the same covariance, times `scale`."""
    counts = {"exact": directions, "sampled": draws, "empirical": 1}
    layout = Layout(examples, counts, [], directions)
    x = rng.normal(size=(examples, directions))
    x = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / examples)).T  # so that F is the identity
    exact = np.zeros((directions, examples, directions))
    exact[0] = x / np.sqrt(examples)
    scores = rng.normal(mean, scale, size=examples)
    empirical = x * scores[:, None] / np.sqrt(examples)
    sampled = x * rng.normal(size=(draws, examples, 1)) / np.sqrt(examples)
    rows = np.concatenate([exact.reshape(-1, directions), sampled.reshape(-1, directions), empirical])
    shares = np.full(examples, 1 / examples)
    return SimpleNamespace(
        layout=layout,
        rows=rows,
        of=lambda key: rows[layout.rows(*key)],
        values=np.ones(directions),
        gradient=-x.T @ scores / examples,
        damping=1e-6,
        shares=shares,
        total_weight=1.0,
    )


def test_the_margin_of_draws_is_a_prediction_interval_of_one_more():
    """Of normal numbers the next one lies within it in 90 of 100 cases, whatever the number of draws."""
    rng, inside = np.random.default_rng(0), []
    for _ in range(2000):
        drawn = rng.normal(0.6, 0.2, size=(2, 3))  # two measurements of three draws
        history = [SimpleNamespace(error={"cosine": np.std(d, ddof=1) / np.sqrt(3)}) for d in drawn]
        margin = chance.margin_of_draws(history, "cosine", 3, 0.9)
        inside.append(abs(rng.normal(0.6, 0.2) - drawn[-1].mean()) < margin)
    assert np.mean(inside) == pytest.approx(0.9, abs=0.02)


def test_one_draw_has_no_margin():
    assert chance.margin_of_draws([SimpleNamespace(error={})], "cosine", 1, 0.95) == np.inf


def test_intervals_over_examples_are_those_of_a_jackknife_by_brute_force():
    frame = a_frame(np.random.default_rng(1), mean=1.0)
    frame.damping = 0.3
    rows, found = frame.of(("empirical", None)), []
    for group in range(16):
        kept = np.arange(N) % 16 != group
        u, share = rows[kept], kept.mean()
        descent = u.sum(0) / np.sqrt(N) / share
        step = np.linalg.solve(u.T @ u / share + 0.3 * np.eye(K), descent)
        natural = descent / 1.3
        lengths = np.linalg.norm(step), np.linalg.norm(natural)
        found.append((step @ natural / lengths[0] / lengths[1], np.log(lengths[0] / lengths[1])))
    error = np.sqrt(15 / 16 * np.sum(np.square(found - np.mean(found, 0)), 0))
    half = scipy.stats.t.ppf(0.95, 15) * error
    cosine, log_length = chance.over_examples(frame, 0.9, 2.0, 0.9)
    np.testing.assert_allclose(cosine, [0.9 - half[0], min(0.9 + half[0], 1)])
    np.testing.assert_allclose(log_length, [np.log(2) - half[1], np.log(2) + half[1]])


def test_fewer_examples_than_directions_give_the_same_steps():
    frame = a_frame(np.random.default_rng(1), examples=12, mean=1.0)
    wide = SimpleNamespace(**{**vars(frame), "values": np.r_[frame.values, np.zeros(20)]})
    wide.gradient = np.r_[frame.gradient, np.zeros(20)]
    padded = np.c_[frame.rows, np.zeros((len(frame.rows), 20))]
    wide.of = lambda key: padded[frame.layout.rows(*key)]
    for one, two in zip(
        chance.over_examples(frame, 0.9, 2.0, 0.9), chance.over_examples(wide, 0.9, 2.0, 0.9)
    ):
        np.testing.assert_allclose(one, two, rtol=1e-6)


def test_a_gradient_that_is_no_sum_of_rows_has_no_intervals():
    frame = a_frame(np.random.default_rng(1))
    frame.gradient = frame.gradient + 0.5
    assert chance.over_examples(frame, 0.9, 2.0, 0.9) == ((-np.inf, np.inf), (-np.inf, np.inf))


def of_gradients(scores):
    """A frame in which F is the identity, with these gradients of the examples."""
    count, size = scores.shape
    return SimpleNamespace(
        of=lambda key: scores / np.sqrt(count),
        values=np.ones(size),
        gradient=-scores.mean(0),
        shares=np.full(count, 1 / count),
        total_weight=1.0,
    )


@pytest.mark.parametrize("mean", [0.0, 0.3])
def test_the_test_of_the_gradient_and_its_bound_hold_as_often_as_they_say(mean):
    """Normal gradients with a mean of so many standard deviations in one direction."""
    rng, within, below = np.random.default_rng(0), [], []
    for _ in range(400):
        found = chance.gradient_over_noise(of_gradients(rng.normal(size=(N, K)) + [mean, 0, 0]), K, 0.9)
        assert 0 <= found.found < 1
        within.append(found.within_noise)
        below.append(mean**2 <= found.bound + 1e-12)
    three = 3 * np.sqrt(0.9 * 0.1 / 400)
    if mean:
        assert np.mean(within) < 0.7 and np.mean(below) >= 0.9 - three
    else:
        assert np.mean(within) == pytest.approx(0.9, abs=three)


def test_the_bound_is_that_of_the_noncentral_distribution():
    frame = of_gradients(np.random.default_rng(1).normal(size=(N, K)))
    found = chance.gradient_over_noise(frame, K, 0.9)
    statistic = found.found / (1 - found.found) * (N - K) / K
    assert scipy.stats.ncf.cdf(statistic, K, N - K, N * found.bound) == pytest.approx(0.1, abs=1e-4)


def test_a_gradient_of_nearly_nothing_but_signal_is_not_within_noise():
    frame = of_gradients(np.random.default_rng(0).normal(size=(N, K)) + [50, 0, 0])
    found = chance.gradient_over_noise(frame, K, 0.95)
    assert not found.within_noise and found.found > 0.99 and found.bound > 100


def test_labels_of_the_model_are_within_the_extremes_of_draws_as_often_as_it_says():
    rng, inside = np.random.default_rng(0), []
    for trial in range(300):
        frame = a_frame(rng, draws=6)
        moments = chance.moments(frame, K)
        np.testing.assert_allclose(moments.exact.sum(0), np.eye(K), atol=1e-12)
        (low, high), (least, most) = chance.extremes_of_draws(moments.sampled[1:], 0.8, 200, trial)
        values = np.linalg.eigvalsh(moments.sampled[0].sum(0)) - 1
        inside.append((low <= values[0] and values[-1] <= high, least <= values.sum() <= most))
    # Each has a half of what is left: 0.9, with the spread from five draws; and together at least 0.8.
    assert np.all((np.mean(inside, 0) > 0.8) & (np.mean(inside, 0) < 0.97))
    assert np.mean(np.all(inside, 1)) > 0.75


def test_the_eigenvalues_of_many_examples_are_within_the_half_width():
    """White noise of twice the variance: both eigenvalues are 4, and the interval says so, simultaneously."""
    rng, inside = np.random.default_rng(0), []
    for trial in range(200):
        frame = a_frame(rng, examples=200, scale=2.0)
        moments = chance.moments(frame, K)
        differences = moments.empirical - moments.exact
        values = 1 + np.linalg.eigvalsh(differences.sum(0))
        half = chance.half_width(differences, 0.9, 200, trial)
        inside.append(np.all(np.abs(values - 4) < half))
    assert np.mean(inside) >= 0.85


def test_what_is_the_same_in_all_examples_is_no_error_of_their_sum():
    assert chance.half_width(np.full((N, K, K), 2.0), 0.9, 50, 0) == 0


def test_two_draws_spread_as_two_numbers_do():
    """Of one direction: for many examples normal, with the variance of each example from its draws."""
    sampled = list(np.random.default_rng(0).normal(size=(2, 400, 1, 1)))
    (low, high), total = chance.extremes_of_draws(sampled, 0.8, 4000, 0)
    spread = np.sqrt(np.var(sampled, 0, ddof=1).sum())
    assert np.allclose([low, high], spread * scipy.stats.norm.ppf([0.05, 0.95]), rtol=0.05)
    assert np.allclose(total, [low, high])


def test_the_half_width_of_one_direction_is_that_of_a_normal_sum():
    differences = np.random.default_rng(0).normal(1, 1, size=(400, 1, 1))
    half = chance.half_width(differences, 0.9, 4000, 0)
    expected = scipy.stats.norm.ppf(0.95) * np.sqrt(np.square(differences - differences.mean()).sum())
    assert half == pytest.approx(expected, rel=0.05)
