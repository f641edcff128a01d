"""Natural gradient for Keras, and the means to tell it from its empirical imitation."""

from kfisher import callbacks, curvature, damping, datasets, likelihoods, losses, optimizers, plots, spectra
from kfisher.coverage import coverage
from kfisher.diagnosis import diagnose
from kfisher.findings import Thresholds
from kfisher.fisher import Empirical, Exact, Sampled
from kfisher.log import Log, read_log
from kfisher.measurement import Measurement, Verdict
from kfisher.model import FisherMixin, Model, Sequential, attach, detach
from kfisher.operator import FisherOperator
from kfisher.version import __version__

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
