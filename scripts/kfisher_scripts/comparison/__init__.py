"""What scripts/compare.py is made of: the command line, problems and tables, training, the report."""
