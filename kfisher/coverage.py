"""Which rule each variable of a model gets."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras

from kfisher import layers, plan


class Row(NamedTuple):
    """One line of the table: a layer, its trainable variables, and the rule for them."""

    layer: str
    variables: tuple[str, ...]
    rule: str


class Coverage(list[Row]):
    """A list of `Row`s that prints as a table."""

    def __str__(self) -> str:
        cells = [("layer", "variables", "rule")] + [(r.layer, ", ".join(r.variables), r.rule) for r in self]
        widths = [max(len(row[i]) for row in cells) for i in range(3)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in cells]
        return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def coverage(model: keras.Model, x: Any = None) -> Coverage:
    """How the Fisher of each layer of `model` is formed.

    Args:
        model: A built model.
        x: A batch of inputs, for a model that does not declare them (a subclass with a `call`).

    Returns:
        A list of `(layer, variables, rule)` that prints as a table. The rule "per example" is exact for any
        layer and slower; "not used" marks variables that the forward pass never touches.

    Example:

    >>> print(kfisher.coverage(model))
    layer    variables     rule
    -------  ------------  -----
    dense    kernel, bias  dense
    """
    rows = []
    tapped = [layer for layer in plan.plan(model, x).calls if layer.trainable_variables]
    for group in layers.groups(tapped):
        rule = layers.rule_for(group).name
        for layer in group:
            names = tuple(v.path.removeprefix(layer.path + "/") for v in layer.trainable_variables)
            rows.append(Row(layer.path.removeprefix(model.name + "/"), names, rule))
    seen = {id(v) for layer in tapped for v in layer.trainable_variables}
    unused = [v for v in model.trainable_variables if id(v) not in seen]
    return Coverage(rows + [Row(v.path.rpartition("/")[0], (v.name,), "not used") for v in unused])
