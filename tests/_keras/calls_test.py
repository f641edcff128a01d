"""The training mode that goes from layer to layer."""

import pytest

from kfisher._keras.calls import in_mode, training_mode


@pytest.mark.parametrize("mode", [True, False])
def test_it_is_that_of_the_block_and_stays_so_however_often_somebody_asks(mode):
    assert training_mode() is None
    assert in_mode(mode, lambda: [training_mode(), training_mode()]) == [mode, mode]
    assert training_mode() is None
