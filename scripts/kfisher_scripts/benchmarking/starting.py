"""How long TensorBoard takes to start, with the tab "Fisher" and without."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

from tqdm import tqdm

BAR = 1.2
# In a process of its own, which ends once the server listens. What the command `tensorboard` does before,
# where TensorFlow is installed, is left out: it loads that anyway, and what the tab adds would be
# lost in it.
_SERVER = """
import os, sys
from importlib import metadata
from tensorboard import default, program

installed = metadata.entry_points(group="tensorboard_plugins")
chosen = [point for point in installed if point.name != "fisher" or sys.argv[1] == "with"]
server = program.TensorBoard(default.get_static_plugins() + [point.load() for point in chosen])
server.configure(argv=["tensorboard", "--logdir", sys.argv[2], "--port", "0"])
server.launch()
print("listening", "kfisher.tensorboard" in sys.modules, "tensorflow" in sys.modules, flush=True)
os._exit(0)
"""


def seconds(plugin: str, log_dir: str) -> float:
    """From the begin of the process until all plugins are loaded and the server listens.

    Args:
        plugin: "with" or "without".
        log_dir: An empty directory.

    Raises:
        RuntimeError: If the server did not start, the tab is not as wanted, or TensorFlow was loaded.
    """
    started = time.perf_counter()
    command = [sys.executable, "-c", _SERVER, plugin, log_dir]
    ended = subprocess.run(command, capture_output=True, text=True)
    taken = time.perf_counter() - started
    if ended.stdout.split() != ["listening", str(plugin == "with"), "False"]:
        raise RuntimeError(f"TensorBoard started otherwise. Received: {ended.stdout}{ended.stderr[-2000:]}")
    return taken


def run(rounds: int) -> None:
    """Starts the server in turn with and without the tab, and prints the median of the ratios."""
    with tempfile.TemporaryDirectory() as log_dir:
        seconds("with", log_dir)  # reads the files from the disk
        pairs = [
            (seconds("with", log_dir), seconds("without", log_dir)) for _ in tqdm(range(rounds), unit="pair")
        ]
    ours, plain = (statistics.median(column) for column in zip(*pairs))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"TensorBoard starts in {ours:.2f} s with the tab, in {plain:.2f} s without")
    print(f"ratio {ratio:.2f}, bar {BAR}")
