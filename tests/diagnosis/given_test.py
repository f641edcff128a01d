"""What `diagnose` may be given, and what a notebook shows of its verdict."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import kfisher
from kfisher._common.models import first_batch

X = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
Y = X.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def test_a_dataset_stands_for_its_first_batch_and_a_notebook_shows_the_verdict(model):
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(20)
    verdict = kfisher.diagnose(model, batches)
    assert verdict.to_json() == kfisher.diagnose(model, X[:20], Y[:20]).to_json()
    shown = verdict._repr_html_()
    assert f"<b>{verdict.sentence}</b>" in shown
    assert len(re.findall("<br>", shown)) == len(str(verdict).splitlines()) - 1
    assert "border-left: 6px solid #" in shown


def test_a_pydataset_stands_for_its_first_batch_and_arrays_for_themselves():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return X[20 * index :][:20], Y[20 * index :][:20], np.ones(20)

    for found, expected in zip(first_batch(Batches(), None, None), (X[:20], Y[:20], np.ones(20))):
        np.testing.assert_array_equal(found, expected)
    assert first_batch(X, None, None) == (X, None, None)


def test_a_model_without_optimizer_has_taken_no_step():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(None, "mse")
    assert kfisher.diagnose(model, X, Y).step == 0


def test_what_is_missing_is_said(model):
    with pytest.raises(ValueError, match="labels of the data. Received: y=None"):
        kfisher.diagnose(model, X)
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"not compiled with a loss.* Call `model.compile\(loss="):
        kfisher.diagnose(other, X, Y)
    other.compile("sgd", keras.losses.Huber())
    with pytest.raises(ValueError, match="pass `likelihood=` to say which"):
        kfisher.diagnose(other, X, Y)
