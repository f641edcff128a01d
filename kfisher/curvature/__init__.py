"""Representations of the Fisher; each solves (F + damping I) x = gradient."""

from __future__ import annotations

from kfisher._common.checks import deserialized, wrong
from kfisher.curvature._base import Curvature
from kfisher.curvature.dense import Dense
from kfisher.curvature.diagonal import Diagonal
from kfisher.curvature.ekfac import EKFAC
from kfisher.curvature.gram import Gram
from kfisher.curvature.kfac import KFAC
from kfisher.curvature.matrix_free import MatrixFree

__all__ = ["EKFAC", "KFAC", "Curvature", "Dense", "Diagonal", "Gram", "MatrixFree", "get"]

_BY_NAME = {
    "dense": Dense,
    "diagonal": Diagonal,
    "ekfac": EKFAC,
    "gram": Gram,
    "kfac": KFAC,
    "matrix_free": MatrixFree,
}


def get(identifier: str | Curvature | dict) -> Curvature:
    """A curvature from its name ("kfac", "gram", ...), its config, or itself."""
    identifier = deserialized("curvature", identifier)
    if isinstance(identifier, str) and identifier in _BY_NAME:
        return _BY_NAME[identifier]()
    if isinstance(identifier, Curvature):
        return identifier
    kind = f"one of {sorted(_BY_NAME)} or an instance of a class of kfisher.curvature"
    raise wrong("curvature", kind, identifier, Curvature)
