"""What scripts/benchmark.py is made of: what is trained, the cases, memory, and the race to a loss."""
