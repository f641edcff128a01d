"""Which system a natural-gradient step solves on a table, and on how many rows of it."""

from __future__ import annotations

from comparison.table_file import TableError

# On one core, a step with a system of these sizes takes some tenths of a second.
_GRAM = 2000
_DENSE = 3000
# Numbers in the Jacobian of a batch, which "dense" forms: 256 MB in float64.
_JACOBIAN = 2**25
# What is asked for may be larger, but a matrix of this many rows takes 2 GB.
_LARGEST = 16_000
_PARAMETERS = 10**8


def system(
    examples: int, outputs: int, parameters: int, curvature: str | None, batch_size: int | None
) -> tuple[str, int | None]:
    """Curvature and batch size, `None` for the full batch; those that are given stand.

    The exact step solves a system of one row for each output of each example of the batch ("gram"), or for
    each parameter ("dense"). It is the smaller of the two; what is too large for either is taken in batches.

    Raises:
        TableError: If the system is too large to be solved.
    """
    if parameters > _PARAMETERS:
        raise TableError(f"The model would have {parameters} parameters. Pass smaller --hidden")
    if outputs > _GRAM:
        raise TableError(f"The target has {outputs} classes, of which natural gradient takes at most {_GRAM}")
    batch = min(batch_size or examples, examples)
    if curvature is None:
        curvature = "dense" if parameters <= min(batch * outputs, _DENSE) else "gram"
    if curvature == "dense" and parameters > _LARGEST:
        raise TableError(f"{parameters} parameters are too many for --curvature dense. Leave it out")
    fits = (_GRAM if curvature == "gram" else _JACOBIAN // parameters) // outputs
    if batch_size is None:
        batch = min(batch, fits)
    too_large = {"gram": batch * outputs > _LARGEST, "dense": batch * outputs * parameters > 16 * _JACOBIAN}
    if too_large[curvature]:
        raise TableError(
            f"--batch-size {batch} with {outputs} outputs and {parameters} parameters needs more than 2 GB. "
            f"Leave it out, or pass at most {fits}"
        )
    return curvature, None if batch == examples else batch
