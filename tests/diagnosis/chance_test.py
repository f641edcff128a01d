"""Intervals and tests of the verdict, against simulated data, SciPy and brute force."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats

from kfisher.diagnosis import chance
from kfisher.diagnosis.rows import Layout

N, K = 40, 3


def normal(rng, *shape):
    return rng.normal(size=shape)


def a_frame(rng, examples=N, directions=K, mean=0.0, scale=1.0, scores_of=normal):
    """Rows of F with the identity for F, and EF with the same covariance, times `scale`²."""
    counts = {"exact": 1, "sampled": 0, "empirical": 1}
    layout = Layout(examples, counts, [], directions)
    x = rng.normal(size=(examples, directions))
    x = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / examples)).T  # so that F is the identity
    scores = mean + scale * scores_of(rng, examples)
    rows = np.concatenate([x, x * scores[:, None]]) / np.sqrt(examples)
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
        roots=np.sqrt(shares),
        draw=lambda count, first: scores_of(rng, count, 1, examples),
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


def steps_of(rows, weights, damping):
    """Cosine and logarithm of the length ratio from gradients with these weights; F is the identity."""
    descent = rows.T @ np.sqrt(weights)
    step = np.linalg.solve(rows.T @ rows + damping * np.eye(rows.shape[1]), descent)
    natural = descent / (1 + damping)
    lengths = np.linalg.norm(step), np.linalg.norm(natural)
    return step @ natural / lengths[0] / lengths[1], np.log(lengths[0] / lengths[1])


@pytest.mark.parametrize("equal", [True, False])
def test_intervals_over_examples_are_those_of_a_jackknife_by_brute_force(equal):
    rng = np.random.default_rng(1)
    frame = a_frame(rng, mean=1.0)
    frame.damping = 0.3
    if not equal:
        shares = rng.uniform(0.5, 1.5, size=N)
        shares[3] = 0
        frame.shares = shares / shares.sum()
        frame.roots = np.sqrt(frame.shares)
        frame.rows = frame.rows * np.sqrt(np.tile(frame.shares, 2) * N)[:, None]
        frame.of = lambda key: frame.rows[frame.layout.rows(*key)]
        frame.gradient = -frame.of(("empirical", None)).T @ np.sqrt(frame.shares)
    rows, found = frame.of(("empirical", None)), []
    for one in range(N):
        kept, rest = np.arange(N) != one, 1 - frame.shares[one]
        found.append(steps_of(rows[kept] / np.sqrt(rest), frame.shares[kept] / rest, 0.3))
    cosine, length = steps_of(rows, frame.shares, 0.3)
    rest, moved = 1 - frame.shares[:, None], np.array(found) - [cosine, length]
    error, bias = np.sqrt(np.sum(rest * moved**2, 0)), np.sum(rest[:, 0] * moved[:, 1])
    half = scipy.stats.t.ppf(0.95, 1 / np.sum(frame.shares**2) - 1) * error
    assert 0 < abs(bias) < half[1]
    found = chance.over_examples(frame, cosine, np.exp(length), 0.9)
    np.testing.assert_allclose(found[0], [cosine - half[0], min(cosine + half[0], 1)])
    np.testing.assert_allclose(found[1], length - bias + [-half[1], half[1]])


def test_the_interval_of_the_length_holds_it_as_often_on_either_side():
    """EF of 48 examples in 6 directions makes steps that are a sixth too long; the interval knows."""
    rng, below, above = np.random.default_rng(0), 0, 0
    truth = -np.log1p(1)  # EF is 1 + 1 in the direction of the gradient, where F is 1
    for _ in range(400):
        u = rng.normal(size=(48, 6)) + [1, 0, 0, 0, 0, 0]
        frame = of_gradients(u)
        length = steps_of(frame.of(None), frame.shares, frame.damping)[1]
        low, high = chance.over_examples(frame, 0.9, np.exp(length), 0.9)[1]
        assert low <= length <= high
        below, above = below + (high < truth), above + (low > truth)
    assert below <= 400 * 0.05 + 13 and above <= 400 * 0.05 + 13  # three standard deviations


def test_where_the_bias_is_beyond_the_error_the_interval_holds_both():
    """Of 12 examples in 30 directions."""
    frame = of_gradients(np.random.default_rng(3).normal(size=(12, 30)) + np.r_[1, np.zeros(29)])
    frame.damping = 0.01
    length = steps_of(frame.of(None), frame.shares, frame.damping)[1]
    moved = chance._without_each(frame)[:, 1] - length
    bias = 11 / 12 * moved.sum()
    half = scipy.stats.t.ppf(0.95, 11) * np.sqrt(11 / 12 * np.sum(moved**2))
    assert -bias > half
    found = chance.over_examples(frame, 0.9, np.exp(length), 0.9)[1]
    np.testing.assert_allclose(found, [length - half, length - bias + half])


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
        roots=np.full(count, 1 / np.sqrt(count)),
        damping=1e-9,
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


@pytest.mark.parametrize("size", [30, 80])
def test_the_bound_is_known_for_many_directions(size):
    """Far out SciPy's distribution function is NaN, here for some of these sets."""
    for seed in range(40):
        scores = np.random.default_rng(seed).normal(size=(500, size))
        found = chance.gradient_over_noise(of_gradients(scores), size, 0.95)
        assert found.bound < 1 and (found.within_noise or found.bound > size / 500)


