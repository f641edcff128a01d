"""Compares natural gradient with its empirical variant, gradient descent and Adam on real data.

    python scripts/compare.py --problem digits_mlp --optimizers adam natural_gradient empirical_fisher
    python scripts/compare.py --data my.csv --target price --hidden 32 32

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
from comparison.problems import PROBLEMS, Data, Problem, Setting  # noqa: E402
from comparison.run import Run, train  # noqa: E402
from comparison.table import TableError, problem_of  # noqa: E402
from comparison.tune import grid, tune  # noqa: E402
from tqdm import tqdm  # noqa: E402

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
  --data is a CSV file with a header, numbers in all columns but the target, and nothing missing. A target of
  text or of few different whole numbers is a class, else it is regressed. Features are standardised, a fifth
  of the rows is held out, and the settings of each optimizer come from a coarse grid by the training loss at
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
    add("--batch-size", type=_count, help="default: that of the problem; full batch for regressions")
    add("--epochs", type=_count, help="default: that of the problem")
    add("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    add("--curvature", choices=("dense", "gram"), help="default: dense for regressions, gram for networks")
    add("--target-loss", type=_positive, help="loss to which steps and seconds are counted")
    add("--out", type=Path, default=Path("runs/compare"),
        help="for PROBLEM.csv and PROBLEM.png; default: %(default)s")
    add("--logdir", type=Path, help="for TensorBoard; default: OUT/logs/PROBLEM")
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
                epochs=options.epochs or 100,
            )
        except TableError as error:
            parser.error(str(error))
        options.name = options.data.stem
    else:
        for name in ("target", "task", "drop", "hidden"):
            if getattr(options, name):
                parser.error(f"--{name} goes with --data")
        options.problem = PROBLEMS[options.name]
    known = options.problem.settings if options.data is None else OF_TABLES
    default = DEFAULT if options.data is None else OF_TABLES
    options.optimizers = list(dict.fromkeys(options.optimizers)) or [n for n in default if n in known]
    options.learning_rates, options.dampings = dict(options.learning_rates), dict(options.dampings)
    for name in options.optimizers:
        if name not in known:
            parser.error(f"{name!r} is not tuned for {options.name}; there are: {', '.join(known)}")
    for name in (*options.learning_rates, *options.dampings):
        if name not in options.optimizers:
            parser.error(f"{name!r} is none of the --optimizers that run: {', '.join(options.optimizers)}")
    for name in options.dampings:
        if name in ("sgd", "adam", "sophia_g"):
            parser.error(f"{name!r} has no damping")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    problem: Problem = options.problem
    logdir = options.logdir or options.out / "logs" / options.name
    data = problem.data()
    print(f"{options.name}: {problem.summary}", *options.notes, sep="\n  ", flush=True)
    settings = _tuned(options) if options.data is None else _searched(options, data)
    probe_damping = options.probe_damping or problem.probe_damping
    if options.data is not None and probe_damping is None and "empirical_fisher" in settings:
        probe_damping = settings["empirical_fisher"].damping
    runs = []
    for name in options.optimizers:
        for seed in dict.fromkeys(options.seeds):
            runs.append(
                train(
                    problem,
                    data,
                    name,
                    settings[name],
                    seed=seed,
                    epochs=options.epochs or problem.epochs,
                    batch_size=options.batch_size or problem.batch_size,
                    curvature=options.curvature or problem.curvature,
                    probe_damping=probe_damping,
                    log_dir=logdir / f"{name}-seed{seed}",
                    judged=options.data is not None,
                )
            )
    target = options.target_loss or problem.target
    if math.isnan(target):  # the slowest just reaches it
        target = float(f"{1.0001 * max(run.rows[-1]['loss'] for run in runs):.4g}")
    options.out.mkdir(parents=True, exist_ok=True)
    csv, png = options.out / f"{options.name}.csv", options.out / f"{options.name}.png"
    report.write_csv(runs, csv)
    report.draw(runs, f"{options.name}: {problem.summary}", target, png)
    print(f"\n{report.table(runs, target)}\n")
    _print_verdicts(runs)
    print(f"every step:  {csv}\npicture:     {png}\nTensorBoard: tensorboard --logdir {logdir}")


def _tuned(options: argparse.Namespace) -> dict[str, Setting]:
    """Those of the problem, but for what the user has named."""
    return {
        name: options.problem.settings[name]._replace(
            **({"learning_rate": options.learning_rates[name]} if name in options.learning_rates else {}),
            **({"damping": options.dampings[name]} if name in options.dampings else {}),
        )
        for name in options.optimizers
    }


def _searched(options: argparse.Namespace, data: Data) -> dict[str, Setting]:
    """The best of a grid for each optimizer."""
    grids = {
        name: grid(name, options.learning_rates.get(name), options.dampings.get(name))
        for name in options.optimizers
    }
    found = {}
    with tqdm(total=sum(map(len, grids.values())), unit="run", dynamic_ncols=True) as progress:
        for name, settings in grids.items():
            progress.set_description(f"settings of {name:<25}")
            found[name] = tune(
                options.problem,
                data,
                name,
                settings,
                seed=options.seeds[0],
                batch_size=options.batch_size,
                curvature=options.curvature or options.problem.curvature,
                progress=progress,
            )
    return found


def _print_verdicts(runs: list[Run]) -> None:
    """Where each optimizer ended; in full for the natural gradient, or else the first."""
    judged = {run.optimizer: run.verdict for run in reversed(runs) if run.verdict is not None}
    if not judged:
        return
    first = "natural_gradient" if "natural_gradient" in judged else runs[0].optimizer
    print(f"Where {first} ended: {judged.pop(first)}\n")
    for name, verdict in reversed(judged.items()):
        print(f"Where {name} ended: {verdict.sentence}")
    print()


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
