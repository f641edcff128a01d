"""Fixtures that several test files use."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st


def pytest_collection_modifyitems(config, items):
    """Quick ones first, in each process: `--dist worksteal` hands each a part of the list, from its start."""
    count = getattr(config, "workerinput", {}).get("workercount", 1)
    slow = [item.get_closest_marker("slow") is not None for item in items]
    kinds = [[item for item, is_slow in zip(items, slow) if is_slow == kind] for kind in (False, True)]
    items[:] = [
        item
        for n in range(count)
        for kind in kinds
        for item in kind[len(kind) * n // count : len(kind) * (n + 1) // count]
    ]


_make_options = tf.data.Options.__init__


def _make_untuned_options(self):
    """Iterators of `tf.data` that are thrown away wait for the thread that tunes them, up to seconds each:
    minutes in a suite of so many `fit`s, most of them where the collector happens to run."""
    _make_options(self)
    self.autotune.enabled = False


tf.data.Options.__init__ = _make_untuned_options


@given(st.none())
def _warm_up_hypothesis(nothing):
    """Once in a process Hypothesis looks through all objects: here, before there are many."""


def pytest_collection_finish():
    """Spares the collector what was imported: a trace makes so many objects that it would look through all of
    it again and again, which is a fifth of the time of a trace."""
    _warm_up_hypothesis()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 10)


@pytest.fixture(autouse=True)
def seed(request, monkeypatch):
    """What is drawn in a test, globally or from its file's RNG, does not depend on the tests before it."""
    keras.utils.set_random_seed(1)
    if hasattr(request.module, "RNG"):
        monkeypatch.setattr(request.module, "RNG", np.random.default_rng(190512558))


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
