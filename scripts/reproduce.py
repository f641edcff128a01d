"""Reproduces the figures and checks the statements of "Limitations of the Empirical Fisher Approximation".

    python scripts/reproduce.py misspecification
    python scripts/reproduce.py all --quick

Where kfisher is installed, `kfisher reproduce` is the same.
"""

from kfisher_scripts.command_line import reproduce

if __name__ == "__main__":
    reproduce()
