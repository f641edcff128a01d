"""On one replica: what crosses is what there is, and branches are made ready when they are first taken."""

import pytest
import tensorflow as tf

from kfisher._common import replicas

STRATEGIES = {
    "none": tf.distribute.get_strategy,
    "one device": lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
    "mirrored": lambda: tf.distribute.MirroredStrategy(["CPU:0"]),
}


def laid_out(nodes):
    """Of each condition, whether TensorFlow lays its branches out in the graph around them."""
    return [n.attr["_lower_using_switch_merge"].b for n in nodes if n.op in ("If", "StatelessIf")]


def nested(x):
    return replicas.cond(x > 0, lambda: replicas.cond(x > 1, lambda: 2 * x, lambda: x), lambda: -x)


@pytest.mark.parametrize("name", STRATEGIES)
def test_branches_are_functions_of_their_own_and_those_of_others_are_left_alone(name):
    strategy = STRATEGIES[name]()

    @tf.function
    def function(x):
        own = strategy.run(nested, (x,))
        return own, tf.cond(x > 0, lambda: 1.0, lambda: 0.0)

    found = [function(tf.constant(x)) for x in (-3.0, 0.5, 3.0)]
    assert [tuple(map(float, f)) for f in found] == [(3, 0), (0.5, 1), (6, 1)]
    graph = function.get_concrete_function(tf.TensorSpec([])).graph.as_graph_def()
    assert laid_out(graph.node) == [False, True]
    assert laid_out(n for f in graph.library.function for n in f.node_def) == [False]


@pytest.mark.parametrize("xla", [False, True])
def test_tapes_differentiate_them_and_do_not_touch_the_conditions_of_others(xla):
    @tf.function(jit_compile=xla)
    def function(x):
        others = tf.cond(x > 0, lambda: 1.0, lambda: 0.0)
        with tf.GradientTape() as outer, tf.GradientTape() as tape:
            outer.watch(x)
            tape.watch(x)
            y = nested(x**2)
        return tape.gradient(y, x), others

    assert [tuple(map(float, function(tf.constant(x)))) for x in (0.5, 3.0)] == [(1, 1), (12, 1)]
    if not xla:
        graph = function.get_concrete_function(tf.TensorSpec([])).graph.as_graph_def()
        assert laid_out(graph.node)[0]
