"""Digits, a convnet and K-FAC on several workers: of this machine, or of a cluster.

    python scripts/distribute.py                 # starts two workers here
    TF_CONFIG='{...}' python scripts/distribute.py   # is one of the workers of a cluster

The workers take the steps that one would take with the whole batch, and the first writes one TensorBoard run.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def train(epochs: int, batch_size: int, out: Path) -> None:
    """What each worker does."""
    import keras
    import tensorflow as tf
    from kfisher_scripts.common.digits import convnet, digits

    import kfisher

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    first = strategy.cluster_resolver.task_id in (None, 0)
    keras.utils.set_random_seed(0)  # the same weights and the same order of examples on each
    x, y, held_out_x, held_out_y = digits()
    with strategy.scope():
        model = kfisher.Sequential(convnet())
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(kfisher.optimizers.NaturalGradient(seed=0), loss, metrics=["accuracy"])
    model.fit(
        x,
        y,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=(held_out_x, held_out_y),
        callbacks=[kfisher.callbacks.TensorBoard(out)],
        verbose=2 if first else 0,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="how many to start here; default: 2")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=100, help="of all workers together; default: 100")
    parser.add_argument("--out", type=Path, default=Path("runs/distribute"), metavar="DIR")
    options = parser.parse_args(arguments)
    if "TF_CONFIG" in os.environ:
        train(options.epochs, options.batch_size, options.out)
        return
    from kfisher_scripts.common import workers

    given = sys.argv[1:] if arguments is None else arguments
    workers.run([sys.executable, __file__, *given], options.workers, seconds=3600, show=True)
    print(f"\nTensorBoard: tensorboard --logdir {options.out}")


if __name__ == "__main__":
    main()
