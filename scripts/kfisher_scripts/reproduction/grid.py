"""Full-batch descent at many (step size, damping) pairs at once, in one compiled float64 program.

For a model that is linear in its parameters, f = J θ, with one output, so that at the parameters
theta_b of cell b

    L_b = Σ_n w_n l(f_bn, y_n),   ∇L_b = -Jᵀ (w o score_b),   F_b = Σ_n w_n v_bn² J_n J_nᵀ.

Scores and v come from `kfisher.likelihoods` and `kfisher.fisher`, weights and losses from the compiled Keras
model, so that a cell is what a kfisher optimizer does on that model. What is different is only the order of
the work: F_b of all cells is one product of (cells x N) weights with the (N x P (P + 1) / 2) products of
pairs of features, of which many are equal where the features are binary.
"""

from __future__ import annotations

from functools import cached_property

import keras
import numpy as np
import tensorflow as tf

from kfisher import fisher as fishers
from kfisher._keras import compiled_loss
from kfisher.likelihoods.weighted import Head

# A factor is used again while every weight of F is within this share of those that it was made of. Then
# (1 - e) F <= F' <= (1 + e) F as matrices, so whatever its condition the step is off by e, in the norm of F.
_UNCHANGED = 1e-10
# Cells that run side by side: their factors (124 x 124 at most) should stay near the processor.
CELLS = 256


class Objective:
    """A compiled Keras model that is linear in its parameters, on a full batch, at many θ at once."""

    def __init__(self, model: keras.Model, x: np.ndarray, y: np.ndarray):
        """
        Args:
            model: Built and compiled, with one output.
            x, y: The data, `(N, D)` and `(N,)`.
        """
        labels = tf.constant(y[:, np.newaxis])
        (term,) = compiled_loss.terms(model.compute_loss, x, labels, model(x), None)
        head = Head(term, None, True)
        self._loss, self._likelihood = term.loss, head.likelihood
        self._labels = head.labels
        self.weights = tf.reshape(tf.square(head.root_weights), [-1])
        self.jacobian = tf.constant(_jacobian(model, x))
        self.size = self.jacobian.shape[1]

    @cached_property
    def _products(self) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.init_scope():
            columns, where = _distinct_products(self.jacobian.numpy())
            return tf.constant(columns), tf.constant(where)

    def outputs(self, theta: tf.Tensor) -> tf.Tensor:
        """f, `(B, N)`."""
        return tf.matmul(theta, self.jacobian, transpose_b=True)

    def loss(self, f: tf.Tensor) -> tf.Tensor:
        """L, `(B,)`."""
        values = self._loss.call(self._labels_like(f), f[..., tf.newaxis])
        return tf.linalg.matvec(values, self.weights)

    def gradient(self, f: tf.Tensor) -> tf.Tensor:
        """∇L, `(B, P)`."""
        score = self._likelihood.score(f[..., tf.newaxis], self._labels_like(f))[..., 0]
        return -tf.matmul(score * self.weights, self.jacobian)

    def curvature_weights(self, f: tf.Tensor, fisher: fishers.Fisher) -> tf.Tensor:
        """w_n v_n², `(B, N)`."""
        seed = tf.zeros(2, tf.int32)  # for labels that are drawn: none are here
        v = fisher.vectors(self._likelihood, f[..., tf.newaxis], self._labels_like(f), seed)
        return self.weights * tf.square(v[0, ..., 0])

    def matrices(self, weights: tf.Tensor) -> tf.Tensor:
        """F, `(B, P, P)`, from its weights."""
        columns, where = self._products
        sums = tf.matmul(weights, columns)
        return tf.reshape(tf.gather(sums, where, axis=1), [-1, self.size, self.size])

    def _labels_like(self, f):
        return tf.broadcast_to(self._labels, tf.concat([tf.shape(f), [1]], 0))


