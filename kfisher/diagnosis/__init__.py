"""F against the empirical Fisher: numbers, findings on them, and a verdict."""
