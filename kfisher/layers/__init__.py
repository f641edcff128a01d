"""The rule of every layer: which one applies, and which layers share variables."""

from __future__ import annotations

import keras

from kfisher.layers.base import Rule
from kfisher.layers.convolution import ConvolutionRule, DepthwiseConvolutionRule
from kfisher.layers.dense import DenseRule
from kfisher.layers.einsum_dense import EinsumDenseRule
from kfisher.layers.embedding import EmbeddingRule
from kfisher.layers.scale_shift import ScaleShiftRule
from kfisher.taps import Site

__all__ = ["Rule", "rule_for", "rules"]

_RULES = (
    DenseRule,
    EinsumDenseRule,
    ConvolutionRule,
    DepthwiseConvolutionRule,
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


def blocks(layers: list[keras.layers.Layer]) -> list[list[keras.layers.Layer]]:
    """Layers grouped so that no variable is in two groups."""
    groups: list[list[keras.layers.Layer]] = []
    for layer in layers:
        own = {id(v) for v in layer.trainable_variables}
        shares = [g for g in groups if any(id(v) in own for other in g for v in other.trainable_variables)]
        groups = [g for g in groups if g not in shares] + [[*(x for g in shares for x in g), layer]]
    return groups


def rules(sites: list[Site]) -> list[Rule]:
    """One rule for each block, with all calls of its layers."""
    layers = list(dict.fromkeys(site.layer for site in sites))
    found = []
    for group in blocks(layers):
        variables = list({id(v): v for layer in group for v in layer.trainable_variables}.values())
        found.append(rule_for(group)(variables, [site for site in sites if site.layer in group]))
    return found
