"""The charts draw what was measured: their lines hold exactly these numbers."""

import io
from concurrent.futures import ThreadPoolExecutor

import keras
import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
from helpers.event_files import measurement, verdict, write, write_measurements, write_steps, write_verdicts
from matplotlib.figure import Figure

import kfisher
from kfisher import plots
from kfisher.logs.reader import Log, read_log

STEPS = (10, 20, 40)
KINDS = {"exact": "F exact", "sampled": "F sampled", "empirical": "EF"}
OF_SPECTRA = [
    plots.spectra,
    plots.ratio_eigenvalues,
    plots.overlap,
    plots.layers,
    plots.cosine,
    plots.gamma,
    plots.step_lengths,
    plots.overview,
]
name = lambda f: f.__name__


@pytest.fixture
def measurements():
    return [measurement(step, step / 40) for step in STEPS]


@pytest.fixture
def log_dir(tmp_path, measurements):
    write_measurements(tmp_path, measurements)
    write_verdicts(tmp_path, [verdict(10, "fine"), verdict(40)])
    write_steps(tmp_path, range(1, 41), ["update_norm", "gradient_norm", "cosine"])
    return tmp_path


def lines(ax):
    """`{label: (x, y)}`; a label is there once."""
    found = {line.get_label(): [np.asarray(v, "float64") for v in line.get_data()] for line in ax.lines}
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(shown) == len(set(shown))
    assert {label for label in found if not label.startswith("_")} == set(shown)
    return found


def assert_drawn(ax, label, x, y):
    assert np.array_equal(lines(ax)[label], [np.asarray(x, "float64"), np.asarray(y, "float64")])


def error_bars(ax):
    """The ends of the bars, `(n, 2)` values."""
    [bars] = [c for container in ax.containers for c in container[2]]
    return np.array([segment[:, 1] for segment in bars.get_segments()])


@pytest.mark.parametrize("step, drawn", [(None, 40), (10, 10), (26, 20), (31, 40), (1000, 40)])
def test_spectra_at_the_nearest_step(step, drawn, log_dir, measurements):
    ax = plots.spectra(log_dir, step)
    one = measurements[STEPS.index(drawn)]
    for kind, label in KINDS.items():
        values = one.spectra[kind].eigenvalues
        assert_drawn(ax, label, range(1, 1 + len(values)), values)
    assert set(lines(ax)["damping λ"][1]) == {one.damping}
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_title("left") == f"Eigenvalues at step {drawn}, 64 examples"
    sampled = one.spectra["sampled"]
    top = max(v + e for v, e in zip(sampled.eigenvalues, sampled.error["eigenvalues"]))
    assert np.isclose(ax.collections[0].get_paths()[0].vertices[:, 1].max(), top)


def test_spectra_say_where_only_the_leading_eigenvalues_are_known(measurements):
    measurements[0].spectra["exact"].complete = False
    assert plots.spectra(measurements[0]).get_xlabel() == "rank of the eigenvalue (F exact: the leading ones)"
    assert plots.spectra(measurements[1]).get_xlabel() == "rank of the eigenvalue"


