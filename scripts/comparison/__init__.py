"""What scripts/compare.py is made of: problems, optimizers, one training run, and the report."""
