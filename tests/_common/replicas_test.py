"""On one replica: what crosses is what there is, and branches are made ready when they are first taken."""

import keras
import pytest
import tensorflow as tf

import kfisher
from kfisher._common import replicas
from kfisher.jacobian import self_check

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


def in_the_graph(x):
    return replicas.cond(x > 0, lambda: x, lambda: -x, apart=False)


@pytest.mark.parametrize("name", STRATEGIES)
def test_branches_are_functions_of_their_own_and_those_of_others_are_left_alone(name):
    strategy = STRATEGIES[name]()

    @tf.function
    def function(x):
        own, other = strategy.run(nested, (x,)), strategy.run(in_the_graph, (x,))
        return own, other, tf.cond(x > 0, lambda: 1.0, lambda: 0.0)

    found = [function(tf.constant(x)) for x in (-3.0, 0.5, 3.0)]
    assert [tuple(map(float, f)) for f in found] == [(3, 3, 0), (0.5, 0.5, 1), (6, 3, 1)]
    graph = function.get_concrete_function(tf.TensorSpec([])).graph.as_graph_def()
    assert laid_out(graph.node) == [False, True, True]
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


POLICIES = {"auto": "auto", "judged": kfisher.damping.LevenbergMarquardt(0.1, every=2)}


@pytest.mark.parametrize("curvature", ["kfac", "ekfac", "gram"])
@pytest.mark.parametrize("policy", POLICIES)
def test_convolutions_are_in_no_branch_that_is_a_function_of_its_own(curvature, policy):
    """There TensorFlow does not make them those of oneDNN, and a step takes longer; what runs once may be."""
    layers = [keras.layers.Conv2D(2, 3, activation="tanh"), keras.layers.Flatten(), keras.layers.Dense(2)]
    model = kfisher.Sequential([keras.Input((5, 5, 1)), *layers])
    optimizer = kfisher.optimizers.NaturalGradient(curvature=curvature, damping=POLICIES[policy], seed=0)
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    step = tf.function(lambda x, y: model.train_step((x, y)))
    graph = step.get_concrete_function(tf.ones((4, 5, 5, 1)), tf.ones((4, 2))).graph.as_graph_def()
    library = {f.signature.name: f.node_def for f in graph.library.function}
    seen, once, message = [], [], self_check._MESSAGE.encode()

    def look(nodes, in_graph):
        for node in nodes:
            if "Conv2D" in node.op:
                seen.append(in_graph)
            lowered = node.attr["_lower_using_switch_merge"].b
            for key, value in node.attr.items():
                inner = library.get(value.func.name, [])
                if any(message in n.attr["value"].tensor.string_val for n in inner):
                    once.append(lowered)
                else:
                    look(inner, in_graph and lowered if key in ("then_branch", "else_branch") else True)

    look(graph.node, True)
    assert once == [False]
    assert len(seen) > 5 and all(seen)
