"""Replicas of `tf.distribute`: all that crosses from one to another.

R replicas each run the same step on a part of the batch. Where the whole batch matters, a step asks here: for
sums, for rows one behind the other, for what holds on all. With a single replica, and outside of
`strategy.run`, each function is the identity, or what TensorFlow does by itself, and costs nothing.

All replicas must come by the same calls in the same order, or those that came wait for ever. What decides
whether a call is made (the predicate of `cond`) therefore has to be the same on all: a number that crossed,
not one that a clock, a random generator or a library of linear algebra has made on one host alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher._common.symmetric import from_triangle, triangle
from kfisher._keras.private import cond_of_functions


def count() -> int:
    """R, how many replicas the batch of this step has parts on; 1 outside of `strategy.run`."""
    return tf.distribute.get_strategy().num_replicas_in_sync if _in_replica() else 1


def index() -> int:
    """The number of this replica, from 0, in the order in which they hold the examples of the batch."""
    if count() == 1:
        return 0
    return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))


def total(tensors: list[tf.Tensor], symmetric: bool = False) -> list[tf.Tensor]:
    """The sums of tensors over all replicas, equal on all to the last bit.

    All of one dtype cross together.

    Args:
        tensors: Numbers, in the same shapes on all replicas.
        symmetric: Whether those with three axes are stacks of symmetric matrices: half of each crosses.
    """
    if count() == 1 or not tensors:
        return list(tensors)
    tensors = [tf.convert_to_tensor(t) for t in tensors]
    if symmetric:
        halves = [triangle(t) if t.shape.rank == 3 else t for t in tensors]
        sums = zip(tensors, total(halves))
        return [from_triangle(x) if t.shape.rank == 3 else x for t, x in sums]
    found: dict[int, tf.Tensor] = {}
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        places = [i for i, t in enumerate(tensors) if t.dtype == dtype]
        flat = tf.concat([tf.reshape(tensors[i], [-1]) for i in places], 0)
        (flat,) = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, [flat])
        parts = tf.split(flat, tf.stack([tf.size(tensors[i]) for i in places]), num=len(places))
        for i, part in zip(places, parts):
            found[i] = tf.ensure_shape(tf.reshape(part, tf.shape(tensors[i])), tensors[i].shape)
    return [found[i] for i in range(len(tensors))]


def first(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """The tensors of the first replica, on all: hosts of several kinds do not agree to the last bit."""
    if count() == 1:
        return list(tensors)
    return total(list(tensors) if index() == 0 else [tf.zeros_like(t) for t in tensors])


def everywhere(flag: tf.Tensor | bool) -> tf.Tensor | bool:
    """True if `flag`, a boolean scalar, is true on all replicas."""
    if count() == 1:
        return flag
    return tf.equal(total([tf.cast(flag, tf.int32)])[0], count())


def settled(flag: tf.Tensor, numbers: list[tf.Tensor]) -> tuple[Any, list[tf.Tensor]]:
    """`everywhere` of a flag and `first` of numbers of one dtype, if there are any, in one sum."""
    if count() == 1 or not numbers:
        return everywhere(flag), numbers
    own = numbers if index() == 0 else [tf.zeros_like(n) for n in numbers]
    *first_ones, flags = total([*own, tf.cast(flag, own[0].dtype)])
    return tf.equal(flags, count()), first_ones


def gathered(tensor: tf.Tensor, axis: int = 0) -> tf.Tensor:
    """The tensors of all replicas one behind the other along `axis`, where they may differ in size."""
    if count() == 1:
        return tensor
    dtype = tensor.dtype
    wide = tf.float32 if dtype == tf.bfloat16 else dtype  # which cannot be gathered
    tensor = tf.cast(tensor, wide)
    whole = tf.distribute.get_replica_context().all_gather(tensor, axis)
    sizes = tensor.shape.as_list()  # which TensorFlow forgets
    sizes[axis] = None
    return tf.cast(tf.ensure_shape(whole, sizes), dtype)


def cond(predicate: tf.Tensor | bool, true_fn: Callable, false_fn: Callable, apart: bool = True) -> Any:
    """`tf.cond` whose branches may cross replicas and change what is kept equal on them.

    With a single device each branch is a function of its own, made ready when it is first taken, unless
    `apart` says otherwise: convolutions become those of oneDNN in the graph itself, not in such a function.

    Args:
        predicate: A boolean scalar, the same on all replicas.
        true_fn, false_fn: As in `tf.cond`.
        apart: False for a branch that may have convolutions or loops in it.
    """
    if not _synchronizes():
        return (cond_of_functions if apart else tf.cond)(predicate, true_fn, false_fn)

    @tf.autograph.experimental.do_not_convert
    def on_each(strategy: Any, predicate: Any, true_fn: Any, false_fn: Any) -> Any:
        def branch(function: Any) -> Any:
            return lambda: strategy.extended.call_for_each_replica(_call, args=(function,))

        decides = strategy.experimental_local_results(predicate)[0]
        alone = apart and strategy.num_replicas_in_sync == 1
        return (cond_of_functions if alone else tf.cond)(decides, branch(true_fn), branch(false_fn))

    # TensorFlow allows nothing that crosses in a branch, which is a graph of its own, unless the whole
    # `tf.cond` is built outside of the replicas, and these again inside of each branch. The branches are
    # arguments, so that each replica finds its own there.
    context = tf.distribute.get_replica_context()
    return context.merge_call(on_each, args=(predicate, true_fn, false_fn))


def looped(loop: Callable, product: Callable, tensors: list[tf.Tensor]) -> Any:
    """`loop(product, *tensors)`, a loop of TensorFlow in which `product` crosses replicas.

    Args:
        loop: Returns tensors.
        product: From a tensor to one that is the same on all replicas.
        tensors: The same on all.
    """
    if not _synchronizes():
        return loop(product, *tensors)

    @tf.autograph.experimental.do_not_convert
    def on_all(strategy: Any, product: Any, tensors: Any) -> Any:
        def product_of_all(x: tf.Tensor) -> tf.Tensor:
            found = strategy.extended.call_for_each_replica(_call, args=(product, x))
            return strategy.experimental_local_results(found)[0]

        return loop(product_of_all, *(strategy.experimental_local_results(t)[0] for t in tensors))

    # Once for all, outside of the replicas, for the reason that `cond` has.
    return tf.distribute.get_replica_context().merge_call(on_all, args=(product, list(tensors)))


def assign(variable: keras.Variable, value: tf.Tensor) -> None:
    """Sets a variable to what is equal on all replicas anyway: nothing crosses."""
    if not _synchronizes():
        variable.assign(value)
        return

    @tf.autograph.experimental.do_not_convert
    def on_each(strategy: Any, variable: Any, value: Any) -> None:
        strategy.extended.update(variable, lambda own, new: own.assign(new), args=(value,), group=False)

    value = tf.cast(value, variable.dtype)
    tf.distribute.get_replica_context().merge_call(on_each, args=(variable.value, value))


def outside(function: Callable[[], None]) -> None:
    """Calls `function`, which makes variables, once for all replicas and outside of any graph."""
    if not _synchronizes():
        function()
        return

    @tf.autograph.experimental.do_not_convert
    def once(strategy: Any) -> None:
        with tf.init_scope(), strategy.scope():
            function()

    tf.distribute.get_replica_context().merge_call(once)


def agreed(number: int) -> int:
    """The number of the first replica: what each process has drawn at random before any step."""
    strategy = tf.distribute.get_strategy()
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    if not several or strategy.num_replicas_in_sync == 1 or _in_replica():
        return number
    chosen = strategy.run(lambda: first([tf.constant(number, tf.int64)])[0])
    return int(strategy.experimental_local_results(chosen)[0])


def synchronizes(strategy: tf.distribute.Strategy) -> bool:
    """True if it keeps variables equal by calls across replicas, be it with a single one."""
    kinds = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
    return isinstance(strategy, kinds)


def require_supported(name: str) -> None:
    """Raises if this is a strategy, or a distribution of Keras, that replicas are not looked after in.

    Args:
        name: That of the class that asks.
    """
    strategy = tf.distribute.get_strategy()
    of_one = (tf.distribute.OneDeviceStrategy, tf.distribute.MirroredStrategy)
    known = (*of_one, tf.distribute.MultiWorkerMirroredStrategy)
    if tf.distribute.has_strategy() and not isinstance(strategy, known):
        raise ValueError(
            f"{name} runs on replicas of `tf.distribute.MirroredStrategy` and "
            "`tf.distribute.MultiWorkerMirroredStrategy`, which all see the same weights at the same step. "
            f"Received: strategy={type(strategy).__name__}"
        )
    distribution = keras.distribution.distribution()
    if distribution is not None:
        raise ValueError(
            "On TensorFlow `keras.distribution` distributes nothing: one device would do all the work. Use "
            f"`tf.distribute.MirroredStrategy`. Received: distribution={type(distribution).__name__}"
        )


def _in_replica() -> bool:
    return tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()


def _synchronizes() -> bool:
    return _in_replica() and synchronizes(tf.distribute.get_strategy())


def _call(function: Callable, *arguments: Any) -> Any:
    return function(*arguments)