class Descent:
    """θ_b ← θ_b - rate_b (F_b + damping_b I)⁻¹ ∇L_b, in every cell b, compiled once.

    A step whose solution is not finite is not taken, as in `kfisher.optimizers.NaturalGradient`. A cell whose
    loss exceeds `limit` times that of its start, or is not finite, is dropped.
    """

    def __init__(self, objective: Objective, fisher: str | None, cells: int = CELLS, limit: float = 100.0):
        """
        Args:
            objective: What is minimised.
            fisher: `"exact"` or `"empirical"`, or `None` for plain gradient descent.
            cells: The largest number of cells in one call.
            limit: See above.
        """
        if fisher not in (None, "exact", "empirical"):
            raise ValueError(f"`fisher` must be 'exact', 'empirical' or None. Received: fisher={fisher!r}")
        self.objective, self.cells, self._limit = objective, cells, limit
        self._fisher = None if fisher is None else fishers.get(fisher)
        p, n = objective.size, objective.jacobian.shape[0]
        plain = fisher is None
        self._theta = tf.Variable(tf.zeros([cells, p], tf.float64))
        self._final = tf.Variable(tf.zeros([cells], tf.float64))
        self._alive = tf.Variable(tf.zeros([cells], tf.bool))
        self._factor = None if plain else tf.Variable(tf.zeros([cells, p, p], tf.float64))
        self._seen = None if plain else tf.Variable(tf.zeros([cells, n], tf.float64))

    def __call__(
        self, rates: np.ndarray, dampings: np.ndarray, steps: int, starts: np.ndarray | None = None
    ) -> np.ndarray:
        """The loss of each cell after `steps` steps, infinite where it was dropped.

        Args:
            rates, dampings: `(B,)` with B at most `cells`.
            starts: `(B, P)`, zeros by default.
        """
        return self._run(rates, dampings, steps, starts, False)[0]

    def paths(self, rates, dampings, steps: int, starts=None) -> np.ndarray:
        """θ along the way, `(steps + 1, B, P)`, shorter where all cells are dropped; NaN where one is."""
        return self._run(rates, dampings, steps, starts, True)[1]

    def _run(self, rates, dampings, steps, starts, keep):
        count = len(rates)
        if count > self.cells or len(dampings) != count:
            raise ValueError(
                f"`rates` and `dampings` must be equally many, at most {self.cells}. Received: {count} rates "
                f"and {len(dampings)} dampings"
            )
        given = np.zeros([count, self.objective.size]) if starts is None else np.asarray(starts, float)
        rest = self.cells - count
        self._theta.assign(np.pad(given, [(0, rest), (0, 0)]))
        self._alive.assign(np.arange(self.cells) < count)
        if self._seen is not None:
            self._seen.assign(tf.fill(self._seen.shape, tf.constant(-1.0, tf.float64)))
        self._final.assign(tf.fill([self.cells], tf.constant(np.inf, tf.float64)))
        path = self._program(
            tf.constant(np.pad(rates, (0, rest)), tf.float64),
            tf.constant(np.pad(dampings, (0, rest), constant_values=1.0), tf.float64),
            tf.constant(steps),
            keep,
        )
        return self._final.numpy()[:count], path.numpy()[:, :count]

    @tf.function(autograph=False)
    def _program(self, rates, dampings, steps, keep):
        start = self.objective.loss(self.objective.outputs(self._theta))
        dtype, shape = tf.float64, self._theta.shape
        path = tf.TensorArray(dtype, size=0, dynamic_size=True, element_shape=shape)

        def advance(step, path):
            live = tf.where(self._alive)[:, 0]
            theta = tf.gather(self._theta, live)
            f = self.objective.outputs(theta)
            loss = self.objective.loss(f)
            good = loss <= self._limit * tf.gather(start, live)  # not if it is NaN
            self._alive.scatter_nd_update(live[:, tf.newaxis], good)
            loss = tf.where(good, loss, tf.constant(np.inf, dtype))
            self._final.scatter_nd_update(live[:, tf.newaxis], loss)
            if keep:
                path = path.write(step, tf.where(self._alive[:, tf.newaxis], self._theta, np.nan))
            live, theta, f = (tf.boolean_mask(t, good) for t in (live, theta, f))

            def take():
                delta = self._solve(live, f, tf.gather(dampings, live))
                finite = tf.reduce_all(tf.math.is_finite(delta), -1, keepdims=True)
                moved = theta - tf.gather(rates, live)[:, tf.newaxis] * delta
                self._theta.scatter_nd_update(live[:, tf.newaxis], tf.where(finite, moved, theta))
                return tf.constant(0)

            tf.cond((step < steps) & (tf.size(live) > 0), take, lambda: tf.constant(0))
            return step + 1, path

        _, path = tf.while_loop(
            lambda step, _: (step <= steps) & tf.reduce_any(self._alive),
            advance,
            (tf.constant(0), path),
            parallel_iterations=1,
        )
        return path.stack() if keep else tf.zeros([0, *shape], dtype)

    def _solve(self, live, f, dampings):
        """(F + damping I)⁻¹ ∇L of the live cells, `(l, P)`."""
        gradient = self.objective.gradient(f)
        if self._factor is None:
            return gradient
        weights = self.objective.curvature_weights(f, self._fisher)
        seen = tf.gather(self._seen, live)
        changed = tf.reduce_any(tf.abs(weights - seen) > _UNCHANGED * seen, 1)

        def factorise():
            cells, new = tf.boolean_mask(live, changed), tf.boolean_mask(weights, changed)
            shifted = self.objective.matrices(new)
            shift = tf.boolean_mask(dampings, changed)[:, tf.newaxis]
            shifted = tf.linalg.set_diag(shifted, tf.linalg.diag_part(shifted) + shift)
            self._seen.scatter_nd_update(cells[:, tf.newaxis], new)
            self._factor.scatter_nd_update(cells[:, tf.newaxis], tf.linalg.cholesky(shifted))
            return tf.constant(0)

        done = tf.cond(tf.reduce_any(changed), factorise, lambda: tf.constant(0))
        with tf.control_dependencies([done]):
            factor = tf.gather(self._factor, live)
        return tf.linalg.cholesky_solve(factor, gradient[..., tf.newaxis])[..., 0]


