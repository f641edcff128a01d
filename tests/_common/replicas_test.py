"""On one replica: what crosses is what there is, and branches cost nothing before they are taken."""

import tensorflow as tf

from kfisher._common import replicas


def test_branches_are_functions_of_their_own_and_those_of_others_are_left_alone():
    @tf.function
    def function(x):
        own = replicas.cond(x > 0, lambda: replicas.cond(x > 1, lambda: 2 * x, lambda: x), lambda: -x)
        return own + tf.cond(x > 0, lambda: 1.0, lambda: 0.0)

    assert [float(function(tf.constant(x))) for x in (-3.0, 0.5, 3.0)] == [3.0, 1.5, 7.0]
    graph = function.get_concrete_function(tf.TensorSpec([])).graph
    laid_out = [
        operation.get_attr("_lower_using_switch_merge")
        for operation in graph.get_operations()
        if operation.type in ("If", "StatelessIf")
    ]
    assert laid_out == [False, True]
    library = graph.as_graph_def().library.function
    nested = [n for f in library for n in f.node_def if n.op in ("If", "StatelessIf")]
    assert [n.attr["_lower_using_switch_merge"].b for n in nested] == [False]
