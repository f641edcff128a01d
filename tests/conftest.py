"""Fixtures that several test files use."""

import keras
import pytest


@pytest.fixture
def float64():
    """Everything in float64: floatx (losses, optimizer variables) and the dtype policy (layers)."""
    yield from _float64()


@pytest.fixture(scope="module")
def float64_module():
    """The same for a whole file, whose fixtures then share models."""
    yield from _float64()


def _float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
