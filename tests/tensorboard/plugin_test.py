"""The server's side of the tab: every measurement arrives, runs are put together, answers stay small."""

import argparse
import json
import time
from importlib import metadata

import numpy as np
import pytest
import tensorflow as tf
from helpers.fisher_logs import make_measurement, write_run, write_texts
from tensorboard.backend.event_processing import data_ingester, data_provider
from tensorboard.backend.event_processing import plugin_event_multiplexer as multiplexers
from tensorboard.data import server_ingester
from tensorboard.plugins import base_plugin
from tensorboard.util import grpc_util
from werkzeug.test import Client

from kfisher.diagnosis.measurement import Measurement
from kfisher.logs import writer
from kfisher.tensorboard import FisherLoader
from kfisher.tensorboard.compact import MAX_MEASUREMENTS, MAX_RANKS, display_ranks

STEPS = 3000


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("logs")
    write_run(path / "net" / "adam", seed=0, steps=STEPS, measurements=60)
    write_run(path / "plain", seed=1, steps=20, measurements=0, layer_statistics=False)
    return path


@pytest.fixture(scope="module", params=["fast", "old"])
def client(request, log_dir):
    return _client(log_dir, request.param)


def _client(log_dir, loader_name):
    """The plugin on TensorBoard's own loaders, with the flags that its loader leaves."""
    loader = FisherLoader()
    flags = argparse.Namespace(samples_per_plugin={})
    loader.fix_flags(flags)
    if loader_name == "fast":
        ingester = server_ingester.SubprocessServerDataIngester(
            server_ingester.get_server_binary(),
            str(log_dir),
            reload_interval=0,
            channel_creds_type=grpc_util.ChannelCredsType.LOCAL,
            samples_per_plugin=flags.samples_per_plugin,
        )
        ingester.start()
        provider = ingester.data_provider
    else:
        sizes = {**data_ingester.DEFAULT_TENSOR_SIZE_GUIDANCE, **flags.samples_per_plugin}
        multiplexer = multiplexers.EventMultiplexer(tensor_size_guidance=sizes)
        multiplexer.AddRunsFromDirectory(str(log_dir)).Reload()
        provider = data_provider.MultiplexerDataProvider(multiplexer, str(log_dir))
    plugin = loader.load(base_plugin.TBContext(data_provider=provider, flags=flags))
    apps = plugin.get_plugin_apps()

    def application(environ, start_response):
        path = environ["PATH_INFO"]
        name = path if path in apps else "/static/*"
        return apps[name](environ, start_response)

    client = Client(application)
    client.plugin = plugin
    deadline = time.monotonic() + 60  # the fast loader reads in a process of its own
    while not _json(client, "/runs")["runs"] and list(log_dir.glob("**/events*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if loader_name == "fast":
        _settle(client)
    return client


def _settle(client):
    """Waits until the loader has read to the end of each file."""
    before = None
    while (now := client.get("/runs").data) != before:
        before = now
        time.sleep(0.5)


def _json(client, path, **arguments):
    response = client.get(path, query_string=arguments)
    assert response.status_code == 200, response.data
    return json.loads(response.data)


def test_the_package_registers_the_tab():
    points = metadata.entry_points(group="tensorboard_plugins")
    assert [point.load() for point in points if point.name == "fisher"] == [FisherLoader]


def test_sub_runs_are_one_run(client):
    runs = _json(client, "/runs")["runs"]
    assert [run["name"] for run in runs] == ["net/adam", "plain"]
    assert runs[0]["last_step"] == STEPS and runs[0]["measurements"][0] == STEPS
    assert "measurements" not in runs[1] and runs[1]["steps"][0] == 20


def test_all_measurements_arrive(client, log_dir):
    answer = _json(client, "/measurements", run="net/adam")
    assert len(answer["measurements"]) == answer["total"] == 60
    steps = [m["step"] for m in answer["measurements"]]
    assert steps == sorted(steps) and steps[0] == 1 and steps[-1] == STEPS


def test_measurements_are_what_was_logged(tmp_path):
    logged = make_measurement(7, 0.2, np.random.default_rng(0))
    write_texts(tmp_path / "fisher", "fisher/measurement", [(7, logged.to_json())])
    client = _client(tmp_path, "old")
    assert [run["name"] for run in _json(client, "/runs")["runs"]] == ["."]
    answer = _json(client, "/measurements", run=".")
    (shown,) = answer["measurements"]
    for kind, spectrum in logged.spectra.items():
        count = str(len(spectrum.eigenvalues))
        ranks = np.array(answer["ranks"][count])
        expected = np.array(spectrum.eigenvalues)[ranks - 1]
        np.testing.assert_allclose(shown["spectra"][kind]["eigenvalues"]["values"], expected, rtol=1e-4)
        assert len(ranks) <= MAX_RANKS and ranks[0] == 1 and ranks[-1] == int(count)
    np.testing.assert_allclose(shown["gamma"]["empirical"], logged.gamma["empirical"], rtol=1e-4)
    assert [layer["name"] for layer in shown["layers"]] == [layer["name"] for layer in logged.layers]


def test_a_number_that_is_not_finite_becomes_null(tmp_path):
    logged = make_measurement(7, 0.2, np.random.default_rng(0))
    logged.cosine["empirical"] = float("nan")
    write_texts(tmp_path / "fisher", "fisher/measurement", [(7, logged.to_json())])
    (shown,) = _json(_client(tmp_path, "old"), "/measurements", run=".")["measurements"]
    assert shown["cosine"]["empirical"] is None


def test_a_step_that_was_measured_again_is_shown_once(tmp_path):
    generator = np.random.default_rng(0)
    first, second = (make_measurement(7, 0.2, generator) for _ in range(2))
    texts = [(7, first.to_json()), (7, second.to_json())]
    write_texts(tmp_path / "fisher", "fisher/measurement", texts)
    (shown,) = _json(_client(tmp_path, "old"), "/measurements", run=".")["measurements"]
    assert shown["cosine"]["sampled"] == pytest.approx(second.cosine["sampled"], rel=1e-4)


def test_many_measurements_are_thinned(tmp_path):
    generator = np.random.default_rng(0)
    made = [make_measurement(step, 0.1, generator, examples=4, parameters=6) for step in range(1, 501)]
    write_texts(tmp_path / "fisher", "fisher/measurement", [(m.step, m.to_json()) for m in made])
    answer = _json(_client(tmp_path, "old"), "/measurements", run=".")
    steps = [m["step"] for m in answer["measurements"]]
    assert len(steps) == MAX_MEASUREMENTS and steps[0] == 1 and steps[-1] == 500 and answer["total"] == 500


@pytest.mark.parametrize("loader", ["fast", "old"])
def test_what_is_malformed_is_left_out_and_told_of_once(loader, tmp_path, caplog):
    generator = np.random.default_rng(0)
    good = [(step, make_measurement(step, 0.2, generator).to_json()) for step in (1, 3)]
    texts = [good[0], (2, "{"), good[1], (4, "[]"), (5, json.dumps({"step": 5}))]
    write_texts(tmp_path / loader / "fisher", "fisher/measurement", texts)
    write_texts(tmp_path / loader / "fisher", "fisher/verdict", [(1, "null"), (2, '{"findings": 3}')])
    client = _client(tmp_path, loader)
    for _ in range(2):
        answer = _json(client, "/measurements", run=loader)
        assert [m["step"] for m in answer["measurements"]] == [1, 3]
        assert _json(client, "/verdicts", run=loader) == {"verdicts": []}
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(told) == 5
    assert f"fisher/measurement of run '{loader}' at step 2 is left out" in told[0]


def test_a_time_that_is_not_a_number_leaves_the_list_of_runs_json(tmp_path):
    (tmp_path / "fisher").mkdir()
    for part, tag in (("spectra", "fisher/measurement"), ("steps", "step/a")):
        with tf.io.TFRecordWriter(str(tmp_path / "fisher" / f"events.out.tfevents.1.{part}")) as file:
            event = tf.compat.v1.Event(step=7, wall_time=np.nan)
            text = make_measurement(7, 0.2, np.random.default_rng(0)).to_json()
            values = [writer.text(tag, text, "fisher")] if part == "spectra" else writer.scalars({tag: 1.0})
            event.summary.value.extend(values)
            file.write(event.SerializeToString())
    response = _client(tmp_path, "old").get("/runs")
    [run] = json.loads(response.data, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["runs"]
    assert run["measurements"] == run["steps"] == [7, 0.0]


def test_notes_and_the_loss_on_validation_data(tmp_path):
    write_run(tmp_path / "a", steps=20, measurements=0, layer_statistics=False)
    write_texts(
        tmp_path / "a" / "fisher", "fisher/notes", [(1, '["one"]'), (9, '["one", "two"]'), (11, "{}")]
    )
    with tf.summary.create_file_writer(str(tmp_path / "a" / "validation")).as_default():
        for step, value in ((10, 2.0), (20, float("inf"))):
            tf.summary.scalar("evaluation_loss_vs_iterations", value, step=step)
            tf.summary.scalar("epoch_loss", value, step=step // 10)
    client = _client(tmp_path, "old")
    (run,) = [run for run in _json(client, "/runs")["runs"] if run["name"] == "a"]
    assert run["notes"][0] == 11
    assert _json(client, "/notes", run="a") == {"notes": []}  # the last one is no list
    assert _json(client, "/steps", run="a")["held_out"] == {"x": [10, 20], "y": [2.0, None]}
    write_texts(tmp_path / "b" / "fisher", "fisher/notes", [(1, '["one"]'), (9, '["one", "two"]')])
    assert _json(_client(tmp_path, "old"), "/notes", run="b") == {"notes": ["one", "two"]}


def test_the_summary_of_a_run_is_the_last_one(tmp_path):
    period = {"verdict": "fine", "first": 0, "agreeing": 2, "measurements": 3, "numbers": {"cosine": 0.9}}
    texts = [(step, json.dumps({"periods": [{**period, "last": step}]})) for step in (3, 9)]
    write_texts(tmp_path / "a" / "fisher", "fisher/summary", texts)
    write_texts(tmp_path / "b" / "fisher", "fisher/summary", [(3, '{"periods": [1]}')])
    client = _client(tmp_path, "old")
    assert _json(client, "/summary", run="a") == {"summary": [{**period, "last": 9}]}
    assert _json(client, "/summary", run="b") == {"summary": []}


def test_verdicts(client):
    verdicts = _json(client, "/verdicts", run="net/adam")["verdicts"]
    assert len(verdicts) == 20 and verdicts[0]["verdict"] == "fine"
    assert {finding["name"] for finding in verdicts[0]["findings"]} == {"direction", "length", "inversion"}


def test_lines_are_bounded_and_share_their_steps(client):
    answer = _json(client, "/steps", run="net/adam")
    assert set(answer["lines"]) >= {"update_norm", "cosine", "kl", "skipped_steps"}
    assert all(len(axis) <= 1000 for axis in answer["axes"])
    assert answer["axes"][0][-1] == answer["last_step"] == STEPS
    assert len(answer["axes"]) == 1  # ten lines, one list of steps
    assert "a_layer_with_quite_a_long_name" in answer["layers"]
    for line in answer["lines"].values():
        assert len(line["values"]) == len(answer["axes"][line["axis"]])


def test_lines_of_layers(client):
    answer = _json(client, "/layers", run="net/adam", statistic="gradient_norm")
    assert sorted(answer["lines"]) == sorted(_json(client, "/steps", run="net/adam")["layers"])


class _Counting:
    """A data provider that notes what it is asked for."""

    def __init__(self, provider):
        self._provider, self.asked = provider, []

    def __getattr__(self, name):
        method = getattr(self._provider, name)

        def noted(*args, **kwargs):
            self.asked.append((name, kwargs))
            return method(*args, **kwargs)

        return noted


def test_an_answer_costs_as_much_with_many_runs_as_with_one(client, monkeypatch):
    """Numbers are read of one run alone; of all there are lists, one of each sort."""
    provider = _Counting(client.plugin._data_provider)
    monkeypatch.setattr(client.plugin, "_data_provider", provider)
    assert len(_json(client, "/runs")["runs"]) == 2
    assert sorted(name for name, _ in provider.asked) == ["list_scalars", "list_tensors"]
    assert len(client.get("/runs").data) < 2 * 300  # bytes of a run
    asked = [("/measurements", {}), ("/verdicts", {}), ("/summary", {}), ("/notes", {}), ("/steps", {})]
    for path, more in [*asked, ("/layers", {"statistic": "update_norm"})]:
        provider.asked.clear()
        answer = client.get(path, query_string={"run": "net/adam", **more}).data
        # Sixty measurements, ten lines of a thousand points, or as many of five layers.
        assert len(answer) < 1_000_000, path
        reads = [kwargs for name, kwargs in provider.asked if name.startswith("read_")]
        assert 1 <= len(reads) <= 2 and len(provider.asked) <= 5, path
        assert all(r["run_tag_filter"].tags for r in reads)
        assert {run for r in reads for run in r["run_tag_filter"].runs} <= {
            "net/adam/fisher",
            "net/adam/validation",
        }


@pytest.mark.parametrize(
    "path, arguments, status, text",
    [
        ("/steps", {}, 400, "`run` is missing"),
        ("/measurements", {"run": "no"}, 404, "no run 'no'"),
        ("/verdicts", {"run": "net"}, 404, "no run 'net'"),
        ("/layers", {"run": "plain", "statistic": "color"}, 400, "Received: color"),
        ("/static/../plugin.py", {}, 404, "no such file"),
        ("/static/absent.js", {}, 404, "no such file"),
    ],
)
def test_errors_are_json(client, path, arguments, status, text):
    response = client.get(path, query_string=arguments)
    assert response.status_code == status
    assert text in json.loads(response.data)["error"]


def test_the_page_is_served_as_modules(client):
    assert client.plugin.is_active()
    module = client.plugin.frontend_metadata().es_module_path
    response = client.get(module)
    assert response.status_code == 200 and response.content_type.startswith("text/javascript")
    plotly = client.get("/plotly.min.js", headers={"Accept-Encoding": "gzip"})
    assert plotly.content_encoding == "gzip" and len(plotly.data) < 2_000_000


def test_inactive_without_logs_of_ours(tmp_path):
    assert not _client(tmp_path, "old").plugin.is_active()


def test_the_command_line_goes_first():
    flags = argparse.Namespace(samples_per_plugin={"fisher": 5})
    FisherLoader().fix_flags(flags)
    assert flags.samples_per_plugin == {"fisher": 5}


@pytest.mark.parametrize("count", [0, 1, 399, 400, 401, 1000, 123_456])
def test_display_ranks(count):
    ranks = np.array(display_ranks(count))
    assert len(ranks) == min(count, MAX_RANKS) or 0.8 * MAX_RANKS <= len(ranks) <= MAX_RANKS
    assert (np.diff(ranks) > 0).all()
    if count:
        assert ranks[0] == 1 and ranks[-1] == count


def test_a_fixture_is_a_measurement():
    made = make_measurement(3, 0.1, np.random.default_rng(0))
    assert Measurement.from_json(made.to_json()) == made
