"""What every room uses: checks of arguments, lists of tensors as vectors, threads."""
