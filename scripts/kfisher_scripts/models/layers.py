"""Layers and models of one's own, as tutorials have them."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

import kfisher


class Tokens(layers.Layer):
    """Tokens and their positions in one layer."""

    def __init__(self, length: int, words: int, width: int):
        super().__init__()
        self.token, self.position = layers.Embedding(words, width), layers.Embedding(length, width)
        self.length = length

    def call(self, x: Any) -> Any:
        return self.token(x) + self.position(ops.arange(self.length))


class Transposed(layers.Layer):
    """The kernel of another layer, transposed."""

    def __init__(self, dense: layers.Dense, activation: str):
        super().__init__()
        self.dense, self.activation = dense, keras.activations.get(activation)

    def build(self, shape: Any) -> None:
        self.bias = self.add_weight(shape=(self.dense.kernel.shape[0],), name="bias")

    def call(self, x: Any) -> Any:
        return self.activation(ops.matmul(x, ops.transpose(self.dense.kernel)) + self.bias)


def block(h: Any, heads: int, width: int, memory: Any = None, causal: bool = False) -> Any:
    """One block of a Transformer, after what it attends to."""
    seen = layers.MultiHeadAttention(heads, width // heads, dropout=0.1)(h, h, use_causal_mask=causal)
    h = layers.LayerNormalization()(h + seen)
    if memory is not None:
        h = layers.LayerNormalization()(h + layers.MultiHeadAttention(heads, width // heads)(h, memory))
    inner = layers.Dense(width)(layers.Dense(4 * width, "gelu")(h))
    return layers.LayerNormalization()(h + layers.Dropout(0.1)(inner))


class Sampling(layers.Layer):
    """The latent variables of a VAE, with their KL divergence as a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, mean: Any, log_variance: Any) -> Any:
        divergence = ops.sum(ops.exp(log_variance) + ops.square(mean) - 1 - log_variance, -1) / 2
        self.add_loss(1e-3 * ops.mean(divergence))
        noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
        return mean + ops.exp(log_variance / 2) * noise


class OwnStep(kfisher.FisherMixin, keras.Model):
    """A classifier with a `train_step` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = keras.Sequential([layers.Dense(32, "relu"), layers.Dense(10)])

    def call(self, x: Any) -> Any:
        return self.body(x)

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(grads, self.trainable_variables))
        return {"loss": loss}


class Batches(keras.utils.PyDataset):
    """Batches of texts whose lengths differ from batch to batch."""

    def __init__(self, x: Any, y: Any, batch: int):
        super().__init__()
        self.x, self.y, self.batch = x, y, batch

    def __len__(self) -> int:
        return len(self.x) // self.batch

    def __getitem__(self, i: int) -> Any:
        rows = slice(i * self.batch, (i + 1) * self.batch)
        length = self.x.shape[1] - i % 5
        return self.x[rows, :length], self.y[rows]
