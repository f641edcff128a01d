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

# Read when TensorFlow and NumPy are imported. With other processes on the same 2 cores, the LAPACK solve of a
# natural-gradient step (1152 rows) took 15 to 40 ms on one BLAS thread and 0.4 to 3 s on two.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import tensorflow as tf  # noqa: E402
from kfisher_scripts.comparison import options, report, table  # noqa: E402
from kfisher_scripts.comparison.problem import Data, Problem, Setting  # noqa: E402
from kfisher_scripts.comparison.problems import PROBLEMS  # noqa: E402
from kfisher_scripts.comparison.run import train  # noqa: E402
from kfisher_scripts.comparison.table_file import TableError  # noqa: E402
from kfisher_scripts.comparison.tune import tune_all  # noqa: E402


def main(arguments: list[str] | None = None) -> None:
    tf.get_logger().setLevel("ERROR")  # that each optimizer traces its own functions is meant
    chosen = options.parse(arguments)
    try:
        problem, notes = problem_of(chosen)
        data = problem.data()
        print(f"{chosen.name}: {problem.summary}", *notes, sep="\n  ", flush=True)
        settings, notes = _settings(chosen, problem, data)
    except TableError as error:
        options.parser().error(str(error))
    problem = dataclasses.replace(problem, settings={**problem.settings, **settings})
    damping = chosen.probe_damping or problem.probe_damping
    if chosen.data is not None:
        damping = damping or options.PROBE_DAMPING
        notes.append(f"cosines and verdicts: damped by {damping:g}")
    for note in notes:
        print(f"  {note}", flush=True)
    runs = []
    for name in chosen.optimizers:
        for seed in chosen.seeds:
            runs.append(
                train(
                    problem,
                    data,
                    name,
                    seed=seed,
                    probe_damping=damping,
                    log_dir=chosen.logdir / f"{name}-seed{seed}",
                    judged=chosen.data is not None and seed == chosen.seeds[0],
                )
            )
    target = chosen.target_loss or problem.target
    if math.isnan(target):
        target = report.target_of(runs)
    csv, png = chosen.out / f"{chosen.name}.csv", chosen.out / f"{chosen.name}.png"
    report.write_csv(runs, csv)
    report.draw(runs, f"{chosen.name}: {problem.summary}", target, png)
    print(f"\n{report.table(runs, target)}\n")
    if chosen.data is not None:
        print(f"{report.verdicts(runs, problem.noise)}\n")
    print(f"every step:  {csv}\npicture:     {png}\nTensorBoard: tensorboard --logdir {chosen.logdir}")


def problem_of(chosen: argparse.Namespace) -> tuple[Problem, list[str]]:
    """The problem with the budget that is asked for, and notes on a table."""
    budget = {name: getattr(chosen, name) for name in ("epochs", "batch_size", "curvature")}
    if chosen.data is None:
        given = {name: value for name, value in budget.items() if value is not None}
        return dataclasses.replace(PROBLEMS[chosen.name], **given), []
    columns = chosen.data, chosen.target, chosen.task, chosen.drop
    return table.problem_of(*columns, chosen.hidden, noise=chosen.noise, **budget)


def _settings(
    chosen: argparse.Namespace, problem: Problem, data: Data
) -> tuple[dict[str, Setting], list[str]]:
    """Those of the problem, or for a table the best of a grid, but for what is asked for; and notes."""
    rates, dampings = chosen.learning_rates, chosen.dampings
    if chosen.data is not None:
        return tune_all(problem, data, chosen.optimizers, rates, dampings, chosen.seeds[0])
    tuned = {name: problem.settings[name] for name in chosen.optimizers}
    return {
        name: setting._replace(
            learning_rate=rates.get(name, setting.learning_rate), damping=dampings.get(name, setting.damping)
        )
        for name, setting in tuned.items()
    }, []


if __name__ == "__main__":
    main()