def _jacobian(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """J, `(N, P)`: the outputs of the model at each unit vector of its parameters."""
    variables = model.trainable_variables
    sizes = [int(np.prod(v.shape)) for v in variables]

    def outputs(theta):
        parts = np.split(theta, np.cumsum(sizes)[:-1])
        values = [(v, tf.constant(part.reshape(v.shape))) for v, part in zip(variables, parts)]
        with keras.StatelessScope(values):
            return model(x).numpy()

    zero, columns = outputs(np.zeros(sum(sizes))), [outputs(e) for e in np.eye(sum(sizes))]
    probe = np.random.default_rng(0).normal(size=sum(sizes))
    found = np.concatenate(columns, 1) if zero.shape[1] == 1 else np.empty([len(zero), 0])
    if zero.shape[1] != 1 or zero.any() or not np.allclose(outputs(probe)[:, 0], found @ probe, rtol=1e-9):
        raise ValueError(
            "The model must be linear in its parameters and have one output. Received: "
            f"model={model.name!r} with outputs of shape {model.output_shape}"
        )
    return found


def _distinct_products(jacobian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct columns J_i o J_j, `(N, K)`, and for each entry of F which one it sums, `(P P,)`."""
    p = jacobian.shape[1]
    i, j = np.tril_indices(p)
    columns, inverse = np.unique(jacobian[:, i].T * jacobian[:, j].T, axis=0, return_inverse=True)
    where = np.zeros([p, p], np.int32)
    where[i, j] = where[j, i] = inverse
    return np.ascontiguousarray(columns.T), where.ravel()
