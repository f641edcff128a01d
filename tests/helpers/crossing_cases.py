"""What crosses from one replica to another; each function is one test, in a process with several devices."""

import contextlib
import types
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from kfisher_scripts.benchmarking import scaling

from helpers.replicated import LABELS, X, dense, double, mirrored, optimizer, trained, weights_of
from kfisher._common import places, replicas
from kfisher.curvature import KFAC, _damped_inverse, _factorisation, _sharing
from kfisher.curvature._examples import in_place, moment_of


def on_devices(count, function):
    """What it returns on each of so many replicas."""
    strategy = mirrored(count)
    found = tf.function(lambda: strategy.run(function), autograph=False)()
    return list(zip(*(strategy.experimental_local_results(t) for t in found)))


@contextlib.contextmanager
def crossings():
    """A list that takes up, while the block is traced, how many numbers the first replica sums with others
    each time (`None` if only the batch tells), and when: in every step ("step"), in each "update" of K-FAC's
    factors or each "inversion", or "sometimes"."""
    original, found, when = tf.distribute.ReplicaContext.all_reduce, [], {}

    def all_reduce(self, op, value, *arguments, **settings):
        if replicas.index() == 0:
            sizes = [t.shape.num_elements() for t in tf.nest.flatten(value)]
            graph = tf.compat.v1.get_default_graph()
            usual = "sometimes" if "cond" in graph.name else "step"
            found.append((None if None in sizes else sum(sizes), when.get(graph, usual)))
        return original(self, op, value, *arguments, **settings)

    def noted(kind, method, name):
        def call(*arguments):
            when[tf.compat.v1.get_default_graph()] = name
            return method(*arguments)

        return mock.patch.object(kind, method.__name__, call)

    with (
        mock.patch.object(tf.distribute.ReplicaContext, "all_reduce", all_reduce),
        noted(KFAC, KFAC._update, "update"),
        noted(KFAC, KFAC._invert, "inversion"),
    ):
        yield found


def half_of_each_symmetric_matrix():
    """And nothing is rounded on the way; others cross whole."""
    rng = np.random.default_rng(0)
    squares, others = rng.normal(size=(2, 2, 5, 5)), rng.normal(size=(2, 3))
    squares += squares.swapaxes(2, 3)

    def here():
        i = replicas.index()
        return replicas.total([tf.constant(squares[i]), tf.constant(others[i])], symmetric=True)

    with crossings() as sent:
        found = on_devices(2, here)
    for local in found:
        assert np.array_equal(local[0], squares.sum(0)) and np.array_equal(local[1], others.sum(0))
    assert [numbers for numbers, _ in sent] == [2 * 15 + 3]


def sums_are_as_many_as_on_paper():
    """In float32, as nearly always: what is of another dtype crosses by itself. With batches of one size."""
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    try:
        with crossings() as sent:
            trained(mirrored(2), keras.optimizers.Adam, steps=1)
        assert _counts(sent) == {"step": scaling.ADAM}
        data = tf.data.Dataset.from_tensor_slices((X.astype("float32"), LABELS))
        with mirrored(2).scope():
            model, loss = dense()
            model.compile(optimizer()(), loss)
        with crossings() as sent:
            model.fit(data.batch(len(X), drop_remainder=True), verbose=0)
    finally:
        double()
    assert _counts(sent) == {
        "step": scaling.STEP,
        "update": scaling.UPDATE,
        "inversion": scaling.INVERSION,
    }


def sizes_that_a_graph_does_not_have(make_model, least):
    """Parts of two sizes, each known when the graph is made: an error, and no weight changes."""
    strategy = mirrored(2)
    with strategy.scope():
        model, loss = make_model()
        model.compile(optimizer()(), loss)
    before = weights_of(model)

    def here():
        i = replicas.index()
        x, y = tf.constant(X[: least + i]), tf.constant(LABELS[: least + i])
        model.optimizer.observe(model, x, y)
        weights = model.trainable_variables
        with tf.GradientTape() as tape:
            value = model.optimizer.scale_loss(loss(y, model(x)))
        model.optimizer.apply_gradients(zip(tape.gradient(value, weights), weights))

    try:
        tf.function(lambda: strategy.run(here), autograph=False)()
    except tf.errors.InvalidArgumentError as error:
        assert "batches of different sizes" in str(error)
    else:
        raise AssertionError("nothing was raised")
    assert all(np.array_equal(a, b) for a, b in zip(before, weights_of(model)))


def _counts(sent):
    kinds = [when for _, when in sent if when != "sometimes"]
    return {kind: kinds.count(kind) for kind in kinds}


