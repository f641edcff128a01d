"""What is logged: its names, how it is written and read."""
