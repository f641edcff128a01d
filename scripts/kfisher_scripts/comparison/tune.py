"""Settings for a table: a coarse grid, of which the better thirds go on, by the validation loss.

Successive halving (Jamieson, Talwalkar 2016), by thirds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from kfisher_scripts.comparison.evaluation import Evaluation, first, size_of
from kfisher_scripts.comparison.optimizers import OPTIMIZERS
from kfisher_scripts.comparison.problem import UNTUNED, Data, Problem, Setting
from kfisher_scripts.comparison.run import batches_of
from kfisher_scripts.comparison.table_file import TableError

RATES = {"sgd": (1e-3, 1e-2, 0.1, 1.0), "adam": (1e-3, 1e-2, 0.1, 1.0)}
NATURAL = ((0.03, 0.1, 0.3, 1.0), (1e-8, 1e-4, 1e-2, 0.1, 1.0))
TUNED = (*RATES, "natural_gradient", "natural_gradient_sampled", "empirical_fisher")
_EQUAL = 1e-4  # losses that differ by less, relatively, are the same
_THIRDS = 2  # how often the worse two thirds are left out
_STEPS = 600  # that a setting is trained at most: as many tell learning rates apart
_LOOKS = 50  # how often, in all its steps, the validation loss of a setting is looked at


def grid(optimizer: str, rate: float | None = None, damping: float | None = None) -> list[Setting]:
    """The settings that are tried; those that the user has named stand. One of what needs no tuning."""
    if optimizer not in TUNED:
        return [UNTUNED._replace(learning_rate=rate or UNTUNED.learning_rate, damping=damping or "auto")]
    rates, dampings = (RATES[optimizer], (None,)) if optimizer in RATES else NATURAL
    rates = rates if rate is None else (rate,)
    dampings = dampings if damping is None else (damping,)
    return [Setting(r, d) for r, d in itertools.product(rates, dampings)]


def grids_of(
    optimizers: Sequence[str], learning_rates: dict[str, float], dampings: dict[str, float]
) -> dict[str, list[Setting]]:
    """The settings that are tried for each optimizer."""
    return {name: grid(name, learning_rates.get(name), dampings.get(name)) for name in optimizers}


def rungs(count: int, steps: int) -> list[tuple[int, int]]:
    """How many settings go how many steps, at each rung of the ladder; a single one goes none."""
    if count == 1:
        return []
    ends = [math.ceil(steps / 3 ** (_THIRDS - i)) for i in range(_THIRDS + 1)]
    counts = [math.ceil(count / 3**i) for i in range(_THIRDS + 1)]
    return [(n, end - begin) for n, begin, end in zip(counts, [0, *ends], ends)]


def tune_all(
    problem: Problem,
    data: Data,
    optimizers: Sequence[str],
    learning_rates: dict[str, float],
    dampings: dict[str, float],
    seed: int,
) -> tuple[dict[str, Setting], list[str]]:
    """The best setting of the grid of each optimizer, and notes on those at its edge."""
    grids = grids_of(optimizers, learning_rates, dampings)
    steps = min(_STEPS, problem.epochs * len(batches_of(data, problem.batch_size, seed)))
    total = sum(n * more for settings in grids.values() for n, more in rungs(len(settings), steps))
    found, notes = {}, []
    with tqdm(total=total, unit="step", dynamic_ncols=True, disable=not total) as progress:
        for name, settings in grids.items():
            if len(settings) > 1:
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
    """The setting with the least validation loss on its way; of equals, that with the least on average.

    A single setting is taken as it is.

    Raises:
        TableError: If no setting has a finite loss after its first step.
    """
    if len(settings) == 1:
        return settings[0]
    ladder = Ladder(problem, data, optimizer, settings, seed, progress)
    while ladder.rungs:
        ladder.climb()
    found = [trial for trial in ladder.trials if math.isfinite(trial.best)]
    if not found:
        raise TableError(
            f"{optimizer} has no finite loss with any setting of its grid: every learning rate is too "
            f"large. Pass a smaller one, say --learning-rates {optimizer}="
            f"{settings[0].learning_rate / 100:g}, or leave it out of --optimizers"
        )
    least = min(trial.best for trial in found)
    equal = [trial for trial in found if trial.best <= least + _EQUAL * abs(least)]
    return min(equal, key=lambda trial: float(np.mean(trial.losses))).setting


@dataclass
class Trial:
    """One setting on its way.

    Attributes:
        state: Of model and optimizer.
        losses: Those of the validation, as often as it was looked at.
        lost: Whether a loss was not finite; it goes no further.
    """

    setting: Setting
    state: list[Any]
    losses: list[float] = field(default_factory=list)
    lost: bool = False

    @property
    def best(self) -> float:
        return min((loss for loss in self.losses if math.isfinite(loss)), default=math.inf)


class Ladder:
    """Settings that are trained side by side, and the better ones further.

    One model is traced and trained again and again: rate and damping are variables of the optimizer.

    Attributes:
        trials: Those still in it.
        rungs: Those to come: how many settings, and how many steps.
    """

    def __init__(
        self,
        problem: Problem,
        data: Data,
        optimizer: str,
        settings: list[Setting],
        seed: int,
        progress: tqdm,
    ):
        keras.utils.set_random_seed(seed)
        self._model = model = problem.model()
        model.compile(OPTIMIZERS[optimizer](settings[0], problem.curvature, seed), problem.loss())
        model.optimizer.build(model.trainable_variables)
        self._variables = model.variables + model.optimizer.variables
        self._batches = batches_of(data, problem.batch_size, seed)
        self._validation = [first(part, size_of(part)) for part in (data.x_validation, data.y_validation)]
        self._evaluate, self._progress = Evaluation(model, problem), progress
        start = [v.numpy() for v in self._variables]
        self.trials = [Trial(setting, start) for setting in settings]
        steps = min(_STEPS, problem.epochs * len(self._batches))
        self.rungs = rungs(len(settings), steps)
        self._every = max(1, steps // _LOOKS)

    def climb(self) -> None:
        """The best trials go the steps of the next rung; the others are left."""
        count, steps = self.rungs.pop(0)
        self.trials = sorted(self.trials, key=lambda trial: trial.best)[:count]
        for trial in self.trials:
            self._go_on(trial, steps)

    def _go_on(self, trial: Trial, steps: int) -> None:
        bar = self._progress.n + steps
        if steps and not trial.lost:
            for variable, value in zip(self._variables, trial.state):
                variable.assign(value)
            self._model.optimizer.learning_rate = trial.setting.learning_rate
            if trial.setting.damping is not None:
                self._model.optimizer.damping = trial.setting.damping

            def look(batch: int, logs: Any = None) -> None:
                self._progress.update()
                if (batch + 1) % self._every == 0 or batch + 1 == steps:
                    trial.losses.append(float(self._evaluate(*self._validation)[0]))
                    if not math.isfinite(trial.losses[-1]):
                        trial.lost = self._model.stop_training = True

            callback = keras.callbacks.LambdaCallback(on_train_batch_end=look)
            # As one epoch: of full batches, an epoch takes longer to begin and to end than its one step.
            batches = self._batches.repeat().take(steps)
            self._model.fit(batches, callbacks=[callback], shuffle=False, verbose=0)
            trial.state = [v.numpy() for v in self._variables]
        self._progress.update(bar - self._progress.n)
