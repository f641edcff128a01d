"""Natural gradient for Keras, and the means to tell it from its empirical imitation."""

from kfisher import callbacks, curvature, damping, datasets, likelihoods, losses, optimizers, plots, spectra
from kfisher.curvature.coverage import coverage
from kfisher.diagnosis.findings import Thresholds
from kfisher.diagnosis.measurement import Measurement, Verdict
from kfisher.diagnosis.verdict import diagnose
from kfisher.fisher import Empirical, Exact, Sampled
from kfisher.logs.reader import Log, read_log
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
