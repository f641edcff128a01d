"""What is said of divergence, in a graph."""

import keras
import numpy as np
import tensorflow as tf
from helpers.models import network

from kfisher.optimizers import NaturalGradient

X = np.random.default_rng(0).normal(size=(8, 3))


def ancestors(nodes, name):
    """The operations of a function that come before one of them, and itself."""
    found, left = set(), [name]
    while left:
        name = left.pop()
        if name in nodes and name not in found:
            found.add(name)
            left += [i.lstrip("^").split(":")[0] for i in nodes[name].input]
    return found


def test_the_counts_that_are_said_are_read_when_they_have_changed():
    """The call of Python waits for reads of its own, which a graph keeps in their place among the changes."""
    model = network(NaturalGradient(seed=0), keras.layers.Identity())
    step = tf.function(model.train_step).get_concrete_function((X, np.arange(8) % 3))
    waits = []
    for function in step.graph.as_graph_def().library.function:
        nodes = {node.name: node for node in function.node_def}
        for name in [
            n for n, node in nodes.items() if node.op in ("PyFunc", "EagerPyFunc") and "divergence" in n
        ]:
            waits.append([nodes[n].op for n in ancestors(nodes, name)].count("ReadVariableOp"))
    # Steps that failed in a row, were skipped, taken back; damping; all steps; what the guard remembers.
    assert waits and min(waits) == 6
