"""Natural gradient for Keras, and the means to tell it from its empirical imitation."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from kfisher.version import __version__

if TYPE_CHECKING:
    from kfisher import (
        callbacks,
        curvature,
        damping,
        datasets,
        likelihoods,
        losses,
        optimizers,
        plots,
        spectra,
    )
    from kfisher.curvature.coverage import coverage
    from kfisher.diagnosis.measurement import Measurement, Verdict
    from kfisher.diagnosis.thresholds import Thresholds
    from kfisher.diagnosis.verdict import diagnose
    from kfisher.fisher import Empirical, Exact, Sampled
    from kfisher.logs.reader import Log, read_log
    from kfisher.model import FisherMixin, Model, Sequential, attach, detach
    from kfisher.operator import FisherOperator

# Where each public name is; a name whose room is itself is a module.
_ROOMS = {
    "Empirical": "fisher",
    "Exact": "fisher",
    "FisherMixin": "model",
    "FisherOperator": "operator",
    "Log": "logs.reader",
    "Measurement": "diagnosis.measurement",
    "Model": "model",
    "Sampled": "fisher",
    "Sequential": "model",
    "Thresholds": "diagnosis.thresholds",
    "Verdict": "diagnosis.measurement",
    "attach": "model",
    "callbacks": "callbacks",
    "coverage": "curvature.coverage",
    "curvature": "curvature",
    "damping": "damping",
    "datasets": "datasets",
    "detach": "model",
    "diagnose": "diagnosis.verdict",
    "likelihoods": "likelihoods",
    "losses": "losses",
    "optimizers": "optimizers",
    "plots": "plots",
    "read_log": "logs.reader",
    "spectra": "spectra",
}

__all__ = [
    "Empirical",
    "Exact",
    "FisherMixin",
    "FisherOperator",
    "Log",
    "Measurement",
    "Model",
    "Sampled",
    "Sequential",
    "Thresholds",
    "Verdict",
    "__version__",
    "attach",
    "callbacks",
    "coverage",
    "curvature",
    "damping",
    "datasets",
    "detach",
    "diagnose",
    "likelihoods",
    "losses",
    "optimizers",
    "plots",
    "read_log",
    "spectra",
]


def __getattr__(name: str) -> Any:
    """A public name, loaded when it is first used."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'kfisher' has no attribute {name!r}")
    room = importlib.import_module(f"kfisher.{_ROOMS[name]}")
    found = room if _ROOMS[name] == name else getattr(room, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__


# Keras finds a class in a saved model if the module that registers it was imported, so all that can be
# saved is loaded now. Not where TensorBoard looks for plugins: TensorFlow would start for a web page.
if "tensorboard.default" not in sys.modules or "keras" in sys.modules:
    importlib.import_module("kfisher._keras.requirements").check_backend()
    for _room in ("model", "fisher", "losses", "damping", "curvature", "optimizers"):
        importlib.import_module(f"kfisher.{_room}")
