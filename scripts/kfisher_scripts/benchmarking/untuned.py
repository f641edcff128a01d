"""Every kfisher default against Keras' optimizers on nine small problems, with nothing tuned.

Adam has six rates, from 1e-4 to 0.1; the defaults have no argument but the seed of their labels. Losses
are those of inference on all examples. Seconds are those of training: evaluation and tracing do not count.
"""

from __future__ import annotations

import csv
import math
import multiprocessing
import os
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf
from tqdm import tqdm

from kfisher.optimizers import EmpiricalNaturalGradient, ImprovedEmpiricalFisher, NaturalGradient
from kfisher_scripts.benchmarking.small_problems import SMALL_PROBLEMS

SEEDS = (0, 1, 2)
_DIVERGED = 10.0  # times the loss before training
_MARGIN = 1.05  # times the held-out loss of the best Adam is no worse

Make = Callable[[], keras.optimizers.Optimizer]

DEFAULT = "NaturalGradient()"
DEFAULTS: dict[str, Make] = {
    DEFAULT: partial(NaturalGradient, seed=0),
    "NaturalGradient, ekfac": partial(NaturalGradient, curvature="ekfac", seed=0),
    "NaturalGradient, diagonal": partial(NaturalGradient, curvature="diagonal", seed=0),
    "NaturalGradient, gram": partial(NaturalGradient, curvature="gram", seed=0),
    "EmpiricalNaturalGradient()": partial(EmpiricalNaturalGradient, seed=0),
    "ImprovedEmpiricalFisher()": partial(ImprovedEmpiricalFisher, seed=0),
}
ADAMS: dict[str, Make] = {
    f"Adam({rate})": partial(keras.optimizers.Adam, float(rate))
    for rate in ("1e-4", "1e-3", "3e-3", "1e-2", "3e-2", "1e-1")
}
LARGE = ("Adam(3e-2)", "Adam(1e-1)")  # beyond the rates that people try
OPTIMIZERS: dict[str, Make] = {
    **DEFAULTS,
    **ADAMS,
    "SGD(0.01, momentum=0.9)": partial(keras.optimizers.SGD, 0.01, momentum=0.9),
    "Muon()": keras.optimizers.Muon,
}


class Curve(NamedTuple):
    """One run; the first entry of each column is that before training, the others end an epoch each."""

    problem: str
    optimizer: str
    seed: int
    seconds: tuple[float, ...]
    training: tuple[float, ...]
    held_out: tuple[float, ...]

    def final(self) -> float:
        return _or_infinite(self.training[-1])

    def at(self, seconds: float) -> float:
        """The training loss at the end of the last epoch that was over by then."""
        return _or_infinite([loss for s, loss in zip(self.seconds, self.training) if s <= seconds][-1])

    def best_held_out(self) -> float:
        """That of the best epoch."""
        return min(map(_or_infinite, self.held_out[1:]))

    def diverged(self) -> bool:
        return max(map(_or_infinite, self.training[1:])) > _DIVERGED * self.training[0]


def _or_infinite(loss: float) -> float:
    """A loss that is not a number counts as the worst."""
    return loss if math.isfinite(loss) else math.inf


class _Clock(keras.callbacks.Callback):
    """Seconds of training, and what was measured, at the end of each epoch."""

    def __init__(self, measure: Callable[[], tuple[float, float]]):
        super().__init__()
        self._measure, self.rows = measure, [(0.0, *measure())]

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.rows[-1][0] + time.perf_counter() - self._started
        self.rows.append((seconds, *self._measure()))


