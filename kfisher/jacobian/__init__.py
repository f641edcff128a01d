"""One pass of the model over a batch, and J and Jᵀ as products, layer by layer."""