@pytest.mark.parametrize("size", [3, 300])
def test_the_whole_gradient_is_beyond_its_noise_as_often_as_it_says(size):
    """Also in more directions than there are examples; and a mean is seen where the damping hides it."""
    rng, beyond = np.random.default_rng(0), []
    for seed in range(200):
        found, noise = chance.whole_gradient_over_noise(
            of_gradients(rng.normal(size=(100, size))), 0.9, 200, seed
        )
        beyond.append(found > noise)
    assert np.mean(beyond) == pytest.approx(0.1, abs=3 * np.sqrt(0.09 / 200))
    frame = of_gradients(rng.normal(size=(100, 3)) + [0, 0, 1])
    frame.values, frame.damping = np.array([1.0, 1.0, 1e-3]), 0.1
    found, noise = chance.whole_gradient_over_noise(frame, 0.9, 200, 0)
    assert found > 2 * noise


def test_a_gradient_of_nearly_nothing_but_signal_is_not_within_noise():
    frame = of_gradients(np.random.default_rng(0).normal(size=(N, K)) + [50, 0, 0])
    found = chance.gradient_over_noise(frame, K, 0.95)
    assert not found.within_noise and found.found > 0.99 and found.bound > 100


def heavy(rng, *shape):
    """Scores with a variance of 1 and tails that few draws do not have."""
    return rng.standard_t(5, size=shape) * np.sqrt(0.6)


@pytest.mark.parametrize("scores_of", [normal, heavy])
@pytest.mark.parametrize("fitted", [False, True])
def test_labels_of_the_model_are_within_the_extremes_of_draws_as_often_as_it_says(scores_of, fitted):
    """Also where the tails decide."""
    rng, inside = np.random.default_rng(1), []
    for _ in range(200):
        frame = a_frame(rng, scores_of=scores_of)
        moments = chance.moments(frame, K)
        np.testing.assert_allclose(moments.exact.sum(0), np.eye(K), atol=1e-12)
        (low, high), (least, most) = chance.extremes(chance.of_drawn_labels(frame, K, fitted, 200), 0.8)
        empirical = frame.of(("empirical", None))
        if fitted:  # by least squares: F is that of a linear model
            x = frame.of(("exact", None)) * np.sqrt(N)
            scores = np.sum(empirical * x, 1) / np.sum(x * x, 1) * np.sqrt(N)
            empirical = x * (scores - x @ np.linalg.lstsq(x, scores)[0])[:, None] / np.sqrt(N)
        values = np.linalg.eigvalsh(empirical.T @ empirical)
        inside.append((low <= values[0] and values[-1] <= high, least <= values.sum() <= most))
    # Each has a half of what is left: 0.9; and together at least 0.8, within three standard deviations.
    assert np.all(np.abs(np.mean(inside, 0) - 0.9) < 0.065)
    assert np.mean(np.all(inside, 1)) > 0.8 - 0.085


def test_draws_in_parts_are_as_many_as_are_asked_for(monkeypatch):
    monkeypatch.setattr(chance, "_AT_ONCE", 7 * N * K)
    parts, frame = [], a_frame(np.random.default_rng(0))
    frame.draw = lambda count, first: parts.append((count, first)) or np.ones((count, 1, N))
    assert np.allclose(chance.of_drawn_labels(frame, K, False, 16), np.eye(K))
    assert parts == [(7, 0), (7, 7), (2, 14)]


def test_extremes_are_quantiles_of_the_outermost_eigenvalues_and_of_sums():
    values = np.random.default_rng(0).normal(size=(4000, 2))
    (low, high), total = chance.extremes(np.einsum("ri,ij->rij", values, np.eye(2)), 0.8)
    assert np.allclose([low, high], [np.quantile(values.min(1), 0.05), np.quantile(values.max(1), 0.95)])
    assert np.allclose(total, np.sqrt(2) * scipy.stats.norm.ppf([0.05, 0.95]), rtol=0.05)


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


def test_the_half_width_of_one_direction_is_that_of_a_normal_sum():
    differences = np.random.default_rng(0).normal(1, 1, size=(400, 1, 1))
    half = chance.half_width(differences, 0.9, 4000, 0)
    expected = scipy.stats.norm.ppf(0.95) * np.sqrt(np.square(differences - differences.mean()).sum())
    assert half == pytest.approx(expected, rel=0.05)
