"""Logs: the names in them, how they are written and read."""
