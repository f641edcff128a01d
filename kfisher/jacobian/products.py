"""Layers that multiply their input by a matrix, recognised by what they do.

A layer of one's own, `matmul(x, w) + b`, is as good as a Dense layer, and so is one that uses the kernel of
another, transposed. Each is tried once on a few random numbers; what it then does to a batch is compared with
automatic differentiation like everything else.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kfisher._keras.calls import in_mode
from kfisher._keras.patching import replaced
from kfisher._keras.state import raw_state_of, unnoticed


class Product(NamedTuple):
    """z = x W, or x Wᵀ, and z + b where there is a bias, before the activation.

    Attributes:
        matrix: W.
        bias: b, or `None`.
        transposed: Whether it is x Wᵀ.
        activation: What the layer applies to z, or `None`.
    """

    matrix: keras.Variable
    bias: keras.Variable | None
    transposed: bool
    activation: Callable | None


_known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def product_of(layer: keras.layers.Layer, variables: list[keras.Variable]) -> Product | None:
    """What the layer does with `variables`, those that its calls use; `None` if it is something else."""
    parts = [vars(layer).get("activation"), *variables]
    key = tuple(id(part) for part in parts)
    if key not in _known.setdefault(layer, {}):
        with tf.init_scope():
            # The parts are kept, too, so that no other object gets one of these ids.
            _known[layer][key] = _tried(layer, variables), parts
    return _known[layer][key][0]


def _tried(layer: Any, variables: list[keras.Variable]) -> Product | None:
    matrices = [v for v in variables if len(v.shape) == 2]
    biases = [v for v in variables if len(v.shape) == 1]
    if (
        isinstance(layer, keras.Model)
        or len(matrices) != 1
        or len(biases) > 1
        or len(matrices + biases) != len(variables)
    ):
        return None
    activation = vars(layer).get("activation")
    if not callable(activation) or getattr(activation, "variables", None):
        activation = None
    bias = biases[0] if biases else None
    for transposed in (False, True):
        product = Product(matrices[0], bias, transposed, activation)
        found = [_fits(layer, product, shape) for shape in ((2,), (2, 3))]
        if True in found and False not in found:
            return product
    return None


def _fits(layer: Any, product: Product, shape: tuple[int, ...]) -> bool | None:
    """True if the layer is this product, for inputs of this shape and features; `None` if it takes none."""
    random = np.random.default_rng(0)
    matrix = random.normal(size=product.matrix.shape).astype("float32")
    x = random.normal(size=(*shape, matrix.shape[int(product.transposed)])).astype("float32")
    expected = x @ (matrix.T if product.transposed else matrix)
    values = [matrix]
    if product.bias is not None:
        if product.bias.shape[0] != expected.shape[-1]:
            return False
        values.append(random.normal(size=product.bias.shape).astype("float32"))
        expected = expected + values[-1]
    variables = [product.matrix, *([] if product.bias is None else [product.bias])]

    def run(values: list, plain: bool) -> Any:
        given = [(v, tf.cast(value, v.dtype)) for v, value in zip(variables, values)]
        aside = replaced(layer, "activation", lambda z: z) if plain else contextlib.nullcontext()
        with keras.StatelessScope(given), aside, unnoticed(raw_state_of(layer)):
            return tf.convert_to_tensor(in_mode(True, lambda: layer(x)))

    try:
        z = run(values, product.activation is not None)
        change = z - run([np.zeros_like(value) for value in values], product.activation is not None)
        if change.shape != expected.shape or not change.dtype.is_floating:
            return False
        same = _close(change, expected)
        if same and product.activation is not None:
            same = _close(run(values, False), product.activation(z))
        return same
    except Exception:  # of whatever kind: it is a layer of somebody's own, on inputs that it was not made for
        return None


def _close(a: Any, b: Any) -> bool:
    a, b = (np.asarray(tf.cast(t, tf.float32)) for t in (a, b))
    return bool(np.max(np.abs(a - b)) <= 1e-2 * np.max(np.abs(b)))


def set_aside(layer: keras.layers.Layer, product: Product) -> tuple[Callable, Callable]:
    """`call` up to the activation, and the activation."""
    call = layer.call
    if product.activation is None:
        return call, lambda z: z

    def linear(*args: Any, **kwargs: Any) -> Any:
        with replaced(layer, "activation", lambda z: z):
            return call(*args, **kwargs)

    return linear, product.activation
