"""What `kfisher compare` is made of: the command line, problems and tables, training, the report."""