def train(name: str, optimizer: str, seeds: Sequence[int] = SEEDS, epochs: int | None = None) -> list[Curve]:
    """One run for each seed of first weights and order; they share what TensorFlow has traced."""
    problem = SMALL_PROBLEMS[name]
    # Before anything runs: a new global seed has TensorFlow prepare its graphs anew.
    weights = {}
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        weights[seed] = problem.model().get_weights()
    data, loss, model = problem.data(), problem.loss(), problem.model()
    model.compile(OPTIMIZERS[optimizer](), problem.loss())
    model.optimizer.build(model.trainable_variables)
    x, y, x_held, y_held = map(tf.constant, data)

    @tf.function
    def losses() -> tuple[tf.Tensor, tf.Tensor]:
        return loss(y, model(x, training=False)), loss(y_held, model(x_held, training=False))

    variables = model.variables + model.optimizer.variables
    start = [v.numpy() for v in variables]
    examples = tf.data.Dataset.from_tensor_slices((data.x, data.y))
    size, curves = problem.batch_size, []
    fit = partial(model.fit, epochs=epochs or problem.epochs, shuffle=False, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run that goes wrong says so, and is counted here
        # Traces; the last batch of an epoch may have a size of its own.
        fit(examples.take(size + len(x) % size).batch(size), epochs=1)
        for seed in seeds:
            for variable, value in zip(variables, start):
                variable.assign(value)
            model.set_weights(weights[seed])
            clock = _Clock(lambda: tuple(map(float, losses())))
            fit(examples.cache().shuffle(len(x), seed=seed).batch(size).prefetch(2), callbacks=[clock])
            curves.append(Curve(name, optimizer, seed, *zip(*clock.rows)))
    return curves


def _start() -> None:
    """One thread for each of two processes on two cores, which would otherwise wait for each other."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool whose process is killed would leave its workers waiting for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def run(only: str = "", out: Path | None = None) -> None:
    """All optimizers on the problems whose name contains `only`; prints the tables."""
    pairs = [(name, optimizer) for name in SMALL_PROBLEMS if only in name for optimizer in OPTIMIZERS]
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of the processes to come
    curves, spawn = [], multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, _start) as pool, tqdm(total=len(pairs), unit="pair") as progress:
        futures = [pool.submit(train, *pair) for pair in pairs]
        try:
            for future in as_completed(futures):
                curves += future.result()
                progress.set_description(", ".join(curves[-1][:2]))
                progress.update()
                if out is not None:
                    write_csv(curves, out)  # what there is so far
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # rather than train all that is left
            raise
    curves.sort(key=lambda c: (pairs.index(c[:2]), c.seed))
    print(f"\n{report(curves)}")


def write_csv(curves: list[Curve], path: Path) -> None:
    """A line for each epoch of each run; epoch 0 is before training."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("problem", "optimizer", "seed", "epoch", "seconds", "loss", "held_out_loss"))
        for curve in curves:
            for epoch, row in enumerate(zip(curve.seconds, curve.training, curve.held_out)):
                writer.writerow((*curve[:3], epoch, *(f"{number:.8g}" for number in row)))


Table = dict[str, dict[str, float]]  # a row for each optimizer, a column for each problem


def table(curves: list[Curve], number: Callable[[Curve], float], of: Callable = statistics.median) -> Table:
    """A number of each run, and of those the median over the seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for curve in curves:
        found.setdefault(curve.optimizer, {}).setdefault(curve.problem, []).append(number(curve))
    return {o: {p: of(numbers) for p, numbers in row.items()} for o, row in found.items()}


def best_adam(values: Table, problem: str) -> str:
    """The rate with the lowest entry."""
    return min((name for name in ADAMS if name in values), key=lambda name: values[name][problem])


def after_equal_seconds(curves: list[Curve]) -> Table:
    """Training losses at the time when the best Adam has finished its epochs from the same seed."""
    final = table(curves, Curve.final)
    adams = (c for c in curves if c.optimizer == best_adam(final, c.problem))
    times = {(c.problem, c.seed): c.seconds[-1] for c in adams}
    return table(curves, lambda c: c.at(times[c.problem, c.seed]))


def report(curves: list[Curve]) -> str:
    """Four tables, and on how many problems the bars are kept."""
    final, equal = table(curves, Curve.final), after_equal_seconds(curves)
    held_out, diverged = table(curves, Curve.best_held_out), table(curves, Curve.diverged, sum)
    seconds, problems = table(curves, lambda c: c.seconds[-1]), list(final[DEFAULT])
    times = {"seconds of that Adam": {p: seconds[best_adam(final, p)][p] for p in problems}}
    failures = sum(sum(diverged[o].values()) for o in DEFAULTS)
    runs = sum(c.optimizer in DEFAULTS for c in curves)
    usual = [c for c in curves if c.optimizer not in LARGE]
    return f"""\
{_text("Training loss after equal epochs", final, _number)}
{_text("Training loss after the seconds that the best Adam takes", equal | times, _number)}
{_text("Held-out loss of the best epoch", held_out, _number)}
{_text(f"Runs that diverge, of {len(SEEDS)}", diverged, str)}
Losses are medians over the seeds; seconds are of training, without evaluation and tracing. The best Adam is
that with the lowest training loss at the end; of held-out losses that with the lowest.

runs of any kfisher default that diverge: {failures} of {runs} (bar 0)
{DEFAULT}: on how many of {len(problems)} problems its training loss is below the best Adam's after
equal epochs, after equal seconds, and its held-out loss no more than 5 % above it:
  Adam at rates up to 1e-2    {"{} {} {}".format(*_ahead(usual))}   (bars 8 7 7)
  at all rates                {"{} {} {}".format(*_ahead(curves))}"""


def _ahead(curves: list[Curve]) -> tuple[int, int, int]:
    """On how many problems the default is ahead of Adam: equal epochs, equal seconds, held out."""
    final, equal = table(curves, Curve.final), after_equal_seconds(curves)
    held_out, problems = table(curves, Curve.best_held_out), list(final[DEFAULT])
    best = {p: best_adam(final, p) for p in problems}
    least = {p: held_out[best_adam(held_out, p)][p] for p in problems}
    return (
        sum(final[DEFAULT][p] < final[best[p]][p] for p in problems),
        sum(equal[DEFAULT][p] < equal[best[p]][p] for p in problems),
        sum(held_out[DEFAULT][p] <= _MARGIN * least[p] for p in problems),
    )


def _number(value: float) -> str:
    """Three significant digits."""
    value = float(f"{value:.3g}")
    return f"{value:.0f}" if 100 <= value < 1e6 else f"{value:#.3g}"


def _text(title: str, values: Table, form: Callable[[float], str]) -> str:
    """A table below its title; the name of a problem takes two lines."""
    problems = list(next(iter(values.values())))
    heads = [("", ""), *(p.split(" ", 1) if " " in p else ("", p) for p in problems)]
    rows = [*zip(*heads), *((name, *(form(row[p]) for p in problems)) for name, row in values.items())]
    first, *widths = (max(map(len, column)) for column in zip(*rows))
    cells = ((row[0].ljust(first), *map(str.rjust, row[1:], widths)) for row in rows)
    return "\n".join([title, *("  ".join(line).rstrip() for line in cells), ""])
