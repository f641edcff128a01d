"""The rule of every layer: which one applies, and which layers share variables."""

from __future__ import annotations

import keras

from kfisher.blocks import Block
from kfisher.layers.base import Rule
from kfisher.layers.convolution import ConvolutionRule, DepthwiseConvolutionRule
from kfisher.layers.dense import DenseRule
from kfisher.layers.einsum_dense import EinsumDenseRule
from kfisher.layers.embedding import EmbeddingRule
from kfisher.layers.scale_shift import ScaleShiftRule
from kfisher.layers.separable import SeparableRule
from kfisher.taps import Site

__all__ = ["Rule", "groups", "rule_for", "rules", "structure"]

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


def rules(sites: list[Site]) -> list[Rule]:
    """One rule for each block, with all calls of its layers."""
    layers = list(dict.fromkeys(site.layer for site in sites))
    found = []
    for group in groups(layers):
        found.append(rule_for(group)(variables_of(group), [site for site in sites if site.layer in group]))
    return found
