"""What a bundle says about itself: written by a build, read back by whoever opens the bundle.

``manifest.json`` is the same whenever the same build is repeated; what differs from run to run, times and latencies and
how the classes were asked for, stands in ``report.json``.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from hashlib import sha256
from typing import Any

import numpy as np
import onnx

from . import __version__
from .bundle import CONTROLS, DEVICE, EMBEDDED, LABELS, MANIFEST, PREPROCESS, README, ROUTES, Bundle
from .card import KINDS, Card
from .errors import BundleError
from .finish import card_of
from .graph import Model
from .instructions import instructions
from .source import Source
from .surgery.prune import Cut
from .targets import Target
from .text import shown
from .trtexec import section
from .verify import Certificate


def digests(model: Model) -> dict[str, str]:
    """SHA-256 of the values of every initializer, by name."""
    return {
        name: hashed(np.ascontiguousarray(constant.values).reshape(-1).view(np.uint8).data)
        for name, constant in sorted(model.constants.items())
    }


def hashed(data: bytes | memoryview) -> str:
    """SHA-256 in hexadecimal."""
    return sha256(data).hexdigest()


def describe(
    source: Source,
    cut: Cut,
    final: Model,
    target: Target,
    costs: Mapping[str, Any],
    certificate: Certificate,
    tensors: Mapping[str, str],
) -> dict[str, Any]:
    """The manifest of an fp32 expert, but for its forms and what ``bundle`` adds: JSON types.

    ``costs`` are those of the "full" model and of the "expert"; ``tensors`` what ``digests`` found for the cut.
    """
    card = card_of(final)
    inside = [control for control in cut.card.controls if control.name not in final.inputs]
    return {
        "name": cut.card.name,
        "source": {
            "name": source.name,
            "sha256": source.sha256,
            "files": dict(source.model.files),  # bytes of each; only what is kept of them is hashed, because read
            "kept_tensors": dict(tensors),
            "taxonomy": source.card.taxonomy.to_mapping(),  # what a photo of another class may be called
        },
        "selection": {
            "indices": list(cut.indices),
            "classes": list(cut.card.classes),
            "of": len(source.card.classes),
        },
        "target": target.name,
        DEVICE: target.to_mapping(),  # which may be the builder's own, and nowhere on the device
        "precision": "fp32",
        "input": {"name": card.input, "shape": list(final.inputs[card.input])},
        "output": asdict(cut.card.outputs[0]),
        CONTROLS: [
            control.to_mapping() | {"shape": list(final.inputs[control.name])}
            for control in cut.card.controls
            if control.name in final.inputs
        ],
        EMBEDDED: [control.to_mapping() for control in inside],
        ROUTES: routes(cut.card),
        "renormalised": cut.renormalised,
        "costs": dict(costs),
        "verification": certificate.to_mapping(),
        "versions": {
            "expertc": __version__,
            "onnx": onnx.__version__,
            **({"onnxruntime": certificate.runtime} if certificate.runtime else {}),
            "numpy": np.__version__,
        },
        "weights_licence": cut.card.weights_licence,
        "provenance": dict(cut.card.provenance),
    }


def routes(card: Card) -> dict[str, Any] | None:
    """The entry for the output that explains predictions: its columns, and which of them lead to each class."""
    if card.routes is None:
        return None
    steps = [list(card.routes.steps(card.taxonomy, name)) for name in card.classes]
    return card.routes.to_mapping() | {"steps": steps}


def images_per_call(model: Model) -> int | None:
    """How many images a finished expert takes in one call, None for any number."""
    shape = model.inputs[card_of(model).input]
    return shape[0] if shape and isinstance(shape[0], int) else None


def report(requested: str, seconds: Mapping[str, float], timing: Mapping[str, Any] | None) -> dict[str, Any]:
    """The report: ``requested`` is the text of ``--classes``, ``seconds`` each stage's, ``timing`` the latencies."""
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "requested": requested,
        "seconds": dict(seconds),
        "machine": {"system": platform.system(), "machine": platform.machine(), "python": platform.python_version()},
        "timing": timing,
    }


def texts(final: Model, target: Target, precision: str, told: Card, form: str) -> dict[str, bytes]:
    """The files of a bundle that people and other programs read: labels, preprocessing, how to run it.

    ``told`` is the card of what is shipped, in the ``form`` of its exits.
    """
    card = card_of(final)
    batch = images_per_call(final)
    engine = section(target, precision, card.input, final.inputs[card.input])
    files = {
        LABELS: "".join(f"{label}\n" for label in card.classes),
        README: instructions(told, batch, controls=bool(told.controls), engine=engine, form=form),
    }
    if card.preprocess is not None:
        files[PREPROCESS] = json.dumps(card.preprocess.to_mapping(), indent=2) + "\n"
    return {name: text.encode() for name, text in files.items()}


_COST = {"classes": int, "branches": int, "file_bytes": int, "cost": {"parameters": int, "macs": int}}
_SHAPE: Mapping[str, Any] = {
    "name": str,
    "source": {"name": str, "sha256": str, "kept_tensors": dict},
    "selection": {"indices": list, "classes": list, "of": int},
    "target": str,
    "forms": dict,
    "precision": str,
    "input": {"name": str, "shape": list},
    "output": {"name": str, "kind": str, "axis": int},
    "costs": {"full": _COST, "expert": _COST},
    "verification": dict,
    "versions": dict,
    "weights_licence": str,
    "provenance": dict,
}


def read(bundle: Bundle) -> dict[str, Any]:
    """The manifest of an opened bundle, with everything that ``describe`` writes, of the right types.

    A manifest is hashed by nobody, so it is a stranger's. Raises ``BundleError`` naming what is wrong.
    """
    _require(bundle.manifest, _SHAPE, "", bundle)
    chosen = bundle.manifest["selection"]
    indices, of = chosen["indices"], chosen["of"]
    ascending = all(type(index) is int for index in indices) and indices == sorted(set(indices))
    if not indices or not ascending or not 0 <= indices[0] <= indices[-1] < of:
        raise _malformed(bundle, "selection.indices")
    if len(chosen["classes"]) != len(indices) or not all(isinstance(name, str) for name in chosen["classes"]):
        raise _malformed(bundle, "selection.classes")
    if bundle.manifest["output"]["kind"] not in KINDS:
        raise _malformed(bundle, "output.kind")
    from .runtime.exits import read_operating
    from .runtime.paths import read_paths
    from .runtime.reject import read_reject  # PIL, which a build does not need

    Certificate.from_mapping(bundle.manifest["verification"])
    _ = bundle.exits, read_operating(bundle)
    _ = bundle.controls, bundle.embedded, read_paths(bundle)  # which an older manifest does not have
    read_reject(bundle, bundle.manifest["output"]["kind"])
    return bundle.manifest


def _require(found: Mapping[str, Any], wanted: Mapping[str, Any], above: str, bundle: Bundle) -> None:
    for key, kind in wanted.items():
        value = found.get(key)
        if not isinstance(value, dict if isinstance(kind, dict) else kind) or isinstance(value, bool):
            raise _malformed(bundle, above + key)
        if isinstance(kind, dict):
            _require(value, kind, f"{above}{key}.", bundle)


def _malformed(bundle: Bundle, key: str) -> BundleError:
    return BundleError(
        f"{MANIFEST} in {shown(bundle.path)} is malformed: '{key}' is missing or makes no sense.",
        "Build the bundle again, or copy it again.",
    )
