"""What the oldest versions that setup.cfg allows do otherwise."""

import keras
import pytest

OLDEST = keras.__version__.startswith("3.10.")


def not_in_oldest(reason):
    """Marks what these have not, or do in another way."""
    return pytest.mark.skipif(OLDEST, reason=reason)


ROUNDS = not_in_oldest("they round otherwise, and this path, damped by 1e-10, magnifies it")
