"""F, F with drawn labels, and EF side by side: the numbers of a `Measurement` from a `Frame`."""

from __future__ import annotations

from typing import Any

import numpy as np

from kfisher.diagnosis._parts import Curved, LayerTraces, SpectrumError
from kfisher.diagnosis.basis import Frame, curved_directions
from kfisher.diagnosis.measurement import Measurement, Spectrum
from kfisher.diagnosis.rows import EMPIRICAL, EXACT, JointRoot, draws

_CURVED = 256  # directions, at most: all of a thousand would take as long as everything else
_OVERLAPS = (1, 2, 5, 10, 20, 50)


def compare(frame: Frame, root: JointRoot, step: int) -> Measurement:
    """Everything that is measured; see `Measurement` for the quantities."""
    layout, sampled = frame.layout, draws(frame.layout)
    keys = [EXACT, EMPIRICAL, *sampled]
    matrices = {key: frame.matrix(key) for key in keys}
    # F is diagonal in the frame; each of the others is decomposed once.
    pairs = {key: np.linalg.eigh(matrices[key]) for key in keys[1:]}
    steps = {key: _step(*pairs[key], frame) for key in keys[1:]}
    steps[EXACT] = frame.gradient / (frame.values + frame.damping)
    natural = steps[EXACT]
    plain = _gamma(frame.gradient, frame)
    cosine = {key: _cosine(steps[key], natural) for key in keys[1:]}
    norm = {key: float(np.linalg.norm(d)) for key, d in steps.items()}
    gamma = {key: _gamma(d, frame) / plain if plain else float("nan") for key, d in steps.items()}
    sizes = [k for k in _OVERLAPS if k <= _rank(frame, keys)]
    overlap = {key: _overlap(pairs[key][1], sizes) for key in keys[1:]}
    error = {}
    if len(sampled) > 1:
        measured = {"cosine": cosine, "step_norm": norm, "gamma": gamma}
        error = {name: _error([found[key] for key in sampled]) for name, found in measured.items()}
    return Measurement(
        step=step,
        examples=layout.examples,
        parameters=layout.parameters,
        damping=frame.damping,
        gradient_norm=float(np.linalg.norm(frame.gradient)),
        spectra={
            "exact": _spectrum(frame, [EXACT]),
            "sampled": _spectrum(frame, sampled),
            "empirical": _spectrum(frame, [EMPIRICAL]),
        },
        overlap_sizes=sizes,
        overlap={
            "sampled": np.mean([overlap[key] for key in sampled], 0).tolist(),
            "empirical": overlap[EMPIRICAL],
        },
        ratio_eigenvalues=ratio_eigenvalues(matrices[EMPIRICAL], frame).tolist(),
        trace_ratio=_trace_ratio(matrices[EMPIRICAL], frame),
        cosine=_by_kind(cosine, sampled),
        step_norm=_by_kind(norm, sampled),
        gamma=_by_kind(gamma, sampled),
        layers=_layers(frame, root),
        error=error,
        dimension=len(frame.values),
        complete=frame.complete,
        drawn=layout.drawn,
        curved={
            "sampled": curved_ratios(matrices[sampled[0]], frame),
            "empirical": curved_ratios(matrices[EMPIRICAL], frame),
        },
    )


def ratio_eigenvalues(matrix: np.ndarray, frame: Frame) -> np.ndarray:
    """Eigenvalues of (F + λ I)⁻¹ (M + λ I), descending; F is diagonal in the frame."""
    root = 1 / np.sqrt(frame.values + frame.damping)
    damped = matrix + frame.damping * np.eye(len(matrix))
    return np.linalg.eigvalsh(damped * root * root[:, np.newaxis])[::-1]


