"""Scale and shift of normalisation layers: z = gamma * x_hat + beta, so rows are sums of x_hat * g."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kfisher._common.rows import reshape_behind
from kfisher.jacobian.layer_calls import LayerCall
from kfisher.jacobian.layers.base import AffineRule, Rule, formed, run
from kfisher.jacobian.layers.blocks import Block


class ScaleShiftRule(AffineRule):
    """BatchNormalization (statistics held), LayerNormalization, GroupNormalization, RMSNormalization.

    The rows are small, 2 C for C channels, and formed.
    """

    name = "scale and shift"
    layers = (
        keras.layers.BatchNormalization,
        keras.layers.LayerNormalization,
        keras.layers.GroupNormalization,
        keras.layers.RMSNormalization,
    )
    parameters = ("gamma", "scale", "beta")

    # Through the rows, which are at hand; without gamma the layer at beta = v would add x_hat.
    matvec = Rule.matvec
    rmatvec = Rule.rmatvec

    @classmethod
    def structure(cls, variables: Any, layers: Any) -> list[Block]:
        """One exact block for scale and shift together."""
        return [formed(variables)]

    def _rows_of_call(self, layer_call: LayerCall) -> list[tf.Tensor]:
        g, layer = layer_call.grads[0], layer_call.layer
        beta = getattr(layer, "beta", None)
        normalised = self._normalised(layer_call)
        axis = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
        kept = {a % normalised.shape.rank for a in axis}
        summed = [i + 1 for i in range(1, normalised.shape.rank) if i not in kept]
        rows = []
        for variable in self.variables:
            row = tf.reduce_sum(g if variable is beta else g * tf.cast(normalised, g.dtype), summed)
            rows.append(reshape_behind(row, 2, variable.shape))
        return rows

    def _normalised(self, layer_call: LayerCall) -> tf.Tensor:
        """x_hat: the layer itself with gamma = 1 and beta = 0."""
        parameters = self.parameters_of(layer_call.layer)
        plain = [
            (v, (tf.zeros if name == "beta" else tf.ones)(v.shape, v.dtype)) for name, v in parameters.items()
        ]
        return run(layer_call, plain, layer_call.args, layer_call.kwargs)
