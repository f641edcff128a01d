"""One pass of the model over a batch, and J and J^T as products, layer by layer."""
