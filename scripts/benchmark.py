"""What kfisher costs: ratios of whole training steps, measured in one run.

    python scripts/benchmark.py
    python scripts/benchmark.py --start      # of TensorBoard, with the tab and without
    python scripts/benchmark.py --tab        # answers of its server for a hundred runs of 10 000 steps
    python scripts/benchmark.py --untuned    # losses with nothing tuned, about ten minutes
    python scripts/benchmark.py --replicas   # on one to four workers, and on paper for a thousand

Each case is timed against its reference in turn, A B A B ..., and the median of the ratios pair by pair is
printed beside its bar, so that the machine's moods cancel. A step is what `fit` takes from the end of one
batch to the end of the next.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from pathlib import Path

# Read when TensorFlow and NumPy are imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from kfisher_scripts.benchmarking import race, replicas, served, starting, untuned  # noqa: E402
from kfisher_scripts.benchmarking.cases import CASES  # noqa: E402
from kfisher_scripts.benchmarking.memory import largest_tensor, state_bytes  # noqa: E402
from kfisher_scripts.benchmarking.small_problems import SMALL_PROBLEMS  # noqa: E402
from tqdm import tqdm  # noqa: E402


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="pairs of epochs for each case; default: 15")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases or problems whose name contains it")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--race", action="store_true", help="only the race to a loss, about 4 minutes")
    group.add_argument(
        "--untuned", action="store_true", help="only nine small problems with nothing tuned, about 10 minutes"
    )
    group.add_argument("--start", action="store_true", help="only how long TensorBoard takes to start")
    group.add_argument("--tab", action="store_true", help="only how long the tab waits for its server")
    group.add_argument("--replicas", action="store_true", help="only several workers, about 10 minutes")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every epoch of --untuned as CSV")
    options = parser.parse_args(arguments)
    if options.out is not None and not options.untuned:
        parser.error("--out goes with --untuned")
    if options.untuned and not any(options.only in name for name in SMALL_PROBLEMS):
        parser.error(f"--only {options.only!r} is in none of {', '.join(SMALL_PROBLEMS)}")
    if options.race:
        race.run()
        return
    if options.replicas:
        replicas.run()
        return
    if options.start:
        starting.run(options.rounds)
        return
    if options.tab:
        served.run(options.rounds)
        return
    if options.untuned:
        untuned.run(options.only, options.out)
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
    state, factors, parameters = (float(n) for n in state_bytes())
    print(f"state of NaturalGradient() / parameters of the autoencoder, in bytes: {state / parameters:.2f},")
    print(f"of which factors and inverses: {factors / parameters:.2f}")
    print("the race to a training loss: python scripts/benchmark.py --race")
    print("small problems with nothing tuned: python scripts/benchmark.py --untuned")


if __name__ == "__main__":
    main()
