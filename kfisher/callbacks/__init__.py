"""What is logged during `fit`."""

from kfisher.callbacks.step_statistics import StepStatistics

__all__ = ["StepStatistics"]
