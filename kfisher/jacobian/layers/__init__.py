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
from kfisher.jacobian.layers.scale_shift import ScaleShiftRule
from kfisher.jacobian.layers.separable import SeparableRule
from kfisher.jacobian.plan import Plan, plan

__all__ = ["Rule", "blocks_of", "groups", "rule_for", "rules", "structure", "tapped"]

_RULES = (
    DenseRule,
    EinsumDenseRule,
    ConvolutionRule,
    DepthwiseConvolutionRule,
    SeparableRule,
    EmbeddingRule,
    ScaleShiftRule,
)


def rule_for(layers: list[keras.layers.Layer]) -> type[Rule]:
    """The rule for layers that share variables: a special one only for a layer on its own."""
    if len(layers) == 1:
        for rule in _RULES:
            if rule.applies(layers[0]):
                return rule
    return Rule


def groups(layers: list[keras.layers.Layer]) -> list[list[keras.layers.Layer]]:
    """Layers grouped so that no variable is in two groups."""
    found: list[list[keras.layers.Layer]] = []
    for layer in layers:
        own = {id(v) for v in layer.trainable_variables}
        shares = [g for g in found if any(id(v) in own for other in g for v in other.trainable_variables)]
        found = [g for g in found if g not in shares] + [[*(x for g in shares for x in g), layer]]
    return found


def variables_of(group: list[keras.layers.Layer]) -> list[keras.Variable]:
    return list({id(v): v for layer in group for v in layer.trainable_variables}.values())


def structure(layers: list[keras.layers.Layer]) -> list[Block]:
    """The blocks of a running curvature, for all variables of `layers`."""
    return [
        block
        for group in groups(layers)
        if variables_of(group)  # a BatchNormalization may be tapped for its statistics alone
        for block in rule_for(group).structure(variables_of(group), group)
    ]


def rules(layer_calls: list[LayerCall]) -> list[Rule]:
    """One rule for each block, with all calls of its layers."""
    layers = list(dict.fromkeys(layer_call.layer for layer_call in layer_calls))
    found = []
    for group in groups(layers):
        found.append(
            rule_for(group)(
                variables_of(group), [layer_call for layer_call in layer_calls if layer_call.layer in group]
            )
        )
    return found


def tapped(found: Plan) -> list[keras.layers.Layer]:
    """The layers with trainable variables of a plan.

    Raises:
        ValueError: If one is quantized: Keras runs it past its `call`, with products that no rule knows.
    """
    layers = [layer for layer in found.calls if layer.trainable_variables]
    quantized = [layer.name for layer in layers if getattr(layer, "quantization_mode", None)]
    if quantized:
        raise ValueError(
            "Layers that are quantized have no rows of the Fisher here. Use `curvature='matrix_free'`. "
            f"Received: layers {', '.join(quantized)}"
        )
    return layers


def blocks_of(model: keras.Model, x: Any) -> list[Block]:
    """The blocks of all variables that the model uses, by their positions."""
    positions = {id(v): i for i, v in enumerate(model.trainable_variables)}
    return [block.located(lambda v: positions[id(v)]) for block in structure(tapped(plan(model, x)))]
