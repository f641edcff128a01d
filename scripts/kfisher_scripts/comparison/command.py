"""The command "compare": from its options to its files."""

from __future__ import annotations

import argparse
import dataclasses
import math

import tensorflow as tf

from kfisher_scripts.comparison import conclusions, options, picture, report, table
from kfisher_scripts.comparison.numbers import Format
from kfisher_scripts.comparison.problem import Data, Problem, Setting
from kfisher_scripts.comparison.problems import PROBLEMS
from kfisher_scripts.comparison.run import train
from kfisher_scripts.comparison.table_file import TableError
from kfisher_scripts.comparison.tune import grids_of, tune_all


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
        notes.append(f"cosines: damped by {damping:g}")
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
                    verdict_damping=chosen.probe_damping,
                    log_dir=chosen.logdir / f"{name}-seed{seed}",
                    watched=seed == chosen.seeds[0],
                    judged=chosen.data is not None and seed == chosen.seeds[0],
                )
            )
    units = report.units_of(problem, data)
    target = chosen.target_loss or problem.target
    if math.isnan(target):
        target = report.target_of(runs, units.judged)
    csv, png = chosen.out / f"{chosen.name}.csv", chosen.out / f"{chosen.name}.png"
    print(f"\n{report.table(runs, target, units)}\n")
    if chosen.data is not None:
        grids = grids_of(chosen.optimizers, chosen.learning_rates, chosen.dampings)
        fixed = [name for name, settings in grids.items() if len(settings) == 1]
        print(f"{conclusions.best(runs, fixed)}\n")
        print(f"{conclusions.verdicts(runs, problem.noise, chosen.probe_damping)}\n", flush=True)
    report.write_csv(runs, csv)
    picture.draw(runs, f"{chosen.name}: {problem.summary}", target, units.judged, png)
    print(f"every step:  {csv}\npicture:     {png}\nTensorBoard: tensorboard --logdir {chosen.logdir}")


def problem_of(chosen: argparse.Namespace) -> tuple[Problem, list[str]]:
    """The problem with the budget that is asked for, and notes on a table."""
    budget = {name: getattr(chosen, name) for name in ("epochs", "batch_size", "curvature")}
    if chosen.data is None:
        given = {name: value for name, value in budget.items() if value is not None}
        return dataclasses.replace(PROBLEMS[chosen.name], **given), []
    return table.problem_of(
        chosen.data,
        chosen.target,
        chosen.task,
        chosen.drop,
        chosen.hidden,
        categorical=chosen.categorical,
        form=Format(chosen.decimal, chosen.thousands),
        encoding=chosen.encoding,
        noise=chosen.noise,
        **budget,
    )


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
