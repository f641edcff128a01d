"""Compares natural gradient with its empirical variant, gradient descent and Adam on real data.

    python scripts/compare.py --problem digits_mlp --optimizers adam natural_gradient empirical_fisher

Every optimizer starts from the same weights and sees the same batches, through `compile` and `fit`. Prints
a table, and writes a CSV, a picture, and one TensorBoard run for each optimizer and seed.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

# Read when TensorFlow and NumPy are imported. With other processes on the same 2 cores, the LAPACK solve of a
# natural-gradient step (1152 rows) took 15 to 40 ms on one BLAS thread and 0.4 to 3 s on two.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from comparison import report  # noqa: E402
from comparison.optimizers import OPTIMIZERS  # noqa: E402
from comparison.problems import PROBLEMS  # noqa: E402
from comparison.run import train  # noqa: E402

DEFAULT = ("sgd", "adam", "natural_gradient", "natural_gradient_sampled", "empirical_fisher", "kfac")

_NOTES = """
problems:
{problems}

optimizers:
  natural_gradient takes the Fisher matrix exactly, natural_gradient_sampled with one label for each
  example drawn from the model, empirical_fisher with the labels of the data; no other difference. They solve
  exactly on each batch. kfac, ekfac (both with drawn labels) and kfac_empirical run over batches, with
  momentum 0.9 and a trust region; improved_empirical_fisher weighs each example by its error; sophia_g is
  diagonal.

The default learning rates and dampings are the best on a grid, for each optimizer on each problem, by the
training loss at the end of this very budget; of equals, the one that gets there first. Linear models: rates
in eighths of a decade, dampings in decades. Networks: both in half decades, the best of seed 0 again with
seeds 1 and 2, and of those that came close the steadiest. On coarser grids and seed 0 alone: dampings and
trust regions of the kfac family in half decades, rates of improved_empirical_fisher and sophia_g in quarters
to halves of a decade; of the autoencoder, by hand.

The cosine is taken at the weights along the path of each optimizer, once per epoch, between the step of
the empirical Fisher and the natural-gradient step (exact Fisher) on one fixed batch. Both are damped
alike, and so are all optimizers: --probe-damping, by default the damping of empirical_fisher. The table
shows its mean and its minimum over the path.

Seconds are those of training steps alone: without tracing (one step is taken and undone first) and without
the measurements of loss, accuracy and cosine.
"""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    problems = "\n".join(f"  {name:<15} {problem.summary}" for name, problem in PROBLEMS.items())
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=_NOTES.format(problems=problems),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--problem", choices=PROBLEMS, default="digits_mlp", help="default: digits_mlp")
    add("--optimizers", nargs="+", choices=OPTIMIZERS, default=[], metavar="NAME",
        help=f"any of: {', '.join(OPTIMIZERS)} (default: {', '.join(DEFAULT)}, as far as tuned)")
    add("--learning-rates", nargs="+", type=_override, default=[], metavar="NAME=RATE",
        help="instead of the tuned ones, say adam=1e-3")
    add("--dampings", nargs="+", type=_override, default=[], metavar="NAME=DAMPING",
        help="instead of the tuned ones, say natural_gradient=1e-4")
    add("--probe-damping", type=_positive, help="of the two steps whose cosine is taken")
    add("--batch-size", type=_count, help="default: that of the problem; full batch for regressions")
    add("--epochs", type=_count, help="default: that of the problem")
    add("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    add("--curvature", choices=("dense", "gram"), help="default: dense for regressions, gram for networks")
    add("--target", type=_positive, help="loss to which steps and seconds are counted")
    add("--out", type=Path, default=Path("runs/compare"),
        help="for PROBLEM.csv and PROBLEM.png; default: %(default)s")
    add("--logdir", type=Path, help="for TensorBoard; default: OUT/logs/PROBLEM")
    options = parser.parse_args(arguments)
    settings = PROBLEMS[options.problem].settings
    options.optimizers = list(dict.fromkeys(options.optimizers)) or [n for n in DEFAULT if n in settings]
    options.learning_rates, options.dampings = dict(options.learning_rates), dict(options.dampings)
    for name in options.optimizers:
        if name not in settings:
            parser.error(f"{name!r} is not tuned for {options.problem}; there are: {', '.join(settings)}")
    for name in (*options.learning_rates, *options.dampings):
        if name not in options.optimizers:
            parser.error(f"{name!r} is none of the --optimizers that run: {', '.join(options.optimizers)}")
    for name in options.dampings:
        if settings[name].damping is None:
            parser.error(f"{name!r} has no damping")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    problem = PROBLEMS[options.problem]
    target = options.target or problem.target
    logdir = options.logdir or options.out / "logs" / options.problem
    data = problem.data()
    print(f"{options.problem}: {problem.summary}", flush=True)
    runs = []
    for name in options.optimizers:
        tuned = problem.settings[name]
        setting = tuned._replace(
            learning_rate=options.learning_rates.get(name, tuned.learning_rate),
            damping=options.dampings.get(name, tuned.damping),
        )
        for seed in dict.fromkeys(options.seeds):
            runs.append(
                train(
                    problem,
                    data,
                    name,
                    setting,
                    seed=seed,
                    epochs=options.epochs or problem.epochs,
                    batch_size=options.batch_size or problem.batch_size,
                    curvature=options.curvature or problem.curvature,
                    probe_damping=options.probe_damping or problem.probe_damping,
                    log_dir=logdir / f"{name}-seed{seed}",
                )
            )
    options.out.mkdir(parents=True, exist_ok=True)
    csv, png = options.out / f"{options.problem}.csv", options.out / f"{options.problem}.png"
    report.write_csv(runs, csv)
    report.draw(runs, f"{options.problem}: {problem.summary}", target, png)
    print(f"\n{report.table(runs, target)}\n")
    print(f"every step:  {csv}\npicture:     {png}\nTensorBoard: tensorboard --logdir {logdir}")


def _override(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in OPTIMIZERS:
        raise argparse.ArgumentTypeError(f"{text!r} must start with one of: {', '.join(OPTIMIZERS)}")
    return name, _positive(value)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


if __name__ == "__main__":
    main()
