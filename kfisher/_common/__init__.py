"""Tools of every room: checks of arguments, lists of tensors as vectors, threads."""
