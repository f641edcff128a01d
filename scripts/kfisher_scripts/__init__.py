"""The command `kfisher`, and the parts of compare.py, reproduce.py and benchmark.py."""