def are_on_paper(sent, rows):
    """True if the sums of K-FAC in each step are as many as the benchmark has on paper, and of factors with
    so many rows their triangles cross."""
    factors = sum(n * (n + 1) // 2 for n in rows)
    most = max(numbers for numbers, when in sent if when == "update")
    # Beside the factors there are a few numbers on the batch.
    # Of a batch of any size, how many examples each replica has.
    return _counts(sent)["step"] == scaling.STEP + 1 and factors < most < factors + 10


def examples_cross_instead():
    """Parts of several sizes, one of which counts for nothing, come one behind another; narrow ones stay."""
    rows = np.arange(1.0, 36).reshape(5, 7)
    sizes, starts = (3, 0, 2), (0, 0, 3)

    def here():
        i = replicas.index()
        own = rows[starts[i] : starts[i] + sizes[i]] if sizes[i] else np.zeros((1, 7))
        with places.knowing(tf.constant(sizes)):
            part = types.SimpleNamespace(most=4, placed=places.placed(tf.shape(own)[0]))
        assert in_place(tf.constant(own[:, :6]), 0, part) is None  # 4 examples of 6 numbers, for 21
        two = tf.constant(np.stack([own, own]))
        assert in_place(two, 1, part) is None  # 8 examples of 7 numbers, for 28
        return replicas.total([in_place(tf.constant(own), 0, part)])

    for (found,) in on_devices(3, here):
        assert np.array_equal(found, rows)
        assert np.allclose(moment_of(found[:, tf.newaxis])[0], rows.T @ rows)
    assert np.isnan(moment_of(tf.constant([[[1.0]], [[1e20]]]))).all()  # a sum that float32 does not hold


def factorisations_are_shared_out():
    """Each is made on one of two replicas only, and is on both what it is without."""
    rng = np.random.default_rng(0)

    def moment(groups, n, rank):
        rows = rng.normal(size=(groups, rank, n))
        return tf.constant(np.einsum("gri,grj->gij", rows, rows) / rank, tf.float32)

    # Formed, a diagonal, of two groups, truncated, formed at that size; and what becomes its diagonal.
    factors = [moment(1, 5, 9), tf.linalg.diag_part(moment(2, 4, 9)), moment(2, 3, 9), moment(1, 256, 20)]
    factors += [moment(1, 257, 600), moment(1, 258, 600)]
    factors += [tf.eye(260, batch_shape=[1]) + 1e-4 * moment(1, 260, 300)]
    shifts = [tf.fill([f.shape[0]], 1e-3) for f in factors]
    squares = [f for f in factors if f.shape.rank == 3]
    kinds = [_damped_inverse.damped_inverse(_variable, keras.Variable(f), 1.0) for f in factors]

    def made(inverses, eigensystems):
        pairs = eigensystems(squares, False)
        return [*inverses(kinds, factors, shifts, 1.0, False), *(t for pair in pairs for t in pair)]

    # In a graph, too, where TensorFlow's 1 / x differs in its last bit.
    expected = tf.function(made, autograph=False)(_damped_inverse.compute, _factorisation.eigensystems)
    ranks = [int(t) for t in expected if t.dtype == tf.int32]
    assert ranks == [20, 0, 0, -1]
    sizes = []

    def counted(function):
        def call(matrices, *arguments):
            sizes.extend(m.shape[-1] for m in matrices)
            return function(matrices, *arguments)

        return call

    with contextlib.ExitStack() as stack:
        for module, name in (
            (_damped_inverse, "inverses"),
            (_damped_inverse, "_truncated"),
            (_factorisation, "eigensystems"),
        ):
            stack.enter_context(mock.patch.object(module, name, counted(getattr(module, name))))
        found = on_devices(2, lambda: made(_sharing.compute, _sharing.eigensystems))
    assert sorted(sizes) == sorted(2 * [f.shape[-1] for f in squares])  # inverted once, decomposed once
    for local in found:
        for a, b in zip(local, expected, strict=True):
            assert np.array_equal(a, b)


def shared_factorisations_change_nothing(curvature):
    def steps(shared):
        settings = {"update_every": 2, "share_factorisations": shared}
        curvature_ = {"class_name": f"kfisher>{curvature}", "config": settings}
        model = trained(mirrored(2), optimizer(curvature_), steps=4)
        assert int(model.optimizer.curvature.factorisations.numpy()) > 1
        assert model.optimizer.curvature.get_config()["share_factorisations"] == shared
        return weights_of(model)

    for a, b in zip(steps(False), steps(True)):
        assert np.array_equal(a, b)


def _variable(shape, dtype, name):
    return keras.Variable(tf.zeros(shape, dtype), dtype=dtype.name, trainable=False, name=name)
