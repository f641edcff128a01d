"""Reproduces the figures and checks the statements of "Limitations of the Empirical Fisher Approximation".

Figures (PNG, PDF), the numbers behind them (CSV), and report.html, which says of each statement of the poster
what was measured, the number to compare it with, and whether it holds. The exit status is 1 if one does not.
"""

from __future__ import annotations

import argparse
import sys

from kfisher_scripts.common.folders import writable

_EXPERIMENTS = """
experiments:
  vectorfield       gradient fields and trajectories of GD, NGD and EF on a regression with two parameters
  misspecification  F and EF at the minimum of three logistic and three linear regressions, right and wrong
  optimization      GD, NGD and EF on BreastCancer, Wine, a1a and Boston, each at the best of a grid of
                    hyper-parameters; --appendix adds Energy, Powerplant and Yacht
  all               all of them, and the statements that have no experiment of their own: the Fisher of the
                    joint, the definitions, large models

The grid search (241 step sizes, 41 dampings, 100 iterations) takes a quarter of an hour. It keeps what is
done in OUT/checkpoints, and the same command goes on where it was interrupted. --quick takes a coarse grid
over the same range, finer around the published best cells.

Boston housing has a column made on a racist premise (kfisher.datasets.boston_with_caveat). It is here only
because its curve was published.
"""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=_EXPERIMENTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("experiment", choices=("vectorfield", "misspecification", "optimization", "all"))
    add("--quick", action="store_true", help="coarser grids; all of it in less than 3 minutes on 2 cores")
    add("--appendix", action="store_true", help="also the problems of the appendix")
    add("--out", type=writable, default="runs/reproduce", help="default: %(default)s")
    add("--pictures", type=writable, metavar="FOLDER", help="also small PNGs, as for the README")
    options = parser.parse_args(arguments)
    if options.appendix and options.experiment not in ("optimization", "all"):
        parser.error(f"--appendix goes with optimization or all. Received: {options.experiment}")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    from kfisher_scripts.reproduction import pipeline

    try:
        claims = pipeline.run(
            options.experiment,
            quick=options.quick,
            appendix=options.appendix,
            out=options.out,
            pictures=options.pictures,
        )
    except KeyboardInterrupt:
        kept = options.out / "checkpoints"
        sys.exit(f"\nInterrupted. The grid search is kept in {kept}; the same command goes on there.")
    print()
    for claim in claims:
        print(f"{'holds' if claim.holds else 'DOES NOT HOLD':<14} {claim.number}. {claim.text}")
        for check in claim.checks:
            if not check.holds:
                print(f"{'':<17} not so: {check.what}; measured: {check.measured}")
    print(f"\nreport: {options.out / 'report.html'}")
    if not all(claim.holds for claim in claims):
        sys.exit(1)
