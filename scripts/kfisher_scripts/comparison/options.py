"""The command line of the comparison."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from kfisher_scripts.common.folders import writable
from kfisher_scripts.comparison.numbers import SEPARATORS
from kfisher_scripts.comparison.optimizers import OPTIMIZERS
from kfisher_scripts.comparison.problems import PROBLEMS
from kfisher_scripts.comparison.table import EPOCHS, STEPS
from kfisher_scripts.comparison.tune import TUNED

# Of tables: those with a grid, and those that need none.
OF_TABLES = (*TUNED, "kfac", "kfac_empirical", "ekfac")
DEFAULT = (*TUNED, "kfac")
_NOT_OF_TABLES = [name for name in OPTIMIZERS if name not in OF_TABLES]
# Of a table on which the empirical Fisher does not run. Its features are standardised, so that F is about 1.
PROBE_DAMPING = 0.01

_NOTES = """
problems:
{problems}

optimizers:
  natural_gradient takes the Fisher matrix exactly, natural_gradient_sampled with one label for each
  example drawn from the model, empirical_fisher with the labels of the data; no other difference. They solve
  exactly on each batch, by the textbook update. kfac, ekfac (both with drawn labels) and kfac_empirical run
  over batches and have nothing to tune; improved_empirical_fisher weighs each example by its error; sophia_g
  is diagonal.

The default learning rates and dampings are the best on a grid, for each optimizer on each problem, by the
training loss at the end of this very budget; of equals, the one that gets there first. Linear models: rates
in eighths of a decade, dampings in decades. Networks: both in half decades, the best of seed 0 again with
seeds 1 and 2, and of those that came close the steadiest. On coarser grids and seed 0 alone: rates of
improved_empirical_fisher and sophia_g in quarters to halves of a decade; of the autoencoder, by hand. What
has nothing to tune takes the defaults of kfisher.

your own table:
  --data is a CSV file (gzipped or not) or an .xlsx workbook, with a header and nothing missing; columns are
  separated by comma, semicolon or tab. Features are numbers, or True and False, or with --categorical text.
  A target of text or of few different whole numbers is a class, else it is regressed. Numbers are written
  as in 1234.5 unless --decimal and --thousands say otherwise; a unit ($ € £ ¥ %) that a whole column has is
  left out. What may mean two things is refused, with its line.

  A fifth of the rows, at random, chooses the settings of each optimizer from a coarse grid (of which the
  better thirds go on) and the step whose weights are kept; another fifth is held out and only told of. Runs
  end where the former's loss has not fallen for half of all steps. Features are standardised. The loss of
  a regression is that of a Normal whose standard deviation is --noise; the verdict depends on it.
  --learning-rates and --dampings keep settings from being searched. At the end stands a verdict on whether
  the empirical Fisher can be trusted for this model on these data, from 1000 of the examples trained on, or
  fewer where there are many classes.

The cosine is taken at the weights along the path of each optimizer, once per epoch, between the step of
the empirical Fisher and the natural-gradient step (exact Fisher) on one fixed batch. Both are damped
alike, and so are all optimizers, by --probe-damping. The table shows its mean and its minimum over the path.

Seconds are those of training steps alone: without tracing (the first step counts as the median of the
others) and without measurements, but with the statistics of every step that go to TensorBoard.
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
    add("--data", type=Path, metavar="FILE", help="a table of your own instead of a problem")
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
        "--categorical",
        nargs="*",
        metavar="COLUMN",
        help="columns of --data to take as categories, of at most 50 values; none named: all that hold text",
    )
    add("--decimal", choices=".,", default=".", metavar="MARK", help="of the numbers in --data; default: .")
    add("--thousands", choices=SEPARATORS, metavar="MARK", help="what stands between groups of three digits")
    add("--encoding", type=_encoding, default="utf-8", metavar="NAME", help="of --data; default: utf-8")
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
        help=f"any of: {', '.join(OPTIMIZERS)}; with --data all but {' and '.join(_NOT_OF_TABLES)} "
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
        help="of the two steps whose cosine is taken, of what is logged, and of the verdict; default: of the "
        "verdict the square root of the precision times the largest eigenvalue of F, else that of "
        f"empirical_fisher, or {PROBE_DAMPING} for a table on which it does not run",
    )
    add(
        "--batch-size",
        type=_count,
        metavar="N",
        help="default: that of the problem; of tables, all rows of small ones, else 512 or what fits",
    )
    add(
        "--epochs",
        type=_count,
        metavar="N",
        help=f"default: that of the problem; of tables, {EPOCHS}, or what {STEPS} steps do",
    )
    add("--seeds", nargs="+", type=int, default=[0], metavar="N", help="default: 0")
    add(
        "--curvature",
        choices=("dense", "gram"),
        help="default: that of the problem; of tables, the one with the smaller system",
    )
    add("--target-loss", type=_positive, metavar="LOSS", help="to which steps and seconds are counted")
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
        for name in (
            "target",
            "task",
            "noise",
            "drop",
            "hidden",
            "categorical",
            "decimal",
            "thousands",
            "encoding",
        ):
            if getattr(options, name) != made.get_default(name):
                made.error(f"--{name} goes with --data")
        options.name = options.problem or "digits_mlp"
        known, default, reason = PROBLEMS[options.name].settings, DEFAULT, "has no settings for"
    else:
        if options.problem:
            made.error("--data and --problem exclude each other")
        if options.target is None:
            made.error("--data needs --target COLUMN, the column to predict")
        if options.decimal == options.thousands:
            made.error(f"--decimal and --thousands cannot both be {options.decimal!r}")
        unzipped = options.data.with_suffix("") if options.data.suffix == ".gz" else options.data
        options.name = unzipped.stem
        if (options.out / f"{options.name}.csv").resolve() == options.data.resolve():
            made.error(f"the results would overwrite {options.data}. Pass another folder as --out")
        known, default, reason = OF_TABLES, DEFAULT, "has no settings for a table such as"
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


def _encoding(text: str) -> str:
    try:
        "a".encode(text)
    except LookupError:
        raise argparse.ArgumentTypeError(f"{text!r} is no encoding of text; say utf-8 or latin-1") from None
    return text.lower()


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
