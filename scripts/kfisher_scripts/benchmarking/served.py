"""How long the tab "Fisher" waits for the answers of its server, and how large they are."""

from __future__ import annotations

import gzip
import json
import shutil
import statistics
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import keras
import numpy as np
import tensorboard.program
from tqdm import tqdm

import kfisher

RUNS, STEPS = 100, 10_000
_BATCH = 32
_ASKED = ("measurements", "verdicts", "summary", "notes", "steps")


def run(rounds: int) -> None:
    """Logs one run, serves a hundred copies of it, and prints time and bytes of each route."""
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, "run_000")
        _train(str(first))
        for i in tqdm(range(1, RUNS), desc="copies", leave=False):
            shutil.copytree(first, Path(folder, f"run_{i:03}"))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        print(f"{RUNS} runs of {STEPS} steps, {size / 2**20:.0f} MiB of event files")
        server = tensorboard.program.TensorBoard()
        server.configure(argv=["tensorboard", "--logdir", folder, "--port", "0"])
        base = f"{server.launch().rstrip('/')}/data/plugin/fisher/"
        started = time.perf_counter()
        while len(found := _runs(base)) < RUNS or any(r.get("last_step", 0) < STEPS for r in found):
            time.sleep(0.5)
        print(f"all of them are listed {time.perf_counter() - started:.0f} s after the server listens")
        _table(base, rounds)


def _train(log_dir: str) -> None:
    """A network with two outputs, on noise: what is logged has the same size whatever it learns."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(_BATCH * 100, 8)), rng.normal(size=(_BATCH * 100, 2))
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "tanh"), keras.layers.Dense(2)])
    model.compile("adam", "mse")
    logs = kfisher.callbacks.TensorBoard(log_dir, statistics_per_layer=True)
    model.fit(x, y, _BATCH, STEPS // 100, verbose=0, callbacks=[logs])


def _get(base: str, path: str, **arguments: str) -> tuple[bytes, int]:
    """What comes, and how many bytes of it are sent."""
    url = base + path + ("?" + urllib.parse.urlencode(arguments) if arguments else "")
    request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request) as answer:
        body = answer.read()
        return (gzip.decompress(body) if answer.headers["Content-Encoding"] == "gzip" else body), len(body)


def _runs(base: str) -> list[dict]:
    return json.loads(_get(base, "runs")[0])["runs"]


def _table(base: str, rounds: int) -> None:
    routes = [("runs", {}), *[(name, {"run": "run_050"}) for name in _ASKED]]
    routes.append(("layers", {"run": "run_050", "statistic": "update_norm"}))
    print(f"{'route':14}{'ms':>8}{'kB sent':>10}{'kB of JSON':>12}")
    for path, arguments in routes:
        taken = []
        for _ in range(rounds):
            started = time.perf_counter()
            content, sent = _get(base, path, **arguments)
            taken.append(1000 * (time.perf_counter() - started))
        print(f"/{path:13}{statistics.median(taken):8.0f}{sent / 1000:10.1f}{len(content) / 1000:12.1f}")
