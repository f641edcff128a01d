"""Logs of the callbacks, read through TensorBoard's data provider."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tensorboard import errors
from tensorboard.data import provider
from tensorboard.util import tb_logging

from kfisher.diagnosis.measurement import Measurement, Verdict
from kfisher.logs import schema
from kfisher.tensorboard import compact

MAX_POINTS = 1000
logger = tb_logging.get_logger()

# What the page asks for by name, by its tag.
_LISTS = {
    schema.MEASUREMENT_TAG: "measurements",
    schema.VERDICT_TAG: "verdicts",
    schema.NOTES_TAG: "notes",
    schema.SUMMARY_TAG: "summary",
}
_EVERYTHING = 1_000_000  # a data provider must be told a number


class Logs:
    """The runs under a log directory: the sub-run "yacht/fisher" is the run "yacht".

    Args:
        data_provider: TensorBoard's; that of the fast loader or of the old one.
        context: The `RequestContext`, passed on.
        experiment: Its id, passed on; empty for local logs.

    Raises:
        tensorboard.errors.NotFoundError: By the methods that take a `run`, if there is none of that name.
    """

    def __init__(self, data_provider: provider.DataProvider, context: Any, experiment: str):
        self._provider = data_provider
        self._request = {"ctx": context, "experiment_id": experiment}

    def runs(self) -> list[dict[str, Any]]:
        """For each run its name, and when its last measurement, verdict, notes and step were written.

        A page that asks again needs to fetch only what has a new time.
        """
        found: dict[str, dict[str, Any]] = {}
        tensors = self._provider.list_tensors(**self._request, plugin_name=schema.PLUGIN)
        for run, tags in tensors.items():
            for tag, name in _LISTS.items():
                if tag in tags:
                    found.setdefault(_parent(run), {})[name] = _version(tags[tag])
        for run, tags in self._scalars(None).items():
            ours = {tag: series for tag, series in tags.items() if tag.startswith(schema.STEP)}
            if ours:
                entry = found.setdefault(_parent(run), {})
                entry["steps"] = max(map(_version, ours.values()), key=lambda version: version[1])
                entry["last_step"] = max(series.max_step for series in ours.values())
        return [{"name": name, **found[name]} for name in sorted(found)]

    def measurements(self, run: str) -> dict[str, Any]:
        """The measurements of a run, compact, by ascending step.

        Returns:
            `{"ranks": {count: [...]}, "measurements": [...], "total": ...}`, see `compact_measurement`;
            of more than `MAX_MEASUREMENTS`, so many evenly.
        """
        everything = self._tensors(run, schema.MEASUREMENT_TAG)
        ranks: dict[str, tuple[int, ...]] = {}
        shown = compact.evenly(everything, compact.MAX_MEASUREMENTS)
        found = _objects(run, schema.MEASUREMENT_TAG, shown, Measurement.from_json)
        small = [compact.compact_measurement(values, ranks) for values in found]
        return {"ranks": ranks, "measurements": small, "total": len(everything)}

    def verdicts(self, run: str) -> dict[str, Any]:
        """The verdicts of a run, by ascending step: `{"verdicts": [...]}`."""
        shown = compact.evenly(self._tensors(run, schema.VERDICT_TAG), compact.MAX_MEASUREMENTS)
        found = _objects(run, schema.VERDICT_TAG, shown, Verdict.from_json)
        return {"verdicts": [compact.rounded(values) for values in found]}

    def notes(self, run: str) -> dict[str, Any]:
        """What was left out, and why: `{"notes": [sentences]}`."""
        written = self._tensors(run, schema.NOTES_TAG)[-1:]
        found = _objects(run, schema.NOTES_TAG, written, _sentences)
        return {"notes": found[0] if found else []}

    def summary(self, run: str) -> dict[str, Any]:
        """From when to when each verdict held: `{"summary": [periods]}`, as `Summary` has them."""
        written = self._tensors(run, schema.SUMMARY_TAG)[-1:]
        found = _objects(run, schema.SUMMARY_TAG, written, _periods)
        return {"summary": compact.rounded(found[0]["periods"]) if found else []}

    def steps(self, run: str) -> dict[str, Any]:
        """The statistics of each step: lines of at most `MAX_POINTS` points.

        Returns:
            `{"axes": [[steps]], "lines": {name: {"axis": index, "values": [...]}}, "last_step": ...,
            "layers": [names of the layers that have statistics of their own], "held_out": {"x": [steps],
            "y": [losses on validation data, as Keras logs them]}}`.
        """
        listed = self._scalars(self._existing(run))
        tags = [tag for series in listed.values() for tag in series]
        layers = {found[0] for tag in tags if (found := schema.layer_and_name(tag))}
        ours = {tag: tag.removeprefix(schema.STEP) for tag in tags if tag.startswith(schema.STEP)}
        last = max((s.max_step for series in listed.values() for s in series.values()), default=0)
        lines = self._lines(run, ours)
        return {**lines, "last_step": last, "layers": sorted(layers), "held_out": self._held_out(run)}

    def layers(self, run: str, statistic: str) -> dict[str, Any]:
        """One statistic of the steps of each layer; as `steps`, the names being those of layers.

        Raises:
            tensorboard.errors.InvalidArgumentError: For a statistic that layers do not have.
        """
        if statistic not in schema.LAYER_STATISTICS:
            raise errors.InvalidArgumentError(
                f"`statistic` must be one of {', '.join(schema.LAYER_STATISTICS)}. Received: {statistic}"
            )
        tags = [tag for series in self._scalars(self._existing(run)).values() for tag in series]
        parts = {tag: found for tag in tags if (found := schema.layer_and_name(tag))}
        return self._lines(run, {tag: layer for tag, (layer, name) in parts.items() if name == statistic})

    def _held_out(self, run: str) -> dict[str, list]:
        """The loss on validation data against the step."""
        subrun = schema.VALIDATION_FOLDER if run == "." else f"{run}/{schema.VALIDATION_FOLDER}"
        chosen = provider.RunTagFilter(runs=[subrun], tags=[schema.VALIDATION_LOSS_TAG])
        read = self._provider.read_scalars(
            **self._request, plugin_name="scalars", downsample=MAX_POINTS, run_tag_filter=chosen
        )
        data = read.get(subrun, {}).get(schema.VALIDATION_LOSS_TAG, [])
        by_step = {datum.step: float(datum.value) for datum in data}
        x = sorted(by_step)
        return {"x": x, "y": compact.rounded([by_step[step] for step in x])}

    def _existing(self, run: str) -> list[str]:
        """The sub-runs of a run."""
        subruns = [r.run_name for r in self._provider.list_runs(**self._request)]
        found = [subrun for subrun in subruns if _parent(subrun) == run]
        if not found:
            raise errors.NotFoundError(f"no run {run!r} has been logged by kfisher")
        return found

    def _scalars(self, runs: list[str] | None) -> Any:
        chosen = provider.RunTagFilter(runs=runs)
        return self._provider.list_scalars(**self._request, plugin_name="scalars", run_tag_filter=chosen)

    def _tensors(self, run: str, tag: str) -> list[tuple[int, np.ndarray]]:
        """Steps, ascending, with their arrays; the last one of a step that was logged again."""
        chosen = provider.RunTagFilter(runs=self._existing(run), tags=[tag])
        read = self._provider.read_tensors(
            **self._request, plugin_name=schema.PLUGIN, downsample=_EVERYTHING, run_tag_filter=chosen
        )
        by_step = {datum.step: datum.numpy for tags in read.values() for datum in tags.get(tag, [])}
        return sorted(by_step.items(), key=lambda item: item[0])

    def _lines(self, run: str, names: dict[str, str]) -> dict[str, Any]:
        """The scalar series with the given tags; lines with the same steps share the list of these."""
        if not names:
            return {"axes": [], "lines": {}}
        chosen = provider.RunTagFilter(runs=self._existing(run), tags=list(names))
        read = self._provider.read_scalars(
            **self._request, plugin_name="scalars", downsample=MAX_POINTS, run_tag_filter=chosen
        )
        axes: dict[tuple[int, ...], int] = {}
        lines = {}
        for tags in read.values():
            for tag, data in tags.items():
                by_step = {datum.step: float(datum.value) for datum in data}
                steps = tuple(sorted(by_step))
                axis = axes.setdefault(steps, len(axes))
                lines[names[tag]] = {"axis": axis, "values": compact.rounded([by_step[s] for s in steps])}
        return {"axes": list(axes), "lines": {name: lines[name] for name in sorted(lines)}}


def _parent(subrun: str) -> str:
    """ "runs/yacht/fisher" -> "runs/yacht"; a run that is none of ours is its own parent."""
    head, _, tail = subrun.replace("\\", "/").rpartition("/")
    return (head or ".") if tail == schema.FOLDER else subrun


def _version(series: Any) -> list[float]:
    """Step and time of the last record; JSON has no word for a time that is not a number."""
    return [series.max_step, series.max_wall_time if math.isfinite(series.max_wall_time) else 0.0]


def _periods(text: bytes) -> list[dict]:
    """The periods of a summary, each with a verdict and its steps, from JSON."""
    found = json.loads(text)
    periods = found.get("periods") if isinstance(found, dict) else None
    needed = {"verdict", "first", "last", "agreeing", "measurements", "numbers"}
    if not isinstance(periods, list) or not all(isinstance(p, dict) and needed <= set(p) for p in periods):
        raise ValueError("must have periods")
    return periods


def _sentences(text: bytes) -> list[str]:
    """A list of sentences from JSON."""
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError("must be a list of sentences")
    return found


_warned: set[tuple[str, str, int]] = set()


def _objects(
    run: str, tag: str, records: list[tuple[int, np.ndarray]], parse: Callable[[bytes], Any]
) -> list[Any]:
    """Contents of JSON texts; those that are no such object are left out, with one warning each."""
    found = []
    for step, array in records:
        try:
            if array.size != 1 or not isinstance(array.item(), bytes):
                raise ValueError("must be a text")
            parse(array.item())
            found.append(json.loads(array.item()))
        except ValueError as error:
            if (run, tag, step) not in _warned:
                _warned.add((run, tag, step))
                logger.warning("kfisher: %s of run %r at step %d is left out: %s", tag, run, step, error)
    return found
