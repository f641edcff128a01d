"""Compares natural gradient with its empirical variant, gradient descent and Adam on real data.

    python scripts/compare.py --problem digits_mlp --optimizers adam natural_gradient empirical_fisher
    python scripts/compare.py --data my.csv --target price --hidden 32 32

Every optimizer starts from the same weights and sees the same batches, through `compile` and `fit`. Prints
a table, and writes a CSV, a picture, and one TensorBoard run for each optimizer and seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from pathlib import Path

# Read when TensorFlow and NumPy are imported. With other processes on the same 2 cores, the LAPACK solve of a
# natural-gradient step (1152 rows) took 15 to 40 ms on one BLAS thread and 0.4 to 3 s on two.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import tensorflow as tf  # noqa: E402

from common.folders import writable  # noqa: E402
from comparison import report  # noqa: E402
from comparison.optimizers import OPTIMIZERS  # noqa: E402
from comparison.problems import PROBLEMS, Data, Setting  # noqa: E402
from comparison.run import train  # noqa: E402
from comparison.table import EPOCHS, problem_of  # noqa: E402
from comparison.table_file import TableError  # noqa: E402
from comparison.tune import tune_all  # noqa: E402

OF_TABLES = ("sgd", "adam", "natural_gradient", "natural_gradient_sampled", "empirical_fisher")
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

your own table:
  --data is a CSV file in UTF-8 with a header, numbers in all columns but the target, and nothing missing;
  columns are separated by comma, semicolon or tab. A target of text or of few different whole numbers is a
  class, else it is regressed. A fifth of the rows is held out, features are standardised, and a target that
  is regressed is divided by the standard deviation of what a linear fit leaves of it, since the loss is that
  of a Normal of variance 1. The settings of each optimizer come from a coarse grid by the training loss at
  the end; --learning-rates and --dampings keep them from being searched. At the end stands a verdict on
  whether the empirical Fisher can be trusted for this model on these data.

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
    add("--problem", choices=PROBLEMS, help="default: digits_mlp")
    add("--data", type=Path, metavar="CSV", help="a table of your own instead of a problem")
    add("--target", metavar="COLUMN", help="the column of --data to predict")
    add("--task", choices=("regression", "classification"), help="of --data; default: by the target")
    add("--drop", nargs="+", default=[], metavar="COLUMN", help="columns of --data to leave out")
    add("--hidden", nargs="+", type=_count, default=[], metavar="WIDTH",
        help="a tanh network with hidden layers of these widths for --data; default: a linear model")
    add("--optimizers", nargs="+", choices=OPTIMIZERS, default=[], metavar="NAME",
        help=f"any of: {', '.join(OPTIMIZERS)} (default: {', '.join(DEFAULT)}, as far as tuned)")
    add("--learning-rates", nargs="+", type=_override, default=[], metavar="NAME=RATE",
        help="instead of the tuned ones, say adam=1e-3")
    add("--dampings", nargs="+", type=_override, default=[], metavar="NAME=DAMPING",
        help="instead of the tuned ones, say natural_gradient=1e-4")
    add("--probe-damping", type=_positive, help="of the two steps whose cosine is taken")
    add("--batch-size", type=_count, help="default: that of the problem; of tables, what fits into a step")
    add("--epochs", type=_count, help=f"default: that of the problem; of tables, {EPOCHS}")
    add("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    add("--curvature", choices=("dense", "gram"),
        help="default: that of the problem; of tables, the one with the smaller system")
    add("--target-loss", type=_positive, help="loss to which steps and seconds are counted")
    add("--out", type=writable, default="runs/compare",
        help="for PROBLEM.csv and PROBLEM.png; default: %(default)s")
    add("--logdir", type=writable, help="for TensorBoard; default: OUT/logs/PROBLEM")
    options = parser.parse_args(arguments)
    options.name = options.problem or "digits_mlp"
    options.notes = []
    if options.data is not None:
        if options.problem:
            parser.error("--data and --problem exclude each other")
        if options.target is None:
            parser.error("--data needs --target COLUMN, the column to predict")
        try:
            options.problem, options.notes = problem_of(
                options.data,
                options.target,
                options.task,
                options.drop,
                options.hidden,
                epochs=options.epochs,
                batch_size=options.batch_size,
                curvature=options.curvature,
            )
        except TableError as error:
            parser.error(str(error))
        options.name = options.data.stem
    else:
        for name in ("target", "task", "drop", "hidden"):
            if getattr(options, name):
                parser.error(f"--{name} goes with --data")
        given = {n: getattr(options, n) for n in ("epochs", "batch_size", "curvature") if getattr(options, n)}
        options.problem = dataclasses.replace(PROBLEMS[options.name], **given)
    known = options.problem.settings if options.data is None else OF_TABLES
    default = DEFAULT if options.data is None else OF_TABLES
    options.optimizers = list(dict.fromkeys(options.optimizers)) or [n for n in default if n in known]
    options.learning_rates, options.dampings = dict(options.learning_rates), dict(options.dampings)
    for name in options.optimizers:
        if name not in known:
            parser.error(f"{name!r} is not among those for {options.name}: {', '.join(known)}")
    for name in (*options.learning_rates, *options.dampings):
        if name not in options.optimizers:
            parser.error(f"{name!r} is none of the --optimizers that run: {', '.join(options.optimizers)}")
    for name in options.dampings:
        if name in ("sgd", "adam", "sophia_g"):
            parser.error(f"{name!r} has no damping")
    options.logdir = options.logdir or options.out / "logs" / options.name
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    tf.get_logger().setLevel("ERROR")  # that each optimizer traces its own functions is meant
    problem = options.problem
    data = problem.data()
    print(f"{options.name}: {problem.summary}", *options.notes, sep="\n  ", flush=True)
    problem = dataclasses.replace(problem, settings={**problem.settings, **_settings(options, data)})
    probe_damping = options.probe_damping or problem.probe_damping
    runs = []
    for name in options.optimizers:
        for seed in dict.fromkeys(options.seeds):
            log_dir = options.logdir / f"{name}-seed{seed}"
            runs.append(
                train(
                    problem,
                    data,
                    name,
                    seed=seed,
                    probe_damping=probe_damping,
                    log_dir=log_dir,
                    judged=options.data is not None,
                )
            )
    target = options.target_loss or problem.target
    if math.isnan(target):  # the slowest just reaches it
        ends = [run.rows[-1]["loss"] for run in runs if math.isfinite(run.rows[-1]["loss"])]
        target = float(f"{1.0001 * max(ends):.4g}") if ends else math.nan
    csv, png = options.out / f"{options.name}.csv", options.out / f"{options.name}.png"
    report.write_csv(runs, csv)
    report.draw(runs, f"{options.name}: {problem.summary}", target, png)
    print(f"\n{report.table(runs, target)}\n")
    if any(run.verdict for run in runs):
        print(report.verdicts(runs))
    print(f"every step:  {csv}\npicture:     {png}\nTensorBoard: tensorboard --logdir {options.logdir}")


def _settings(options: argparse.Namespace, data: Data) -> dict[str, Setting]:
    """Those of the problem, or for a table the best of a grid, but for what the user has named."""
    rates, dampings = options.learning_rates, options.dampings
    if options.data is not None:
        try:
            found, notes = tune_all(
                options.problem, data, options.optimizers, rates, dampings, options.seeds[0]
            )
        except TableError as error:
            raise SystemExit(f"compare.py: {error}") from None
        for note in notes:
            print(note, flush=True)
        return found
    tuned = {name: options.problem.settings[name] for name in options.optimizers}
    return {
        name: setting._replace(
            learning_rate=rates.get(name, setting.learning_rate), damping=dampings.get(name, setting.damping)
        )
        for name, setting in tuned.items()
    }


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
