"""How often the verdict on the empirical Fisher is wrong, on data whose truth is known.

    python scripts/verdicts.py               # a linear regression, one at positions, and models held out
    python scripts/verdicts.py --seeds 10    # fewer samples of each

In each cell of the tables: in how many of a hundred samples EF was accused / cleared; in the rest the
examples did not suffice. What is true is found from 50 000 examples.
"""

from __future__ import annotations

import argparse
import os

# Read when TensorFlow is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from kfisher_scripts.verdicts import table  # noqa: E402
from kfisher_scripts.verdicts.settings import AT_POSITIONS, HELD_OUT, SIZES, TABLE  # noqa: E402


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50, help="samples of each kind; default: 50")
    parser.add_argument("--first-seed", type=int, default=0, help="of them, for other samples; default: 0")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of examples")
    tables = {"table": TABLE, "positions": AT_POSITIONS, "held-out": HELD_OUT}
    parser.add_argument("--only", choices=tables, help="one of them; default: all")
    options = parser.parse_args(arguments)
    for name, settings in tables.items():
        if options.only in (None, name):
            cells = table.measure(settings, options.seeds, tuple(options.sizes), options.first_seed)
            print(f"\n{table.as_markdown(cells)}\n\n{table.summary(cells)}", flush=True)


if __name__ == "__main__":
    main()
