"""Models that people have under each optimizer: what works, by which rules, and what it costs.

    python scripts/models.py                 # all, about an hour on two cores
    python scripts/models.py --quick         # without large ones
    python scripts/models.py --only Transformer

A step and a first step are given as multiples of Adam's, in seconds of CPU and in the same process. Each
model has a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

# Read when TensorFlow and NumPy are imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from kfisher_scripts.models.cases import AVAILABLE  # noqa: E402
from kfisher_scripts.models.measure import OPTIMIZERS, rules, run  # noqa: E402


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="models whose name contains it")
    parser.add_argument("--quick", action="store_true", help="only the quick ones")
    parser.add_argument("--steps", type=int, default=30, help="how many; default: 30")
    parser.add_argument(
        "--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS, help="default: all"
    )
    parser.add_argument("--here", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here:
        print(row(options.here, options.optimizers, options.steps), flush=True)
        return
    names = [n for n, c in AVAILABLE.items() if options.only in n and (c.quick or not options.quick)]
    if not names:
        parser.error(f"--only {options.only!r} is in none of {', '.join(AVAILABLE)}")
    print("| model | rules | " + " | ".join(options.optimizers) + " |")
    print("|" + "---|" * (2 + len(options.optimizers)), flush=True)
    for name in names:
        command = [sys.executable, __file__, "--here", name, "--steps", str(options.steps)]
        ended = subprocess.run(
            [*command, "--optimizers", *options.optimizers], stdout=subprocess.PIPE, text=True
        )
        print(ended.stdout.strip() or f"| {name} | the process ended with {ended.returncode} |", flush=True)


def row(name: str, optimizers: list[str], steps: int) -> str:
    """The line of one model."""
    case = AVAILABLE[name]
    reference = run(case, "adam", steps)
    cells = [name, rules(case)]
    for optimizer in optimizers:
        if optimizer == "gram" and not case.small:
            cells.append("")
            continue
        found = reference if optimizer == "adam" else run(case, optimizer, steps)
        if found.error:
            cells.append(found.error)
        elif optimizer == "adam":
            cells.append(
                f"{1e3 * found.step:.0f} ms, first {found.first:.1f} s, {found.peak:.1f} GiB, "
                f"loss {found.after:.3g}"
            )
        else:
            cells.append(
                f"{found.step / reference.step:.1f}, first {found.first / reference.first:.1f} "
                f"({found.first:.1f} s), {found.peak:.1f} GiB, loss {found.after:.3g}"
            )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
