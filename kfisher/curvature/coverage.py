"""Which rule each variable of a model gets."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras

from kfisher import curvature as curvatures
from kfisher._common import html
from kfisher._common.models import built, tensors
from kfisher.jacobian import layers
from kfisher.jacobian.plan import plan


class Row(NamedTuple):
    """One line of the table: a layer, some of its trainable variables, their rule, and their curvature."""

    layer: str
    variables: tuple[str, ...]
    rule: str
    curvature: str = ""


class Coverage(list[Row]):
    """A list of `Row`s that prints as a table, and is one in a notebook."""

    def _cells(self) -> list[tuple[str, ...]]:
        """The header and the rows; without the last column if it is empty."""
        columns = 4 if any(r.curvature for r in self) else 3
        rows = [Row._fields] + [(r.layer, ", ".join(r.variables), r.rule, r.curvature) for r in self]
        return [row[:columns] for row in rows]

    def _repr_html_(self) -> str:
        header, *rows = self._cells()
        return html.table(header, rows)

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in cells]
        return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def coverage(model: keras.Model, curvature: Any = None, x: Any = None) -> Coverage:
    """Table of how the Fisher of each layer of `model` is formed, and what each variable gets of a curvature.

    Args:
        model: A built model.
        curvature: As for `kfisher.optimizers.NaturalGradient`, a name or an instance; `None` for the rules
            alone.
        x: A batch of inputs, for a model that does not declare them (a subclass with a `call`).

    Returns:
        A list of `(layer, variables, rule, curvature)` that prints as a table. The rule "per example" is
        exact for any layer and slower; "not used" marks variables that the forward pass never touches. Under
        curvature, "785 x 1000" are the sizes of two Kronecker factors, "diagonal" stands before one that is
        kept as its diagonal, and "exact 64" is a block of its own without approximation.

    Raises:
        ValueError: If `model` is no built model, or another argument is wrong.

    Example:

    >>> print(kfisher.coverage(model, "kfac"))
    layer  variables     rule   curvature
    -----  ------------  -----  ---------
    dense  kernel, bias  dense  4 x 1
    """
    built("model", model)
    (x,) = tensors(x=x)
    found = None if curvature is None else curvatures.get(curvature)
    rows = []
    tapped = layers.tapped(plan(model, x))
    for group in layers.groups(tapped):
        rule = layers.rule_for(group)
        if found is None or not found.needs_blocks:
            described = "" if found is None else found.describe(None)
            for layer in group:
                rows.append(_row(model, layer, layer.trainable_variables, rule.name, described))
            continue
        for block in rule.structure(layers.variables_of(group), group):
            owner = next(
                layer for layer in group if any(v is block.variables[0] for v in layer.trainable_variables)
            )
            rows.append(_row(model, owner, block.variables, rule.name, found.describe(block)))
    seen = {id(v) for layer in tapped for v in layer.trainable_variables}
    unused = [v for v in model.trainable_variables if id(v) not in seen]
    described = "" if found is None else "damping alone"
    return Coverage(rows + [Row(v.path.rpartition("/")[0], (v.name,), "not used", described) for v in unused])


def _row(model: Any, layer: Any, variables: Any, rule: str, described: str) -> Row:
    names = tuple(v.path.removeprefix(layer.path + "/") for v in variables)
    return Row(layer.path.removeprefix(model.name + "/"), names, rule, described)
