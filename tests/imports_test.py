"""What is loaded when: the tab without TensorFlow, the package without what only some of it needs."""

import json
import subprocess
import sys

from kfisher_scripts.benchmarking import starting


def loaded(code):
    """Names of all modules that `code` loads into a new process after its first line."""
    first, rest = code.split("\n", 1)
    program = f"import json, sys\n{first}\nbefore = set(sys.modules)\n{rest}\n"
    program += "print(json.dumps(sorted(set(sys.modules) - before)))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout))


def test_the_tab_loads_no_tensorflow():
    found = loaded("import tensorboard.default\nimport kfisher.tensorboard.plugin")
    assert "kfisher.logs.schema" in found
    assert not found & {"tensorflow", "keras", "matplotlib", "scipy"}


def test_tensorboard_itself_starts_with_the_tab_and_without_tensorflow(tmp_path):
    assert starting.seconds("with", str(tmp_path)) > 0  # it raises if TensorFlow was loaded


def test_the_package_loads_neither_plots_nor_distributions():
    # Keras loads them for its own use, where there are any.
    blocked = "sys.modules |= dict.fromkeys(['matplotlib', 'pandas', 'sklearn']); import keras"
    found = loaded(f"{blocked}\nimport kfisher")
    assert "kfisher.optimizers" in found
    assert not {name.split(".")[0] for name in found} & {"tensorflow_probability", "tf_keras", "matplotlib"}
    assert not found & {
        "kfisher.plots",
        "kfisher.callbacks",
        "kfisher.diagnosis",
        "scipy.stats",
        "scipy.sparse",
    }
