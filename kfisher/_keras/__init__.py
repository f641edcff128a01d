"""Every contact with the insides of Keras."""
