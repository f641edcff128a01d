"""What kfisher costs: ratios of whole training steps, measured in one run.

    python scripts/benchmark.py

Each case is timed against its reference in turn, A B A B ..., and the median of the ratios pair by pair is
printed beside its bar, so that the machine's moods cancel. A step is what `fit` takes from the end of one
batch to the end of the next.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from comparison import race  # noqa: E402
from comparison.problems import PROBLEMS  # noqa: E402
from tqdm import tqdm  # noqa: E402

import kfisher  # noqa: E402
from kfisher.batch import Batch  # noqa: E402
from kfisher.meter import Meter  # noqa: E402
from kfisher.optimizers import NaturalGradient  # noqa: E402


class Case(NamedTuple):
    """One row: `make()` and `reference()` each give a function that trains an epoch and returns ms / step."""

    name: str
    make: Callable[[], Callable[[], float]]
    reference: Callable[[], Callable[[], float]]
    bar: float


class _Clock(keras.callbacks.Callback):
    """Milliseconds from batch to batch; the first batches wait for the data."""

    def on_epoch_begin(self, epoch, logs=None):
        self.times = []

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter())

    def per_step(self) -> float:
        # The mean: steps that refresh the curvature are rare, and count.
        return 1e3 * float(np.mean(np.diff(self.times[3:])))


class Work(NamedTuple):
    """What is trained: a model, its loss, and the arrays of one epoch."""

    model: Callable[[], keras.Model]
    loss: Callable[[], keras.losses.Loss]
    data: Callable[[int], tuple[np.ndarray, np.ndarray]]


def _random_digits(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 784)).astype("float32"), rng.integers(0, 10, size)


def _repeated(problem: str) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    def data(size: int) -> tuple[np.ndarray, np.ndarray]:
        x, y, *_ = PROBLEMS[problem].data()
        return np.resize(x, (size, *x.shape[1:])), np.resize(y, (size, *y.shape[1:]))

    return data


def mlp() -> keras.Model:
    """784-256-256-10, relu: 269 322 parameters."""
    hidden = [keras.layers.Dense(256, activation="relu") for _ in range(2)]
    model = kfisher.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10)])
    return model


MLP = Work(mlp, PROBLEMS["digits_mlp"].loss, _random_digits)
AUTOENCODER = Work(PROBLEMS["autoencoder"].model, PROBLEMS["autoencoder"].loss, _repeated("autoencoder"))
CONVNET = Work(PROBLEMS["digits_convnet"].model, PROBLEMS["digits_convnet"].loss, _repeated("digits_convnet"))


def _compiled(optimizer: keras.optimizers.Optimizer, work: Work = MLP) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = work.model()
    model.compile(optimizer, work.loss())
    return model


def trainer(
    optimizer: Callable[[], keras.optimizers.Optimizer],
    batch: int,
    steps: int,
    watching: Callable[[str], keras.callbacks.Callback] | None = None,
    work: Work = MLP,
) -> Callable[[], float]:
    """Trains a model; returns what runs one more epoch."""
    model, clock = _compiled(optimizer(), work), _Clock()
    x, y = work.data(batch * steps)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch, drop_remainder=True).cache().prefetch(2)
    callbacks: list[Any] = [clock]
    if watching is not None:
        callbacks.insert(0, watching(tempfile.mkdtemp()))

    def epoch() -> float:
        model.fit(data, verbose=0, callbacks=callbacks)
        return clock.per_step()

    epoch()  # traces
    return epoch


def sgd() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.01)


def adam() -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(1e-3)


def natural(fisher: str) -> Callable[[], NaturalGradient]:
    return lambda: NaturalGradient(0.01, fisher, curvature="gram", damping=1.0, seed=0)


def kfac(**options) -> Callable[[], NaturalGradient]:
    """As compare.py trains the autoencoder: the damping is small, as it should be."""
    setting = PROBLEMS["autoencoder"].settings["kfac"]
    return lambda: NaturalGradient(curvature=kfisher.curvature.KFAC(**options), seed=0, **setting._asdict())


gram = functools.partial(trainer, batch=256, steps=60)
exact = functools.partial(trainer, batch=128, steps=30)
autoencoder = functools.partial(trainer, batch=500, steps=53, work=AUTOENCODER)
convnet = functools.partial(trainer, batch=256, steps=103, work=CONVNET)


def dashboard() -> Callable[[], float]:
    """Adam with everything that is logged by default."""
    return gram(adam, steps=300, watching=kfisher.callbacks.TensorBoard)


def spectrum(whole: bool) -> Callable[[], float]:
    """All three spectra of 256 examples of the MLP, or all that is measured by default."""
    model = _compiled(adam())
    meter, data = Meter(model, draws=2 if whole else 1, seed=0), [tf.constant(part) for part in MLP.data(256)]
    model.fit(*_random_digits(2560), batch_size=256, verbose=0)

    def measure() -> float:
        started = time.perf_counter()
        meter(*data) if whole else meter.spectra(*data)
        return 1e3 * (time.perf_counter() - started)

    measure()
    return measure


def watched(name: str, optimizer: Callable[[], keras.optimizers.Optimizer]) -> Case:
    with_it = functools.partial(gram, optimizer, watching=kfisher.callbacks.StepStatistics)
    return Case(f"StepStatistics / without, {name}", with_it, functools.partial(gram, optimizer), 1.05)


def _timed(function: Callable[[], list[tf.Tensor]]) -> Callable[[], float]:
    """Milliseconds of one call, the mean of ten."""
    compiled = tf.function(function)

    def call() -> float:
        started = time.perf_counter()
        for _ in range(10):
            compiled()[-1].numpy()
        return 100 * (time.perf_counter() - started)

    call()
    return call


def _one_batch(size: int = 500) -> tuple[keras.Model, tf.Tensor]:
    return _compiled(sgd(), AUTOENCODER), tf.constant(AUTOENCODER.data(size)[0])


def product() -> Callable[[], float]:
    """F v with the exact Fisher, its own forward pass included."""
    model, x = _one_batch()
    vectors = [tf.random.normal(v.shape) for v in model.trainable_variables]

    def multiply() -> list[tf.Tensor]:
        batch = Batch(model, x, x, None, kfisher.Exact(), tf.constant([0, 0]))
        return batch.linearization().matvec(vectors)

    return _timed(multiply)


def gradient() -> Callable[[], float]:
    model, x = _one_batch()

    def differentiate() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, x, model(x, training=True))
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    return _timed(differentiate)


CASES = [
    Case("sampled Gram / SGD, batch 256", lambda: gram(natural("sampled")), lambda: gram(sgd), 2.5),
    Case("empirical Gram / SGD, batch 256", lambda: gram(natural("empirical")), lambda: gram(sgd), 2.5),
    Case("exact Gram / SGD, batch 128", lambda: exact(natural("exact")), lambda: exact(sgd), 12),
    Case("default K-FAC / Adam, autoencoder", lambda: autoencoder(kfac()), lambda: autoencoder(adam), 1.5),
    Case(
        "K-FAC, factors every step, inverses every 5 / Adam, autoencoder",
        lambda: autoencoder(kfac(update_every=1, invert_every=5)),
        lambda: autoencoder(adam),
        2.5,
    ),
    Case("default K-FAC / Adam, convnet, batch 256", lambda: convnet(kfac()), lambda: convnet(adam), 1.7),
    Case("product F v / gradient, autoencoder", product, gradient, 3),
    watched("SGD", sgd),
    watched("Adam", adam),
    watched("sampled Gram", natural("sampled")),
    Case("TensorBoard, all defaults / without, Adam", dashboard, lambda: gram(adam, steps=300), 1.10),
    Case("spectra of 256 examples / Adam step", lambda: spectrum(False), lambda: gram(adam), 25),
    Case(
        "whole measurement of 256 examples / Adam step",
        lambda: spectrum(True),
        lambda: gram(adam),
        math.nan,
    ),
]


def largest_tensor(batch: int = 256) -> tuple[int, int]:
    """Entries of the largest tensor in a compiled sampled Gram step, and N x P."""
    model = _compiled(natural("sampled")())
    x, y = np.zeros((batch, 784), "float32"), np.zeros(batch, "int32")
    step = tf.function(model.train_step).get_concrete_function((tf.constant(x), tf.constant(y)))
    graphs = [step.graph.as_graph_def(add_shapes=True)]
    nodes = [*graphs[0].node, *(node for f in graphs[0].library.function for node in f.node_def)]
    sizes = [
        int(np.prod([d.size for d in shape.dim]))
        for node in nodes
        for shape in node.attr["_output_shapes"].list.shape
        if all(d.size >= 0 for d in shape.dim)
    ]
    return max(sizes), batch * model.count_params()


def state_bytes() -> tuple[int, int]:
    """Of the curvature of a default K-FAC on the autoencoder, and of its parameters."""
    model = _compiled(kfac()(), AUTOENCODER)
    model.optimizer.build(model.trainable_variables)
    curvature = model.optimizer.curvature
    own = [v for pair in curvature.averages for v in pair]
    own += [v for pair in curvature.inverses for inverse in pair for v in inverse.variables]
    return _bytes(own), _bytes(model.trainable_variables)


def _bytes(variables: list[keras.Variable]) -> int:
    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="pairs of epochs for each case; default: 15")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains it")
    parser.add_argument("--race", action="store_true", help="only the race to a loss, about 4 minutes")
    options = parser.parse_args(arguments)
    if options.race:
        race.run()
        return
    cases = [case for case in CASES if options.only in case.name]
    rows = []
    with tqdm(total=len(cases) * options.rounds, unit="pair") as progress:
        for case in cases:
            progress.set_description(case.name)
            ours, reference = case.make(), case.reference()
            pairs = []
            for _ in range(options.rounds):
                pairs.append((ours(), reference()))
                progress.update()
            ratio = statistics.median(a / b for a, b in pairs)
            times = [statistics.median(column) for column in zip(*pairs)]
            bar = "" if math.isnan(case.bar) else f"{case.bar:g}"
            rows.append((case.name, *(f"{t:.2f}" for t in times), f"{ratio:.2f}", bar))
    header = ("case", "ms / step", "reference", "ratio", "bar")
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(5)]
    print()
    for row in (header, *rows):
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        print(row[0].ljust(widths[0]), *numbers, sep="  ")
    largest, full = largest_tensor()
    print(f"\nlargest tensor of a sampled Gram step: {largest:,} entries; N x P would be {full:,}")
    state, parameters = state_bytes()
    print(f"state of K-FAC / parameters of the autoencoder, in bytes: {state / parameters:.2f}")
    print("the race to a training loss: python scripts/benchmark.py --race")


if __name__ == "__main__":
    main()
