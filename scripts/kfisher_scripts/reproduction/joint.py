"""Statement 3: the Fisher of the joint, and what the conditional one and EF do as N grows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

import kfisher
from kfisher_scripts.reproduction.models import (
    KINDS,
    Kinds,
    double_precision,
    linear_model,
    matrices,
    set_parameters,
)

# Logistic regression on x ~ Normal(0, I) in two dimensions: the parameters of the model, and those of the
# process that the labels of the data come from.
_MODEL = np.array([1.0, -2.0, 0.5])
_OTHER = np.array([-1.0, 0.5, 0.0])
_NODES = 40
_DRAWS = 16


@dataclass
class Convergence:
    """Mean distances from the Fisher of the joint, ||M - F|| / ||F||, over draws of N inputs from p(x).

    Attributes:
        sizes: N.
        conditional: Of the Fisher of the conditional at the N inputs.
        right: Of EF, with labels that come from the model itself.
        wrong: Of EF, with labels of another process.
        formula: How far the Fisher of the joint is off E_p(x)[p (1 - p) a aᵀ], a = (x, 1), in plain NumPy.
    """

    sizes: np.ndarray
    conditional: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    formula: float

    def slope(self, distances: np.ndarray) -> float:
        """The exponent a of N^a in some of these distances, by least squares of logarithms."""
        return float(np.polyfit(np.log(self.sizes), np.log(distances), 1)[0])


def run(quick: bool, kinds: Kinds = KINDS) -> Convergence:
    """E_p(x) by Gauss-Hermite quadrature, whose weights are the sample weights of `FisherOperator`."""
    sizes = np.array([10**2, 10**3, 10**4] if quick else [10**2, 10**3, 10**4, 10**5])
    rng = np.random.default_rng(0)
    with double_precision():
        model = linear_model(2, "logistic")
        set_parameters(model, _MODEL)
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        x = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
        w = np.outer(weights, weights).ravel()
        y = _labels(x, _OTHER, rng)[:, np.newaxis]  # which the Fisher does not see
        operator = kfisher.FisherOperator(model, x, y, sample_weight=w / w.mean(), fisher=kinds.ngd)
        joint = operator.to_dense().numpy()
        # By the formula of logistic regression, with nothing of kfisher in it.
        a, p = np.column_stack([x, np.ones(len(x))]), _probability(x, _MODEL)
        expected = (a.T * (w / w.sum() * p * (1 - p))) @ a
        formula = float(np.linalg.norm(joint - expected) / np.linalg.norm(expected))
        rows = []
        for size in tqdm(sizes, desc=f"{'Fisher of the joint':<24}", unit="size", dynamic_ncols=True):
            found = []
            for _ in range(_DRAWS):
                x = rng.normal(size=(size, 2))
                right, wrong = (_labels(x, theta, rng) for theta in (_MODEL, _OTHER))
                f, ef_wrong = matrices(model, x, wrong, kinds)
                ef_right = matrices(model, x, right, kinds)[1]
                found.append([np.linalg.norm(m - expected) for m in (f, ef_right, ef_wrong)])
            rows.append(np.mean(found, 0) / np.linalg.norm(expected))
    return Convergence(sizes, *np.transpose(rows), formula)


def _probability(x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-(x @ theta[:2] + theta[2])))


def _labels(x: np.ndarray, theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (rng.uniform(size=len(x)) < _probability(x, theta)).astype(float)
