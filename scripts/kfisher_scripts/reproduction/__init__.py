"""What scripts/reproduce.py is made of: experiments, the statements with their checks, report."""
