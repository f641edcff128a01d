"""The server's side of the tab: the page, and the numbers that it asks for."""

from __future__ import annotations

import functools
import gzip
import importlib.resources
import json
import mimetypes
from collections.abc import Callable
from typing import Any

from tensorboard import context as request_context
from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from kfisher.logs import schema
from kfisher.tensorboard.logs import Logs

_DAY = 24 * 3600


class FisherPlugin(base_plugin.TBPlugin):
    """The tab "Fisher".

    Routes, below `/data/plugin/fisher`; each answers with one JSON object, or, with status 400 or 404, with
    `{"error": sentence}`:

    ========================== ============================================
    `/runs`                    `{"runs": [...]}`, see `Logs.runs`
    `/measurements?run=`       see `Logs.measurements`
    `/verdicts?run=`           see `Logs.verdicts`
    `/notes?run=`              see `Logs.notes`
    `/summary?run=`            see `Logs.summary`
    `/steps?run=`              see `Logs.steps`
    `/layers?run=&statistic=`  see `Logs.layers`
    `/static/...`              the page
    `/static/schema.js`        names and looks, out of `kfisher.logs.schema`
    `/plotly.min.js`           the chart library, out of the package `plotly`
    ========================== ============================================

    Args:
        context: TensorBoard's `TBContext`; only its `data_provider` is read.
    """

    plugin_name = schema.PLUGIN

    def __init__(self, context: base_plugin.TBContext):
        super().__init__(context)
        self._data_provider = context.data_provider

    def get_plugin_apps(self) -> dict[str, Callable]:
        return {
            "/runs": self._answer(lambda logs, argument: {"runs": logs.runs()}),
            "/measurements": self._answer(lambda logs, argument: logs.measurements(argument("run"))),
            "/verdicts": self._answer(lambda logs, argument: logs.verdicts(argument("run"))),
            "/summary": self._answer(lambda logs, argument: logs.summary(argument("run"))),
            "/notes": self._answer(lambda logs, argument: logs.notes(argument("run"))),
            "/steps": self._answer(lambda logs, argument: logs.steps(argument("run"))),
            "/layers": self._answer(
                lambda logs, argument: logs.layers(argument("run"), argument("statistic"))
            ),
            "/static/*": _serve_static,
            "/plotly.min.js": _serve_plotly,
        }

    def is_active(self) -> bool:
        """True if a run was logged by kfisher; TensorBoard asks only if there is no measurement."""
        if self._data_provider is None:
            return False
        return bool(Logs(self._data_provider, request_context.RequestContext(), "").runs())

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        return base_plugin.FrontendMetadata(es_module_path="/static/index.js", tab_name="Fisher")

    def _answer(self, read: Callable[[Logs, Callable[[str], str]], dict[str, Any]]) -> Callable:
        @wrappers.Request.application
        def application(request: Any) -> Any:
            def argument(name: str) -> str:
                if not request.args.get(name):
                    raise errors.InvalidArgumentError(f"the argument `{name}` is missing")
                return request.args[name]

            environ = request.environ
            logs = Logs(self._data_provider, plugin_util.context(environ), plugin_util.experiment_id(environ))
            try:
                content, code = read(logs, argument), 200
            except errors.PublicError as error:
                content, code = {"error": str(error)}, error.http_code
            # As text, because TensorBoard would go through every number once more.
            text = json.dumps(content, separators=(",", ":"))
            return http_util.Respond(request, text, "application/json", code=code)

        return application


class FisherLoader(base_plugin.TBLoader):
    """Loads the tab, and sees to it that TensorBoard keeps every measurement and not ten of them.

    `--samples_per_plugin fisher=100` on the command line goes first.
    """

    def fix_flags(self, flags: Any) -> None:
        if isinstance(getattr(flags, "samples_per_plugin", None), dict):
            flags.samples_per_plugin.setdefault(schema.PLUGIN, 0)  # 0 is TensorBoard's word for all

    def load(self, context: base_plugin.TBContext) -> FisherPlugin:
        return FisherPlugin(context)


@wrappers.Request.application
def _serve_static(request: Any) -> Any:
    name = request.path.rpartition("/static/")[2]
    folder = importlib.resources.files(__package__) / "static"
    if name == "schema.js":
        return http_util.Respond(request, _schema(), "text/javascript")
    if name not in _static_files():
        return http_util.Respond(request, {"error": f"no such file: {name}"}, "application/json", code=404)
    # What `mimetypes` says of .js depends on the machine, and a module must be JavaScript.
    kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0] or "text/plain"
    return http_util.Respond(request, folder.joinpath(name).read_bytes(), kind)


def _schema() -> str:
    """A module for the page with the names that are logged, and how each kind is drawn."""
    content = {
        "kinds": {kind: look._asdict() for kind, look in schema.LOOKS.items()},
        "matrices": schema.KINDS,
        "statistics": {name: about._asdict() for name, about in schema.STATISTICS.items()},
        "layerStatistics": schema.LAYER_STATISTICS,
        "lossLine": schema.LOSS,
        "skippedLine": schema.SKIPPED_STEPS,
        "rejectedLine": schema.REJECTED_STEPS,
    }
    return f"export const schema = {json.dumps(content, indent=1)};\n"


def _static_files() -> frozenset[str]:
    """The names that may be asked for: nothing outside the folder is one of them."""
    folder = importlib.resources.files(__package__) / "static"
    return frozenset(entry.name for entry in folder.iterdir() if entry.is_file())


@wrappers.Request.application
def _serve_plotly(request: Any) -> Any:
    return http_util.Respond(request, _plotly(), "text/javascript", content_encoding="gzip", expires=_DAY)


@functools.cache
def _plotly() -> bytes:
    """5 MB, compressed once."""
    path = importlib.resources.files("plotly") / "package_data" / "plotly.min.js"
    return gzip.compress(path.read_bytes(), compresslevel=6, mtime=0)
