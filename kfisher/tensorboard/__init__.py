"""The tab "Fisher" of TensorBoard: what the callbacks of kfisher logged, as charts.

`tensorboard --logdir runs` finds it by the entry point group `tensorboard_plugins`; nothing needs to be
imported or switched on. `plugin` serves the page and the numbers, `logs` reads event files through
TensorBoard's data provider, `compact` makes what is sent small; the page itself is in `static`.
"""

from kfisher.tensorboard.plugin import FisherLoader, FisherPlugin

__all__ = ["FisherLoader", "FisherPlugin"]
