"""Models that people have, and what becomes of them under each optimizer."""
