"""The models: tiny or with random weights and small images, on random data that can be learnt by heart."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

import kfisher
from kfisher_scripts.models.layers import Batches, OwnStep, Sampling, Tokens, Transposed, block

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Work(NamedTuple):
    """A model, what `compile` takes beside the optimizer, and x and y of `fit`."""

    model: keras.Model
    compiled: dict[str, Any]
    x: Any
    y: Any


class Case(NamedTuple):
    """One row of the table.

    Attributes:
        make: Gives the work, from the number of examples.
        batch: Its batch size.
        small: Whether it is small enough for the exact step in function space.
        quick: Whether it belongs to the quick ones.
        policy: The dtype policy under which it is made.
        needs: A package that it takes beside those of kfisher; left out where that is not installed.
    """

    make: Callable[[int], Work]
    batch: int = 8
    small: bool = False
    quick: bool = True
    policy: str = "float32"
    needs: str = ""


def _random() -> np.random.Generator:
    return np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return _random().normal(size=shape).astype("float32")


def integers(high: int, *shape: int) -> np.ndarray:
    return _random().integers(0, high, shape).astype("int32")


def application(name: str) -> Case:
    def make(size: int) -> Work:
        model = getattr(keras.applications, name)(
            weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None
        )
        return Work(kfisher.attach(model), {"loss": LOGITS}, numbers(size, 32, 32, 3), integers(10, size))

    return Case(make, quick=False)


def encoder(size: int) -> Work:
    x = keras.Input((16,), dtype="int32")
    h = Tokens(16, 500, 32)(x)
    for _ in range(2):
        h = block(h, 4, 32)
    outputs = layers.Dense(4)(layers.GlobalAveragePooling1D()(h))
    return Work(kfisher.Model(x, outputs), {"loss": LOGITS}, integers(500, size, 16), integers(4, size))


def decoder(size: int) -> Work:
    x, start = keras.Input((12,), dtype="int32"), keras.Input((12,), dtype="int32")
    memory = block(Tokens(12, 200, 32)(x), 4, 32)
    outputs = layers.Dense(200)(block(Tokens(12, 200, 32)(start), 4, 32, memory, causal=True))
    words = integers(200, size, 12)
    return Work(kfisher.Model([x, start], outputs), {"loss": LOGITS}, [words, words[:, ::-1].copy()], words)


def tied_language_model(size: int) -> Work:
    x, table = keras.Input((16,), dtype="int32"), layers.ReversibleEmbedding(500, 32)
    h = block(table(x), 4, 32, causal=True)
    words = integers(500, size, 17)
    return Work(kfisher.Model(x, table(h, reverse=True)), {"loss": LOGITS}, words[:, :-1], words[:, 1:])


def tied_autoencoder(size: int) -> Work:
    x, first, second = keras.Input((784,)), layers.Dense(128, "relu"), layers.Dense(32)
    code = second(first(x))
    outputs = Transposed(first, "sigmoid")(Transposed(second, "relu")(code))
    pictures = _random().uniform(size=(size, 784)).astype("float32")
    return Work(kfisher.Model(x, outputs), {"loss": "binary_crossentropy"}, pictures, pictures)


def tagger(size: int) -> Work:
    x = keras.Input((None,), dtype="int32")
    h = layers.Embedding(500, 32, mask_zero=True)(x)
    h = layers.Bidirectional(layers.LSTM(32, return_sequences=True))(h)
    h = layers.Bidirectional(layers.GRU(32, return_sequences=True))(h)
    words = integers(500, size, 20)
    words[:, 15:] *= _random().integers(0, 2, (size, 1)).astype("int32")
    return Work(kfisher.Model(x, layers.Dense(9)(h)), {"loss": LOGITS}, words, words % 9)


def u_net(size: int) -> Work:
    def convolved(h: Any, filters: int) -> Any:
        return layers.Activation("relu")(
            layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(h))
        )

    x = keras.Input((32, 32, 3))
    first = convolved(x, 8)
    second = convolved(layers.MaxPooling2D()(first), 16)
    bottom = convolved(layers.MaxPooling2D()(second), 32)
    up = convolved(layers.concatenate([layers.UpSampling2D()(bottom), second]), 16)
    up = convolved(layers.concatenate([layers.UpSampling2D()(up), first]), 8)
    pictures = numbers(size, 32, 32, 3)
    outputs = layers.Conv2D(1, 1, activation="sigmoid")(up)
    return Work(kfisher.Model(x, outputs), {"loss": "binary_crossentropy"}, pictures, pictures[..., :1] > 0)


def vae(size: int) -> Work:
    x = keras.Input((64,))
    h = layers.Dense(64, "relu")(x)
    z = Sampling()(layers.Dense(4)(h), layers.Dense(4)(h))
    outputs = layers.Dense(64, "sigmoid")(layers.Dense(64, "relu")(z))
    pictures = (_random().uniform(size=(size, 64)) > 0.5).astype("float32")
    return Work(kfisher.Model(x, outputs), {"loss": "binary_crossentropy"}, pictures, pictures)


def towers(size: int) -> Work:
    user, item = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
    sides = [
        layers.Dense(16)(layers.Dense(32, "relu")(layers.Embedding(100_000, 16)(x))) for x in (user, item)
    ]
    outputs = layers.Dense(1, "sigmoid")(layers.Dot(1)(sides))
    ids = [integers(100_000, size), integers(100_000, 2, size)[1]]
    return Work(kfisher.Model([user, item], outputs), {"loss": "binary_crossentropy"}, ids, integers(2, size))


def several(size: int) -> Work:
    a, b = keras.Input((8,), name="a"), keras.Input((4,), name="b")
    h = layers.Dense(32, "relu")(layers.Concatenate()([a, b]))
    outputs = {"number": layers.Dense(1, name="number")(h), "kind": layers.Dense(3, name="kind")(h)}
    losses = {"number": "mse", "kind": LOGITS}
    return Work(
        kfisher.Model({"a": a, "b": b}, outputs),
        {"loss": losses, "loss_weights": {"number": 0.5, "kind": 1.0}},
        {"a": numbers(size, 8), "b": numbers(size, 4)},
        {"number": numbers(size, 1), "kind": integers(3, size)},
    )


def own_step(size: int) -> Work:
    return Work(OwnStep(), {"loss": LOGITS}, numbers(size, 20), integers(10, size))


def lora(size: int) -> Work:
    inner = [layers.Dense(64, "relu"), layers.Dense(64, "relu")]
    model = kfisher.Sequential([keras.Input((20,)), *inner, layers.Dense(10)])
    for layer in inner:
        layer.enable_lora(4)
    return Work(model, {"loss": LOGITS}, numbers(size, 20), integers(10, size))


def convnet(size: int) -> Work:
    model = kfisher.Sequential(
        [
            keras.Input((16, 16, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, dtype="float32"),
        ]
    )
    return Work(model, {"loss": LOGITS}, numbers(size, 16, 16, 1), integers(10, size))


def frozen(size: int) -> Work:
    """A new head on a base of 27 million parameters."""
    base = keras.Sequential([keras.Input((64,)), *[layers.Dense(3000, "relu") for _ in range(4)]])
    base.trainable = False
    x = keras.Input((64,))
    model = kfisher.Model(x, layers.Dense(10)(base(x)))
    return Work(model, {"loss": LOGITS}, numbers(size, 64), integers(10, size))


def lengths(size: int) -> Work:
    model = kfisher.Sequential(
        [keras.Input((None,), dtype="int32"), layers.Embedding(200, 16), layers.LSTM(16), layers.Dense(4)]
    )
    return Work(model, {"loss": LOGITS}, Batches(integers(200, size, 20), integers(4, size), 8), None)


def _backbone(name: str) -> keras.Model:
    """One of KerasHub, of two small blocks."""
    import keras_hub

    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "intermediate_dim": 64}
    return getattr(keras_hub.models, name)(vocabulary_size=500, max_sequence_length=16, **sizes)


def bert(size: int) -> Work:
    backbone = _backbone("BertBackbone")
    outputs = layers.Dense(4)(backbone.output["pooled_output"])
    words = integers(500, size, 16)
    x = {"token_ids": words, "segment_ids": 0 * words, "padding_mask": 0 * words + 1}
    return Work(kfisher.Model(backbone.input, outputs), {"loss": LOGITS}, x, integers(4, size))


def gpt(size: int) -> Work:
    backbone = _backbone("GPT2Backbone")
    outputs = backbone.token_embedding(backbone.output, reverse=True)
    words = integers(500, size, 17)
    x = {"token_ids": words[:, :-1], "padding_mask": 0 * words[:, :-1] + 1}
    return Work(kfisher.Model(backbone.input, outputs), {"loss": LOGITS}, x, words[:, 1:])


CASES = {
    **{
        name: application(name)
        for name in (
            *("MobileNetV2", "MobileNetV3Small", "ResNet50V2", "EfficientNetV2B0", "DenseNet121"),
            "ConvNeXtTiny",
        )
    },
    "Transformer encoder": Case(encoder, 32),
    "Transformer decoder": Case(decoder, 32),
    "language model, tied": Case(tied_language_model, 32),
    "BERT (KerasHub)": Case(bert, 32, needs="keras_hub"),
    "GPT-2 (KerasHub), tied": Case(gpt, 32, needs="keras_hub"),
    "BiLSTM + BiGRU tagger, masked": Case(tagger, 32),
    "texts of many lengths, PyDataset": Case(lengths, 8),
    "U-Net": Case(u_net, 8),
    "VAE, add_loss": Case(vae, 32),
    "autoencoder, tied": Case(tied_autoencoder, 32),
    "two towers, 100 000 rows": Case(towers, 64),
    "several inputs and outputs": Case(several, 32, small=True),
    "own train_step": Case(own_step, 32, small=True),
    "LoRA": Case(lora, 32, small=True),
    "convnet, BatchNormalization": Case(convnet, 32, small=True),
    "convnet, mixed_float16": Case(convnet, 32, policy="mixed_float16"),
    "frozen base of 27 M": Case(frozen, 32, small=True, quick=False),
}
AVAILABLE = {
    name: case for name, case in CASES.items() if not case.needs or importlib.util.find_spec(case.needs)
}
