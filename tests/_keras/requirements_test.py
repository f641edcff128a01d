"""What is said where something that kfisher stands on is missing: each in a process of its own."""

import subprocess
import sys
from importlib import metadata

import pytest


def last_line(code):
    """What a program ends with on its error output."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1, ended.stderr
    return ended.stderr.strip().splitlines()[-1]


def test_another_backend_of_keras_is_named_when_kfisher_is_imported():
    # Keras asks for JAX or PyTorch before it gets so far; neither is needed to say it.
    said = last_line("import keras\nkeras.config.backend = lambda: 'jax'\nimport kfisher")
    assert said.startswith("ImportError: kfisher works with the TensorFlow backend of Keras only.")
    assert said.endswith("Received: keras.config.backend()='jax'")


STEP = """
import sys, types
{prepare}
import numpy as np, keras, kfisher
model = kfisher.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile(kfisher.optimizers.NaturalGradient(), "mse", run_eagerly=True)
model.train_on_batch(np.ones((1, 1)), np.ones((1, 1)))
"""


def test_a_missing_tf_keras_is_named_at_the_first_step_with_what_to_install():
    said = last_line(STEP.format(prepare="sys.modules['tf_keras'] = None"))
    assert said.startswith(
        "ImportError: kfisher draws labels with TensorFlow Probability, which needs tf-keras"
    )
    version = metadata.version("tensorflow")
    assert f"'tf-keras=={'.'.join(version.split('.')[:2])}.*'" in said and f"TensorFlow {version}" in said
    assert said.endswith("ModuleNotFoundError: import of tf_keras halted; None in sys.modules")


@pytest.mark.slow
@pytest.mark.by_hand
def test_a_tf_keras_of_another_version_is_named_too():
    """Any that lacks what TensorFlow Probability takes from it."""
    said = last_line(STEP.format(prepare="sys.modules['tf_keras'] = types.ModuleType('tf_keras')"))
    assert said.startswith("ImportError: kfisher draws labels with TensorFlow Probability")
