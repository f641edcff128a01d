"""Memory: the largest tensor of a step, and the state of K-FAC."""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

from kfisher_scripts.benchmarking.work import AUTOENCODER, compiled, kfac, natural


def largest_tensor(batch: int = 256) -> tuple[int, int]:
    """Entries of the largest tensor in a compiled sampled Gram step, and N x P."""
    model = compiled(natural("sampled")())
    x, y = np.zeros((batch, 784), "float32"), np.zeros(batch, "int32")
    step = tf.function(model.train_step).get_concrete_function((tf.constant(x), tf.constant(y)))
    graphs = [step.graph.as_graph_def(add_shapes=True)]
    nodes = [*graphs[0].node, *(node for f in graphs[0].library.function for node in f.node_def)]
    sizes = [
        int(np.prod([d.size for d in shape.dim]))
        for node in nodes
        for shape in node.attr["_output_shapes"].list.shape
        if all(d.size >= 0 for d in shape.dim)
    ]
    return max(sizes), batch * model.count_params()


def state_bytes() -> tuple[int, int, int]:
    """Of `NaturalGradient()` on the autoencoder, of factors and inverses in it, and of the parameters."""
    model = compiled(kfac()(), AUTOENCODER)
    model.optimizer.build(model.trainable_variables)
    curvature = model.optimizer.curvature
    own = [v for pair in curvature.averages for v in pair]
    own += [v for pair in curvature.inverses for inverse in pair for v in inverse.variables]
    return _bytes(model.optimizer.variables), _bytes(own), _bytes(model.trainable_variables)


def _bytes(variables: list[keras.Variable]) -> int:
    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)