def test_spectra_of_operators_are_the_eigenvalues_of_the_dense_matrices():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 4)).astype("float32"), rng.normal(size=(3, 2)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    exact = kfisher.FisherOperator(model, x)
    empirical = kfisher.FisherOperator(model, x, y, fisher="empirical")
    ax = plots.spectra(exact)
    assert plots.spectra(empirical, ax=ax) is ax
    for operator, label, rank in (exact, "F exact", 6), (empirical, "EF", 3):
        expected = np.linalg.eigvalsh(operator.to_dense().numpy().astype("float64"))[::-1][:rank]
        ranks, values = lines(ax)[label]
        assert ranks.tolist() == list(range(1, rank + 1))  # the zeros are not drawn
        # float32 eigenvalues of matrices of condition 100
        assert np.allclose(values, expected, rtol=1e-4)


def test_ratio_eigenvalues(measurements):
    ax, one = plots.ratio_eigenvalues(measurements[1]), measurements[1]
    for kind, label in ("empirical", "EF: labels of the data"), ("sampled", "labels of the model"):
        assert_drawn(ax, label, one.curved[kind]["curvature"], one.curved[kind]["ratio"])
    assert set(lines(ax)["EF = F"][1]) == {1.0}
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_overlap(measurements):
    ax, one = plots.overlap(measurements[1]), measurements[1]
    for kind in ("sampled", "empirical"):
        assert_drawn(ax, KINDS[kind], one.overlap_sizes, one.overlap[kind])
    assert_drawn(ax, "unrelated", one.overlap_sizes, np.array(one.overlap_sizes) / one.parameters)


def test_layers(measurements):
    ax, found = plots.layers(measurements[1]), measurements[1].layers
    for kind, label in KINDS.items():
        assert_drawn(ax, label, [layer[kind] for layer in found], range(3))
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == ["dense (10000)", "block/attention/query (1500)", "head (500)"]
    top, bottom = ax.get_ylim()[::-1]
    assert top < bottom  # the first layer is on top


def test_of_many_layers_those_with_the_largest_traces_are_drawn_in_order(measurements):
    traces = np.random.default_rng(0).permutation(50) + 1.0
    one = measurements[0]
    one.layers = [
        {"name": f"layer_{i}", "parameters": 7, "exact": t, "sampled": t, "empirical": t}
        for i, t in enumerate(traces)
    ]
    assert_drawn(plots.layers(one, most=4), "EF", [t for t in traces if t > 46], range(4))
    assert len(lines(plots.layers(one))["EF"][0]) == 20
    assert plots.layers(one).get_title("left") == "Trace in 20 of 50 layers at step 10"
    ax = plots.layers(one, most=None)
    assert len(lines(ax)["EF"][0]) == 50
    assert ax.figure.get_figheight() > plots.layers(one).figure.get_figheight()


@pytest.mark.parametrize(
    "chart, attribute",
    [(plots.cosine, "cosine"), (plots.gamma, "gamma"), (plots.step_lengths, "step_norm")],
    ids=["cosine", "gamma", "step_lengths"],
)
def test_numbers_over_steps_with_their_errors(chart, attribute, log_dir, measurements):
    ax = chart(log_dir)
    for kind in getattr(measurements[0], attribute):
        assert_drawn(ax, KINDS[kind], STEPS, [getattr(m, attribute)[kind] for m in measurements])
    expected = [
        getattr(m, attribute)["sampled"] + sign * m.error[attribute] for m in measurements for sign in (-1, 1)
    ]
    assert np.allclose(error_bars(ax).ravel(), expected, rtol=1e-12)


def test_step_lengths_show_the_gradient_too(measurements):
    ax = plots.step_lengths(Log("here", measurements=measurements))
    assert_drawn(ax, "gradient", STEPS, [m.gradient_norm for m in measurements])
    assert ax.get_yscale() == "log"


def test_a_measurement_without_errors_has_no_error_bars(measurements):
    measurements[0].error = {}
    assert plots.cosine(measurements[0]).containers == []


def test_steps(log_dir):
    table = read_log(log_dir).steps
    ax = plots.steps(log_dir)
    assert_drawn(ax, "update", table["step"], table["update_norm"])
    assert_drawn(ax, "gradient", table["step"], table["gradient_norm"])
    assert set(lines(ax)) == {"update", "gradient"}
    alone = plots.steps(log_dir, ["cosine"])
    assert_drawn(alone, "cosine", table["step"], table["cosine"])
    beside = plots.steps(log_dir, ["update_norm", "cosine"])
    assert beside.lines[1].get_color() == alone.lines[0].get_color()
    assert ax.get_yscale() == "log"


def test_steps_with_negative_numbers_have_a_linear_axis(tmp_path):
    write(tmp_path / "fisher", [(1, {"step/cosine": 0.5}), (2, {"step/cosine": -0.5})])
    assert plots.steps(tmp_path, ["cosine"]).get_yscale() == "linear"
    assert plots.steps(tmp_path).get_yscale() == "linear"  # no norms: what there is


def test_overview_holds_every_chart_and_the_verdict_of_the_step(log_dir):
    def texts(figure):
        return "\n".join(text.get_text() for ax in figure.axes for text in ax.texts)

    figure = plots.overview(log_dir, step=12)
    titles = [ax.get_title("left") for ax in figure.axes if ax.get_title("left")]
    log = read_log(log_dir)
    charts = [plots.cosine, plots.gamma, plots.step_lengths, plots.steps]
    charts_of_a_step = [plots.spectra, plots.ratio_eigenvalues, plots.overlap, plots.layers]
    expected = [c(log) for c in charts] + [c(log, 12) for c in charts_of_a_step]
    assert sorted(titles) == sorted(ax.get_title("left") for ax in expected)
    assert "Step 10: fine." in texts(figure)
    assert "Step 40: inverted." in texts(plots.overview(log))
    assert "50-fold" in texts(plots.overview(log))


def test_overview_of_a_folder_whose_name_looks_like_a_formula(tmp_path, measurements):
    log = Log(str(tmp_path / "cost_$ per_$ unit"), measurements=list(measurements))
    log.verdicts.append(verdict(10))
    log.verdicts[0].notes.append("The step taken has the cosine 0.50 with it.")
    figure = plots.overview(log)
    figure.savefig(io.BytesIO(), dpi=40)
    assert figure.get_suptitle() == log.log_dir
    assert "has the cosine 0.50" in "\n".join(text.get_text() for ax in figure.axes for text in ax.texts)


@pytest.mark.parametrize("part", ["steps", "measurement"])
def test_overview_draws_what_there_is(part, log_dir, measurements):
    log = read_log(log_dir)
    source = Log("here", steps=log.steps) if part == "steps" else measurements[0]
    assert len(plots.overview(source).axes) == (1 if part == "steps" else 7)


@pytest.mark.parametrize("chart", [*OF_SPECTRA, plots.steps], ids=name)
def test_nothing_global_is_touched_and_another_thread_may_draw(chart, log_dir):
    log, before = read_log(log_dir), dict(matplotlib.rcParams)

    def draw():
        drawn = chart(log)
        figure = drawn if isinstance(drawn, Figure) else drawn.figure
        figure.savefig(file := io.BytesIO(), dpi=40)
        return file.getvalue()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(draw).result().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == []


@pytest.mark.parametrize("chart", [*OF_SPECTRA[:-1], plots.steps], ids=name)
def test_given_axes_are_drawn_into(chart, log_dir):
    ax = Figure().add_subplot()
    assert chart(log_dir, ax=ax) is ax and len(ax.lines) > 0


def test_kinds_differ_in_colour_and_dash_and_marker_everywhere(measurements):
    seen = {}
    for chart in (plots.spectra, plots.gamma, plots.step_lengths):
        for line in chart(measurements[0]).lines:
            if line.get_label() in KINDS.values():
                look = line.get_color(), line.get_linestyle(), line.get_marker()
                assert seen.setdefault(line.get_label(), look) == look
    for property_of_all in zip(*seen.values()):
        assert len(set(property_of_all)) == 3


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="must be a log directory.*Received: source=3"):
        plots.cosine(3)
    with pytest.raises(FileNotFoundError, match="Received: log_dir"):
        plots.cosine(tmp_path)
    write_steps(tmp_path, [1])
    with pytest.raises(ValueError, match="no spectra in this log.*FisherSpectra"):
        plots.spectra(tmp_path)
    with pytest.raises(ValueError, match="nope was not logged. Choose from update_norm, gradient_norm"):
        plots.steps(tmp_path, ["nope", "update_norm"])
    with pytest.raises(ValueError, match="no step statistics.*StepStatistics"):
        plots.steps(measurement(1))


@pytest.mark.parametrize("chart", [plots.spectra, plots.overview], ids=name)
def test_a_notebook_shows_what_has_a_figure_of_its_own(chart, log_dir):
    assert chart(log_dir)._repr_png_().startswith(b"\x89PNG")
    assert not matplotlib.pyplot.get_fignums()
