"""When an expert says "none of these": the entry ``reject`` of its bundle's manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..bundle import MANIFEST, REJECT, Bundle
from ..errors import BundleError
from ..text import shown
from .scores import scope_score, scope_scores


@dataclass(frozen=True)
class Reject:
    """A photo whose ``score`` is below ``threshold`` shows none of the expert's classes.

    The threshold rejected about the share ``reject_rate`` of ``images`` photos of the expert's own classes, and the
    share ``caught`` of ``others``, photos of other things.
    """

    score: str
    threshold: float
    reject_rate: float
    caught: float
    images: int
    others: int

    def rejects(self, scores: np.ndarray, kind: str) -> np.ndarray:
        """Whether each row of ``[N, classes]`` raw numbers of ``kind`` is none of the classes: bool ``[N]``."""
        below: np.ndarray = scope_score(self.score, scores, kind) < self.threshold
        return below

    def to_mapping(self) -> dict[str, Any]:
        """The manifest's entry."""
        return asdict(self)


def read_reject(bundle: Bundle, kind: str) -> Reject | None:
    """The threshold of a bundle whose output is of ``kind``, None without one; ``BundleError`` if it makes no sense."""
    data = bundle.manifest.get(REJECT)
    if data is None:
        return None
    found: dict[str, Any] = data if isinstance(data, dict) else {}
    sensible = {
        "score": found.get("score") in scope_scores(kind),
        "threshold": _is_number(found.get("threshold"), -1e300, 1e300),
        "reject_rate": _is_number(found.get("reject_rate"), 0, 1),
        "caught": _is_number(found.get("caught"), 0, 1),
        "images": type(found.get("images")) is int,
        "others": type(found.get("others")) is int,
    }
    for key, good in sensible.items():
        if not good:
            problem = f"{MANIFEST} in {shown(bundle.path)} is malformed: '{REJECT}.{key}' is missing or makes no sense."
            raise BundleError(problem, "Calibrate the bundle again, or copy it again.")
    return Reject(**{key: found[key] for key in sensible})


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and bool(low <= value <= high)  # which NaN is not
