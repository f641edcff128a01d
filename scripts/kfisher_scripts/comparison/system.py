"""Which system an exact natural-gradient step solves on a table, and on how much of it at once."""

from __future__ import annotations

from kfisher_scripts.comparison.table_file import TableError

# On one core, a step with a system of these sizes takes some tenths of a second.
_GRAM = 2000
_DENSE = 3000
# More examples than these are taken in batches of so many, which every optimizer does.
_WHOLE, _BATCH = 4000, 512
# Numbers in the Jacobian of a batch, which "dense" forms: 256 MB in float64.
_JACOBIAN = 2**25
# What is asked for may be larger, but a matrix of this many rows takes 2 GB.
_LARGEST = 16_000
_PARAMETERS = 10**8


def system(
    examples: int, rows: int, parameters: int, curvature: str | None, batch_size: int | None
) -> tuple[str, int | None]:
    """Curvature and batch size, `None` for the full batch; those that are given stand.

    An exact step solves a system of the size of the `rows` of each example of the batch ("gram"), or of the
    parameters ("dense"). It is the smaller of the two. Large tables, and what is too large for either system,
    are taken in batches.

    Raises:
        TableError: If the system is too large to be solved.
    """
    if parameters > _PARAMETERS:
        raise TableError(
            f"The model would have {parameters} parameters, of which {_PARAMETERS} are too many here. Pass "
            "smaller --hidden, or leave columns out with --drop"
        )
    if rows > _GRAM:
        raise TableError(f"The target has {rows + 1} classes, of which at most {_GRAM + 1} are taken here")
    batch = min(batch_size or (examples if examples <= _WHOLE else _BATCH), examples)
    if curvature is None:
        curvature = "dense" if parameters <= min(batch * rows, _DENSE) else "gram"
    if curvature == "dense" and parameters > _LARGEST:
        raise TableError(f"{parameters} parameters are too many for --curvature dense. Leave it out")
    numbers = 1 if curvature == "gram" else parameters  # that grow with each row
    quick, most = (_GRAM, _LARGEST) if curvature == "gram" else (_JACOBIAN, 16 * _JACOBIAN)
    if batch_size is None:
        batch = min(batch, quick // (numbers * rows))
    if batch * rows * numbers > most:
        raise TableError(
            f"--batch-size {batch} needs more than 2 GB with {parameters} parameters and {rows} rows for "
            f"each example. Leave it out, or pass at most {most // (numbers * rows)}"
        )
    return curvature, None if batch == examples else batch
