"""The rule of every layer: which one applies, and which layers share variables."""

from __future__ import annotations

from typing import Any

import keras

from kfisher.jacobian.layer_calls import LayerCall
from kfisher.jacobian.layers.base import Rule
from kfisher.jacobian.layers.blocks import Block
from kfisher.jacobian.layers.convolution import ConvolutionRule, DepthwiseConvolutionRule
from kfisher.jacobian.layers.dense import DenseRule
from kfisher.jacobian.layers.einsum_dense import EinsumDenseRule
from kfisher.jacobian.layers.embedding import EmbeddingRule
from kfisher.jacobian.layers.product import ProductRule
from kfisher.jacobian.layers.recurrent import RecurrentRule
from kfisher.jacobian.layers.scale_shift import ScaleShiftRule
from kfisher.jacobian.layers.separable import SeparableRule
from kfisher.jacobian.plan import Plan, Tap, plan

__all__ = ["Rule", "blocks_of", "groups", "rule_for", "rules", "structure", "tapped"]

_RULES = (
    DenseRule,
    EinsumDenseRule,
    ConvolutionRule,
    DepthwiseConvolutionRule,
    SeparableRule,
    EmbeddingRule,
    ScaleShiftRule,
    RecurrentRule,
    ProductRule,
)


def rule_for(taps: list[Tap]) -> type[Rule]:
    """The rule for layers that share variables."""
    for rule in _RULES if len(taps) == 1 else (ProductRule,):
        if all(rule.applies(tap) for tap in taps):
            return rule
    return Rule


def groups(taps: list[Tap]) -> list[list[Tap]]:
    """Layers grouped so that no variable is in two groups."""
    found: list[list[Tap]] = []
    for tap in taps:
        own = {id(v) for v in tap.variables}
        shares = [g for g in found if any(id(v) in own for other in g for v in other.variables)]
        found = [g for g in found if g not in shares] + [[*(x for g in shares for x in g), tap]]
    return found


def variables_of(group: list[Tap]) -> list[keras.Variable]:
    return list({id(v): v for tap in group for v in tap.variables}.values())


def structure(taps: list[Tap]) -> list[Block]:
    """The blocks of a running curvature, for all variables of `taps`."""
    return [
        block
        for group in groups(taps)
        for block in rule_for(group).structure(variables_of(group), [tap.layer for tap in group])
    ]


def rules(layer_calls: list[LayerCall]) -> list[Rule]:
    """One rule for each block, with all calls of its layers."""
    taps = {call.layer: call.tap for call in layer_calls}
    found = []
    for group in groups(list(taps.values())):
        layers = [tap.layer for tap in group]
        calls = [call for call in layer_calls if call.layer in layers]
        found.append(rule_for(group)(variables_of(group), calls))
    return found


def tapped(found: Plan) -> list[Tap]:
    """The layers of a plan that answer for trainable variables.

    Raises:
        ValueError: If one is quantized: Keras runs it past its `call`, with products that no rule knows.
    """
    taps = [tap for tap in found.taps if tap.variables]
    quantized = [tap.layer.name for tap in taps if getattr(tap.layer, "quantization_mode", None)]
    if quantized:
        raise ValueError(
            "Layers that are quantized have no rows of the Fisher here. Use `curvature='matrix_free'`. "
            f"Received: layers {', '.join(quantized)}"
        )
    return taps


def blocks_of(model: keras.Model, x: Any) -> list[Block]:
    """The blocks of all variables that the model uses, by their positions."""
    positions = {id(v): i for i, v in enumerate(model.trainable_variables)}
    return [block.located(lambda v: positions[id(v)]) for block in structure(tapped(plan(model, x)))]
