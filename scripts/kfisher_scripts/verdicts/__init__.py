"""How often the verdict on the empirical Fisher is wrong, on data whose truth is known."""
