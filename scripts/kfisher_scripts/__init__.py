"""The parts of compare.py, reproduce.py and benchmark.py."""
