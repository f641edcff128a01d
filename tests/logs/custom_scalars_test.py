"""The custom-scalars layout, as TensorBoard's own plugin reads it."""

import json
import re

import tensorflow as tf
from helpers.event_files import measurement, write_measurements, write_steps
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin

from kfisher.logs.custom_scalars import custom_scalars_layout

STEP_NAMES = [
    "loss",
    "update_norm",
    "gradient_norm",
    "update_to_gradient",
    "cosine",
    "weight_norm",
    "distance",
    "learning_rate",
    "rate_in_use",
    "momentum_in_use",
    "damping",
    "skipped_steps",
    "kl",
    "radius",
    "rejected_steps",
]


def write_layout(folder, names=None):
    with tf.io.TFRecordWriter(str(folder / "events.out.tfevents.1.layout")) as file:
        file.write(tf.compat.v1.Event(summary=custom_scalars_layout(names)).SerializeToString())


def plugin(log_dir):
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(log_dir))
    multiplexer.Reload()
    plugins = {}
    provider = MultiplexerDataProvider(multiplexer, str(log_dir))
    base = base_plugin.TBContext(
        logdir=str(log_dir), data_provider=provider, plugin_name_to_instance=plugins, multiplexer=multiplexer
    )
    plugins["scalars"] = ScalarsPlugin(base)
    return CustomScalarsPlugin(base)


def charts(log_dir):
    """`{(category, title): [regular expressions]}`."""
    layout = json.loads(plugin(log_dir).layout_impl(context.RequestContext(), ""))
    return {
        (category["title"], chart["title"]): chart["multiline"]["tag"]
        for category in layout.get("category", [])
        for chart in category["chart"]
    }


def test_every_scalar_has_one_chart_and_every_chart_a_scalar(tmp_path):
    write_steps(tmp_path / "fisher", [1])
    write_layout(tmp_path / "fisher")
    found = charts(tmp_path)
    assert {category for category, _ in found} == {"Steps", "Fisher against EF"}
    tags = {f"step/{name}" for name in STEP_NAMES} | set(measurement(1).scalars())
    shown = [tag for tag in tags for [pattern] in found.values() if re.match(pattern, tag)]
    assert len(shown) == len(set(shown))
    assert tags - set(shown) == {"fisher/damping", "fisher/seconds"}  # not about matrices
    for title, [pattern] in found.items():
        assert any(re.match(pattern, tag) for tag in tags), title


def test_tensorboard_finds_the_numbers_of_a_chart(tmp_path):
    write_steps(tmp_path, [1, 2])
    write_measurements(tmp_path, [measurement(1), measurement(2)])
    write_layout(tmp_path / "fisher")
    one, found = plugin(tmp_path), charts(tmp_path)
    [pattern] = found["Fisher against EF", "Trace of F, sampled F and EF"]
    events = one.scalars_impl(context.RequestContext(), "fisher", pattern, "")["tag_to_events"]
    assert set(events) == {f"fisher/trace/{kind}" for kind in ("exact", "sampled", "empirical")}
    assert [step for _, step, _ in events["fisher/trace/exact"]] == [1, 2]
    [pattern] = found["Steps", "Update norm and gradient norm"]
    events = one.scalars_impl(context.RequestContext(), "fisher", pattern, "")["tag_to_events"]
    assert set(events) == {"step/update_norm", "step/gradient_norm"}


def test_charts_of_what_is_not_logged_are_left_out(tmp_path):
    write_steps(tmp_path / "fisher", [1])
    write_layout(tmp_path / "fisher", ["update_norm", "cosine", "learning_rate"])
    titles = [title for category, title in charts(tmp_path) if category == "Steps"]
    assert titles == [
        "Update norm and gradient norm",
        "Cosine of the update and minus the gradient",
        "Learning rate and damping",
    ]


def test_two_runs_share_their_charts(tmp_path):
    for run in ("one", "two"):
        write_steps(tmp_path / run, [1])
        write_layout(tmp_path / run / "fisher")
    layout = json.loads(plugin(tmp_path).layout_impl(context.RequestContext(), ""))
    titles = [(c["title"], chart["title"]) for c in layout["category"] for chart in c["chart"]]
    assert len(titles) == len(set(titles)) == len(charts(tmp_path / "one"))
