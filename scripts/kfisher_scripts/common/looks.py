"""The look of each optimizer in every picture; those with one kind of Fisher have the look of the kind.

Colours are told apart with any colour vision, and line styles without any.
"""

from __future__ import annotations

from typing import Any

from kfisher.plots.style import LOOKS as KINDS


def _of(kind: str) -> dict[str, Any]:
    return {"color": KINDS[kind]["color"], "linestyle": KINDS[kind]["linestyle"]}


LOOKS: dict[str, dict[str, Any]] = {
    "sgd": {"color": "#7b4fb5", "linestyle": (0, (3, 1))},
    "adam": {"color": "#000000", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    "natural_gradient": _of("exact"),
    "natural_gradient_sampled": _of("sampled"),
    "empirical_fisher": _of("empirical"),
    "improved_empirical_fisher": {"color": "#E69F00", "linestyle": "-"},
    "kfac": {"color": "#CC79A7", "linestyle": "-"},
    "kfac_empirical": {"color": "#882255", "linestyle": "--"},
    "ekfac": {"color": "#999933", "linestyle": "-"},
    "sophia_g": {"color": "#56B4E9", "linestyle": "--"},
}
