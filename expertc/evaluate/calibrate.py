"""Release an expert's bundle again with what was found on photos: when it says "none of these", when its exits answer.

Here the threshold below which a photo shows none of the classes is found; thresholds of exits are ``operating``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import CONTROLS, EXITS, OPERATING, README, REJECT, Bundle, Output
from ..errors import BundleError, UsageError
from ..exits import THRESHOLD, TOLERANCE
from ..instructions import rejecting
from ..runtime import Reject
from ..runtime.scores import scope_score
from ..text import read_text
from .operating import Point
from .others import share
from .scope import Separation, separations, threshold


@dataclass(frozen=True)
class Calibration:
    """A threshold, how many of the own photos are below it (``rejected``), and how many of the others (``caught``).

    ``separations`` are all scores that were tried, best first. The choice between them was made on the same photos, and
    makes ``caught`` a little too good.
    """

    reject: Reject
    separations: tuple[Separation, ...]
    rejected: int
    caught: int

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        own, others = self.reject.images, self.reject.others
        return {
            REJECT: self.reject.to_mapping(),
            "scores": [one.to_mapping() for one in self.separations],
            "rejected": share(self.rejected, own),
            "caught": share(self.caught, others),
        }


def calibrate(own: np.ndarray, others: np.ndarray, kind: str, rate: float) -> Calibration:
    """Find the threshold that rejects the share ``rate`` of the photos of an expert's own classes.

    ``own`` and ``others`` are its raw numbers ``[N, classes]`` of ``kind``, all finite. Of the scores that they allow
    the one with the larger area under the ROC curve is taken. Raises ``UsageError`` for a rate that is not between 0
    and 1, ``DataError`` if there are too few photos.
    """
    check_rate(rate)
    tried = separations(own, others, kind)
    best = tried[0].score
    cut = threshold(scope_score(best, own, kind), rate)
    rejected, caught = (int((scope_score(best, scores, kind) < cut).sum()) for scores in (own, others))
    reject = Reject(best, cut, rate, caught / len(others), len(own), len(others))
    return Calibration(reject, tried, rejected, caught)


def check_rate(rate: float) -> None:
    """Raise ``UsageError`` for a share of photos to reject that is not between 0 and 1, both excluded."""
    if not 0 < rate < 1:
        raise UsageError(f"The reject rate {rate:g} is not between 0 and 1.", "Write for example --reject-rate 0.05.")


def release(bundle: Bundle, place: Output, calibration: Calibration) -> Path:
    """Write ``bundle`` again to ``place`` with its threshold in the manifest, the report and the README.

    Every other file keeps its bytes; what the manifest does not list is not taken along. Raises ``FileSystemError`` as
    ``write_bundle`` does, ``BundleError`` if the report or the README is no text.
    """
    reject = calibration.reject
    files: dict[str, bytes] = {}
    if README in bundle.manifest["files"]:
        text = read_text(bundle.file(README), "The file", BundleError)
        files[README] = rejecting(text, reject.score, reject.threshold).encode()
    return place.again(bundle, files, {REJECT: reject.to_mapping()}, {"calibration": calibration.to_mapping()})


def release_point(bundle: Bundle, place: Output, chosen: Point, report: Mapping[str, Any]) -> Path:
    """Write ``bundle`` again to ``place`` with the settings of ``chosen`` as the defaults of its exits.

    No file but the manifest and the report changes: what the model itself holds as defaults stays, so that a plan that
    was compiled from it does, and whoever runs the bundle feeds what its manifest says. ``report`` holds JSON types.
    Raises ``FileSystemError`` as ``write_bundle`` does, ``BundleError`` if the report is no text.
    """
    set_to = {THRESHOLD: list(chosen.thresholds), TOLERANCE: [chosen.tolerance]}
    controls = [
        item | {"default": set_to[item["name"]]} if item["name"] in set_to else item
        for item in bundle.manifest[CONTROLS]
    ]
    given = {control["name"]: control["default"] for control in controls}
    exits = None if bundle.exits is None else bundle.exits.with_settings(given).to_mapping()
    about = {CONTROLS: controls, EXITS: exits, OPERATING: chosen.to_mapping()}
    return place.again(bundle, {}, about, {OPERATING: dict(report)})
