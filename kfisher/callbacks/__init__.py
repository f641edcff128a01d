"""Callbacks that log during `fit`."""

from kfisher.callbacks.fisher_diagnosis import FisherDiagnosis
from kfisher.callbacks.fisher_spectra import FisherSpectra
from kfisher.callbacks.step_statistics import StepStatistics
from kfisher.callbacks.tensorboard import TensorBoard
from kfisher.callbacks.terminate_on_divergence import TerminateOnDivergence

__all__ = ["FisherDiagnosis", "FisherSpectra", "StepStatistics", "TensorBoard", "TerminateOnDivergence"]
