"""Which process writes, and which replica records, where several train together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from kfisher._common import replicas


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """True in the one process that writes files."""
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_type in (None, ""):
        return True
    if "chief" in resolver.cluster_spec().as_dict():
        return resolver.task_type == "chief"
    return resolver.task_type == "worker" and resolver.task_id == 0


def is_first_here() -> bool:
    """True in the first replica of this process, and where there are none; also while a graph is traced."""
    number = replicas.index()
    return number == 0 or number % len(tf.distribute.get_strategy().extended.worker_devices) == 0


def of_chief(strategy: tf.distribute.Strategy, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Tensors as the chief has them, on all workers; all have to ask."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return tensors
    found = tf.function(lambda: strategy.run(lambda: replicas.first(tensors)), autograph=False)()
    return [strategy.experimental_local_results(t)[0] for t in found]


def plain(make: Callable[[], Any]) -> Any:
    """What `make` returns, with variables that no strategy makes a copy of for each replica.

    Scopes belong to a thread.
    """
    with ThreadPoolExecutor(1) as outside:
        return outside.submit(make).result()
