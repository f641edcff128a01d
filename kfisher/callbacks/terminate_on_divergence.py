"""The end of a `fit` that diverges."""

from __future__ import annotations

from typing import Any

import keras

from kfisher._keras.optimizers import inner
from kfisher.callbacks._harmless import harmless


@harmless
class TerminateOnDivergence(keras.callbacks.Callback):
    """Stops `fit` where a kfisher optimizer would otherwise only warn that training diverges.

    That is: after five steps in a row that were skipped or taken back, or when the average loss has grown to
    more than ten times its start above it. `SophiaG`, and `trust_region=None` with a damping other than
    `LevenbergMarquardt`, keep no average: there it is the five steps alone. The reason is printed. With
    other optimizers it does nothing.

    Example:

    >>> model.fit(x, y, callbacks=[kfisher.callbacks.TerminateOnDivergence()], verbose=0)
    """

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        optimizer = inner(self.model.optimizer)
        trouble = optimizer.trouble() if hasattr(optimizer, "trouble") else None
        if trouble is not None:
            print(f"\nTraining ends at step {int(optimizer.iterations.numpy())}. {trouble}")
            self.model.stop_training = True