def curved_ratios(matrix: np.ndarray, frame: Frame) -> Curved:
    """The same in the span of the directions above the damping, beside the curvature of each eigenvector."""
    size = min(curved_directions(frame), _CURVED)  # the first, as they descend
    root = 1 / np.sqrt(frame.values[:size] + frame.damping)
    damped = matrix[:size, :size] + frame.damping * np.eye(size)
    ratios, vectors = np.linalg.eigh(damped * root * root[:, np.newaxis])
    squares = np.square(root[:, np.newaxis] * vectors)
    curvature = frame.values[:size] @ squares / squares.sum(0)
    order = np.argsort(-curvature)
    return {"curvature": curvature[order].tolist(), "ratio": ratios[order].tolist()}


def _trace_ratio(matrix: np.ndarray, frame: Frame) -> float:
    """tr((F + λ I)⁻¹ EF); not known from a part of the space."""
    if not frame.complete:
        return float("nan")
    return float(np.sum(np.diag(matrix) / (frame.values + frame.damping)))


def _step(values: np.ndarray, vectors: np.ndarray, frame: Frame) -> np.ndarray:
    """(M + λ I)⁻¹ ∇L, by the eigenpairs of M."""
    return vectors @ (vectors.T @ frame.gradient / (np.maximum(values, 0) + frame.damping))


def _gamma(direction: np.ndarray, frame: Frame) -> float:
    length = np.sqrt(np.sum(frame.values * direction**2))
    return float(length / max(abs(direction @ frame.gradient), np.finfo(np.float64).tiny))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / lengths) if lengths else float("nan")


def _rank(frame: Frame, keys: Any) -> int:
    return min(len(frame.values), *(len(frame.eigen[key].values) for key in keys))


def _overlap(vectors: np.ndarray, sizes: list[int]) -> list[float]:
    """‖U_kᵀ V_k‖_F² / k; the leading eigenvectors of F are the first axes of the frame.

    Those of the other matrix come in ascending order of eigenvalues.
    """
    vectors = vectors[:, ::-1]
    return [float(np.sum(vectors[:k, :k] ** 2) / k) for k in sizes]


def _spectrum(frame: Frame, keys: Any) -> Spectrum:
    """Spectrum of one kind; the mean over draws, with its standard error, if there are several."""
    found = [frame.eigen[key] for key in keys]
    length = min(len(e.values) for e in found)
    values = np.array([e.values[:length] for e in found])
    dimensions = [e.effective_dimension for e in found]
    error = SpectrumError()
    if found[-1].error:
        error = {"effective_dimension": found[-1].error}
    if len(keys) > 1:
        error = {
            "trace": _error([e.trace for e in found]),
            "effective_dimension": _error(dimensions),
            "eigenvalues": (np.std(values, 0, ddof=1) / np.sqrt(len(values))).tolist(),
        }
    mean = values.mean(0)
    return Spectrum(
        eigenvalues=mean.tolist(),
        complete=all(e.complete for e in found),
        trace=float(np.mean([e.trace for e in found])),
        effective_dimension=float(np.mean(dimensions)),
        condition=float(mean[0] / mean[-1]) if length and found[0].complete else float("nan"),
        error=error,
    )


def _error(values: list[float]) -> float:
    """One standard error of the mean; NaN of a single value."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _by_kind(found: dict, sampled: list) -> dict[str, float]:
    kinds = {"sampled": float(np.mean([found[key] for key in sampled])), "empirical": found[EMPIRICAL]}
    return {"exact": found[EXACT], **kinds} if EXACT in found else kinds


def _layers(frame: Frame, root: JointRoot) -> list[LayerTraces]:
    """The trace of each kind in each layer; drawn labels averaged over draws."""
    found: list[LayerTraces] = []
    counts = frame.layout.counts
    for (name, parameters), traces in zip(frame.layout.layers, root.layer_traces):
        parts = dict(zip(counts, np.split(traces.astype(np.float64), np.cumsum(list(counts.values()))[:-1])))
        found.append(
            {
                "name": name,
                "parameters": parameters,
                "exact": float(parts["exact"].sum()),
                "sampled": float(parts["sampled"].mean()),
                "empirical": float(parts["empirical"].sum()),
            }
        )
    return found
