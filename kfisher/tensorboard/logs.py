"""What the callbacks logged, read through TensorBoard's data provider."""

from __future__ import annotations

import json
import re
from typing import Any

from tensorboard import errors
from tensorboard.data import provider

from kfisher.tensorboard import compact

PLUGIN_NAME = "fisher"
MEASUREMENT_TAG = "fisher/measurement"
VERDICT_TAG = "fisher/verdict"
LAYER_STATISTICS = ("update_norm", "gradient_norm", "weight_norm")
MAX_POINTS = 1000

_PARTS = ("steps", "spectra", "verdict")  # sub-directories of a `log_dir`
_EVERYTHING = 1_000_000  # a data provider must be told a number
_LAYER_TAG = re.compile(r"layer/(?P<layer>.+)/(?P<statistic>[^/]+)")


class Logs:
    """The runs under a log directory: "yacht/steps" and "yacht/spectra" together are the run "yacht".

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
        """For each run its name, and when its last measurement, verdict and step were written.

        A page that asks again needs to fetch only what has a new time.
        """
        found: dict[str, dict[str, Any]] = {}
        tensors = self._provider.list_tensors(**self._request, plugin_name=PLUGIN_NAME)
        for run, tags in tensors.items():
            for tag, name in ((MEASUREMENT_TAG, "measurements"), (VERDICT_TAG, "verdicts")):
                if tag in tags:
                    found.setdefault(_parent(run), {})[name] = _version(tags[tag])
        for run, tags in self._scalars(None).items():
            ours = {tag: series for tag, series in tags.items() if tag.startswith("step/")}
            if ours:
                entry = found.setdefault(_parent(run), {})
                entry["steps"] = _version(max(ours.values(), key=lambda series: series.max_wall_time))
                entry["last_step"] = max(series.max_step for series in ours.values())
        return [{"name": name, **found[name]} for name in sorted(found)]

    def measurements(self, run: str) -> dict[str, Any]:
        """The measurements of a run, compact, by ascending step.

        Returns:
            `{"ranks": {count: [...]}, "measurements": [...], "total": ...}`, see `compact_measurement`;
            of more than `MAX_MEASUREMENTS`, so many evenly.
        """
        everything = self._tensors(run, MEASUREMENT_TAG)
        ranks: dict[str, tuple[int, ...]] = {}
        shown = compact.evenly(everything, compact.MAX_MEASUREMENTS)
        small = [compact.compact_measurement(json.loads(text), ranks) for text in shown]
        return {"ranks": ranks, "measurements": small, "total": len(everything)}

    def verdicts(self, run: str) -> dict[str, Any]:
        """The verdicts of a run, by ascending step: `{"verdicts": [...]}`."""
        texts = compact.evenly(self._tensors(run, VERDICT_TAG), compact.MAX_MEASUREMENTS)
        return {"verdicts": [compact.rounded(json.loads(text)) for text in texts]}

    def steps(self, run: str) -> dict[str, Any]:
        """The statistics of each step: lines of at most `MAX_POINTS` points.

        Returns:
            `{"axes": [[steps]], "lines": {name: {"axis": index, "values": [...]}}, "last_step": ...,
            "layers": [names of the layers that have statistics of their own]}`.
        """
        listed = self._scalars(self._existing(run))
        tags = [tag for series in listed.values() for tag in series]
        layers = {match["layer"] for tag in tags if (match := _LAYER_TAG.fullmatch(tag))}
        ours = {tag: tag.removeprefix("step/") for tag in tags if tag.startswith("step/")}
        last = max((s.max_step for series in listed.values() for s in series.values()), default=0)
        return {**self._lines(run, ours), "last_step": last, "layers": sorted(layers)}

    def layers(self, run: str, statistic: str) -> dict[str, Any]:
        """One statistic of the steps of each layer; as `steps`, the names being those of layers.

        Raises:
            tensorboard.errors.InvalidArgumentError: For a statistic that layers do not have.
        """
        if statistic not in LAYER_STATISTICS:
            raise errors.InvalidArgumentError(
                f"`statistic` must be one of {', '.join(LAYER_STATISTICS)}. Received: {statistic}"
            )
        tags = [tag for series in self._scalars(self._existing(run)).values() for tag in series]
        matches = [match for tag in tags if (match := _LAYER_TAG.fullmatch(tag))]
        return self._lines(run, {m[0]: m["layer"] for m in matches if m["statistic"] == statistic})

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

    def _tensors(self, run: str, tag: str) -> list[str]:
        """JSON texts by ascending step, the last one of a step that was logged again."""
        chosen = provider.RunTagFilter(runs=self._existing(run), tags=[tag])
        read = self._provider.read_tensors(
            **self._request, plugin_name=PLUGIN_NAME, downsample=_EVERYTHING, run_tag_filter=chosen
        )
        by_step = {datum.step: datum.numpy for tags in read.values() for datum in tags.get(tag, [])}
        return [by_step[step].item().decode("utf-8") for step in sorted(by_step)]

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
    """ "runs/yacht/steps" -> "runs/yacht"; a run that is none of ours is its own parent."""
    head, _, tail = subrun.replace("\\", "/").rpartition("/")
    return (head or ".") if tail in _PARTS else subrun


def _version(series: Any) -> list[float]:
    return [series.max_step, series.max_wall_time]
