"""The command line of compare.py."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from kfisher_scripts.common.folders import writable
from kfisher_scripts.comparison.optimizers import OPTIMIZERS
from kfisher_scripts.comparison.problems import PROBLEMS
from kfisher_scripts.comparison.table import EPOCHS

# A table is searched on a grid, which these have.
OF_TABLES = ("sgd", "adam", "natural_gradient", "natural_gradient_sampled", "empirical_fisher")
DEFAULT = (*OF_TABLES, "kfac")
# Of a table on which the empirical Fisher does not run. Its features are standardised, so that F is about 1.
PROBE_DAMPING = 0.01

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
  class, else it is regressed. A fifth of the rows is held out, and features are standardised. The loss of a
  regression is that of a Normal whose standard deviation is --noise; the verdict depends on it. The settings
  of each optimizer come from a coarse grid by the training loss at the end; --learning-rates and --dampings
  keep them from being searched. At the end stands a verdict on whether the empirical Fisher can be trusted
  for this model on these data, from 1000 of the examples trained on, or fewer where there are many classes.

The cosine is taken at the weights along the path of each optimizer, once per epoch, between the step of
the empirical Fisher and the natural-gradient step (exact Fisher) on one fixed batch. Both are damped
alike, and so are all optimizers, by --probe-damping. The table shows its mean and its minimum over the path.

Seconds are those of training steps alone: without tracing (one step is taken and undone first) and without
the measurements of loss, accuracy and cosine.
"""


def parser() -> argparse.ArgumentParser:
    problems = "\n".join(f"  {name:<15} {problem.summary}" for name, problem in PROBLEMS.items())
    made = argparse.ArgumentParser(
        description="Compares natural gradient with its empirical variant, gradient descent and Adam.",
        epilog=_NOTES.format(problems=problems),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--problem", choices=PROBLEMS, help="default: digits_mlp")
    add("--data", type=Path, metavar="CSV", help="a table of your own instead of a problem")
    add("--target", metavar="COLUMN", help="the column of --data to predict")
    add("--task", choices=("regression", "classification"), help="of --data; default: by the target")
    add(
        "--noise",
        type=_positive,
        metavar="SD",
        help="standard deviation of the noise of --target; default: what a linear fit leaves",
    )
    add("--drop", nargs="+", default=[], metavar="COLUMN", help="columns of --data to leave out")
    add(
        "--hidden",
        nargs="+",
        type=_count,
        default=[],
        metavar="WIDTH",
        help="a tanh network with hidden layers of these widths for --data; default: a linear model",
    )
    add(
        "--optimizers",
        nargs="+",
        choices=OPTIMIZERS,
        default=[],
        metavar="NAME",
        help=f"any of: {', '.join(OPTIMIZERS)}; of tables, the first five "
        f"(default: {', '.join(DEFAULT)}, as far as there are settings)",
    )
    add(
        "--learning-rates",
        nargs="+",
        type=_override,
        default=[],
        metavar="NAME=RATE",
        help="instead of the tuned ones, say adam=1e-3",
    )
    add(
        "--dampings",
        nargs="+",
        type=_override,
        default=[],
        metavar="NAME=DAMPING",
        help="instead of the tuned ones, say natural_gradient=1e-4",
    )
    add(
        "--probe-damping",
        type=_positive,
        metavar="DAMPING",
        help="of the two steps whose cosine is taken, and of the verdict; default: that of empirical_fisher, "
        f"or {PROBE_DAMPING} for a table on which it does not run",
    )
    add(
        "--batch-size",
        type=_count,
        metavar="N",
        help="default: that of the problem; of tables, what fits into a step",
    )
    add("--epochs", type=_count, metavar="N", help=f"default: that of the problem; of tables, {EPOCHS}")
    add("--seeds", nargs="+", type=int, default=[0], metavar="N", help="default: 0")
    add(
        "--curvature",
        choices=("dense", "gram"),
        help="default: that of the problem; of tables, the one with the smaller system",
    )
    add("--target-loss", type=_positive, metavar="LOSS", help="loss to which steps and seconds are counted")
    add(
        "--out",
        type=writable,
        default="runs/compare",
        metavar="FOLDER",
        help="for PROBLEM.csv and PROBLEM.png; default: %(default)s",
    )
    add("--logdir", type=writable, metavar="FOLDER", help="for TensorBoard; default: OUT/logs/PROBLEM")
    return made


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, complete and checked against each other; `name` is that of the problem or table."""
    made = parser()
    options = made.parse_args(arguments)
    if options.data is None:
        for name in ("target", "task", "noise", "drop", "hidden"):
            if getattr(options, name):
                made.error(f"--{name} goes with --data")
        options.name = options.problem or "digits_mlp"
        known, default, reason = PROBLEMS[options.name].settings, DEFAULT, "has no settings for"
    else:
        if options.problem:
            made.error("--data and --problem exclude each other")
        if options.target is None:
            made.error("--data needs --target COLUMN, the column to predict")
        options.name = options.data.stem
        if (options.out / f"{options.name}.csv").resolve() == options.data.resolve():
            made.error(f"the results would overwrite {options.data}. Pass another folder as --out")
        known, default, reason = OF_TABLES, OF_TABLES, "has no grid for a table such as"
    options.optimizers = list(dict.fromkeys(options.optimizers)) or [n for n in default if n in known]
    options.learning_rates, options.dampings = dict(options.learning_rates), dict(options.dampings)
    for name in options.optimizers:
        if name not in known:
            made.error(f"{name!r} {reason} {options.name}. There are: {', '.join(known)}")
    for name in (*options.learning_rates, *options.dampings):
        if name not in options.optimizers:
            made.error(f"{name!r} is none of the --optimizers that run: {', '.join(options.optimizers)}")
    for name in options.dampings:
        if name in ("sgd", "adam", "sophia_g"):
            made.error(f"{name!r} has no damping")
    options.seeds = list(dict.fromkeys(options.seeds))
    options.logdir = options.logdir or writable(options.out / "logs" / options.name)
    return options


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
