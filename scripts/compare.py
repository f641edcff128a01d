"""Compares natural gradient with its empirical variant, gradient descent and Adam on real data.

    python scripts/compare.py --problem digits_mlp --optimizers adam natural_gradient empirical_fisher
    python scripts/compare.py --data my.csv --target price --hidden 32 32

Every optimizer starts from the same weights and sees the same batches, through `compile` and `fit`. Prints
a table, and writes a CSV, a picture, and one TensorBoard run for each optimizer and seed. `kfisher compare`
is the same.
"""

from kfisher_scripts.command_line import compare

if __name__ == "__main__":
    compare()
