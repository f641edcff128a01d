"""The command `kfisher`: comparing optimizers and reproducing the paper, wherever kfisher is installed."""

from __future__ import annotations

import argparse
import importlib
import sys

from kfisher_scripts.common.quiet_start import quiet_start


def main() -> None:
    """`kfisher COMMAND ...`."""
    parser = argparse.ArgumentParser(prog="kfisher", description="Natural gradient for Keras.")
    parser.add_argument(
        "command",
        choices=("compare", "reproduce"),
        help="compare optimizers on a problem or a table of your own; reproduce the figures and statements "
        "of Kunstner, Balles, Hennig 2019",
    )
    parser.add_argument("options", nargs=argparse.REMAINDER, help="kfisher COMMAND --help lists them")
    chosen = parser.parse_args()
    sys.argv = [f"kfisher {chosen.command}", *chosen.options]
    (compare if chosen.command == "compare" else reproduce)()


def compare() -> None:
    """The comparison, with the options of the command line."""
    _run("kfisher_scripts.comparison.command")


def reproduce() -> None:
    """The reproduction, with the options of the command line."""
    _run("kfisher_scripts.reproduction.command")


def _run(module: str) -> None:
    quiet_start()
    try:
        command = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kfisher"):
            raise
        sys.exit(f"{error.name} is missing, which the commands need: pip install 'kfisher[scripts]'")
    command.main()
