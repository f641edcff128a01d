"""Settings for a problem that nobody has tuned: a coarse grid, by the training loss at the end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from tqdm import tqdm

from kfisher_scripts.comparison.optimizers import OPTIMIZERS
from kfisher_scripts.comparison.problem import Data, Problem, Setting
from kfisher_scripts.comparison.run import batches_of
from kfisher_scripts.comparison.table_file import TableError

RATES = {"sgd": (1e-3, 1e-2, 0.1, 1.0), "adam": (1e-3, 1e-2, 0.1, 1.0)}
_EQUAL = 1e-4  # losses that differ by less are the same
NATURAL = ((0.03, 0.1, 0.3, 1.0), (1e-8, 1e-4, 1e-2, 0.1, 1.0))


def grid(optimizer: str, rate: float | None = None, damping: float | None = None) -> list[Setting]:
    """The settings that are tried; those that the user has named stand."""
    rates, dampings = (RATES[optimizer], (None,)) if optimizer in RATES else NATURAL
    rates = rates if rate is None else (rate,)
    dampings = dampings if damping is None else (damping,)
    return [Setting(r, d) for r, d in itertools.product(rates, dampings)]


def tune_all(
    problem: Problem,
    data: Data,
    optimizers: Sequence[str],
    learning_rates: dict[str, float],
    dampings: dict[str, float],
    seed: int,
) -> tuple[dict[str, Setting], list[str]]:
    """The best setting of the grid of each optimizer, and notes on those at its edge."""
    grids = {name: grid(name, learning_rates.get(name), dampings.get(name)) for name in optimizers}
    found, notes = {}, []
    with tqdm(total=sum(map(len, grids.values())), unit="run", dynamic_ncols=True) as progress:
        for name, settings in grids.items():
            progress.set_description(f"settings of {name:<25}")
            found[name] = tune(problem, data, name, settings, seed, progress)
            notes += at_edge(name, settings, found[name])
    return found, notes


def at_edge(optimizer: str, settings: list[Setting], best: Setting) -> list[str]:
    """What to try if the best setting has no neighbour on one side.

    Not said of two edges beyond which there is nothing: the least damping, which is as good as none, and the
    rate of 1 of the natural gradient, which is the whole step.
    """
    rates = sorted({setting.learning_rate for setting in settings})
    dampings = sorted({setting.damping for setting in settings if setting.damping is not None})
    further = []
    if len(rates) > 1 and best.learning_rate == rates[0]:
        further.append(f"--learning-rates {optimizer}={rates[0] / 10:g}")
    elif len(rates) > 1 and best.learning_rate == rates[-1] and not optimizer.startswith("natural_gradient"):
        further.append(f"--learning-rates {optimizer}={rates[-1] * 10:g}")
    if len(dampings) > 1 and best.damping == dampings[-1]:
        further.append(f"--dampings {optimizer}={dampings[-1] * 10:g}")
    return [f"{optimizer}: the best of its grid is at its edge; try {' '.join(further)}"] if further else []


def tune(
    problem: Problem, data: Data, optimizer: str, settings: list[Setting], seed: int, progress: tqdm
) -> Setting:
    """The setting with the lowest training loss after the epochs of the problem; of equals, the fastest.

    A single setting is taken as it is.

    Raises:
        TableError: If no setting ends at a finite loss.
    """
    if len(settings) == 1:
        progress.update()
        return settings[0]
    ends = zip(losses(problem, data, optimizer, settings, seed, progress), settings)
    found = [(loss, mean, setting) for (loss, mean), setting in ends if np.isfinite(loss + mean)]
    if not found:
        raise TableError(
            f"{optimizer} ends at a finite loss with no setting of its grid: every learning rate is too "
            f"large. Pass a smaller one, say --learning-rates {optimizer}="
            f"{settings[0].learning_rate / 100:g}, or leave it out of --optimizers"
        )
    least = min(loss for loss, _, _ in found)
    return min((mean, setting) for loss, mean, setting in found if loss <= least * (1 + _EQUAL))[1]


def losses(
    problem: Problem, data: Data, optimizer: str, settings: list[Setting], seed: int, progress: tqdm
) -> Iterator[tuple[float, float]]:
    """Of each setting, the training loss at the end and its mean on the way there.

    One model is traced and trained again and again: rate and damping are variables of the optimizer.
    """
    keras.utils.set_random_seed(seed)
    model = problem.model()
    model.compile(OPTIMIZERS[optimizer](settings[0], problem.curvature, seed), problem.loss())
    model.optimizer.build(model.trainable_variables)
    variables = model.variables + model.optimizer.variables
    start = [v.numpy() for v in variables]
    for setting in settings:
        for variable, value in zip(variables, start):
            variable.assign(value)
        model.optimizer.learning_rate = setting.learning_rate
        if setting.damping is not None:
            model.optimizer.damping = setting.damping
        batches = batches_of(data, problem.batch_size, seed)
        # As one epoch: of full batches, an epoch takes longer to begin and to end than its one step.
        (mean,) = model.fit(batches.repeat(problem.epochs), shuffle=False, verbose=0).history["loss"]
        yield model.evaluate(batches, verbose=0), mean
        progress.update()
