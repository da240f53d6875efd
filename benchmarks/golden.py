"""How far int8 experts are from their golden record elsewhere, and how far broken ones are.

    python -m benchmarks.golden --data DIR [--photos 64]

DIR holds the sea-animals photos. A golden record is run again on another processor, whose kernels may round otherwise.
The two here are ONNX Runtime's integer kernels and the same graph computed in single precision, between rounding to
int8 and back (its optimisations off). Distances are those of ``expertc verify``: the largest difference over the
largest value, of two inputs at a time. Broken: each convolution's weights set to zero in turn, integer kernels, on the
inputs of the bundle's own record.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from expertc import build
from expertc.backends.cpu import describe, open_session
from expertc.bundle import MODEL, Bundle, open_bundle
from expertc.evaluate.batches import batches
from expertc.evaluate.calibration import calibration
from expertc.runtime import open_dataset
from expertc.runtime.matching import match_classes
from expertc.verify.agreement import ALLOWED
from expertc.verify.golden import INPUTS, Golden
from expertc.verify.scores import decisions, relative_distance

RESULTS = Path(__file__).parent / "results"
CLASSES = ("sharks,rays", "#0-5")


def main() -> None:
    """Build both experts, measure, and write results/golden.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the sea-animals photos")
    parser.add_argument("--photos", type=int, default=64)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, classes in enumerate(CLASSES):
            built = build(
                classes=classes, output=Path(folder) / f"{number}.expert", precision="int8", measure_seconds=0,
                calibration=lambda source, selection: calibration(
                    given.data, source.card.preprocess, [source.card.classes[at] for at in selection.indices],
                    taxonomy=source.card.taxonomy,
                ),
            )  # fmt: skip
            rows.append({"classes": classes, **measured(open_bundle(built.path), given.data, given.photos)})
            print(json.dumps(rows[-1], indent=1), flush=True)
    RESULTS.mkdir(exist_ok=True)
    table = {"runtime": describe(), "allowed": ALLOWED["int8"], "experts": rows}
    (RESULTS / "golden.json").write_text(json.dumps(table, indent=1) + "\n")


def measured(bundle: Bundle, data: Path, photos: int) -> dict[str, Any]:
    """Distances on photos and on noise, decisions that changed, and the distances of broken networks."""
    golden, path, scores = bundle.golden, bundle.file(MODEL), bundle.manifest["output"]["name"]
    assert golden is not None
    record = Golden.read(golden)
    controls = {name: tuple(values.tolist()) for name, values in record.controls.items()}
    noise = np.random.default_rng(0).standard_normal((photos, *record.input.shape[1:]), np.float32)
    found: dict[str, Any] = {"labels": list(bundle.labels)}
    with closing(open_session(path)) as integer, closing(open_session(path, optimise=False)) as single:
        for what, x in {"photos": seen(bundle, data, photos), "noise": noise}.items():
            ways = [
                np.concatenate([session.run(one[None], controls)[scores] for one in x]) for session in (integer, single)
            ]
            apart = [
                relative_distance(ways[0][at : at + INPUTS], ways[1][at : at + INPUTS])
                for at in range(0, len(x), INPUTS)
            ]
            found[what] = {
                "inputs": len(x),
                "median": round(statistics.median(apart), 4),
                "largest": round(max(apart), 4),
                "another_class": sum(decisions(ways[0], ways[1], 0.0)),
            }
    broken = []
    for content in without_each_layer(path):
        with closing(open_session(content)) as session:
            made = np.concatenate([session.run(one[None], controls)[scores] for one in record.input])
        broken.append(round(relative_distance(made, record.outputs[scores]), 4))
    noticed = sum(distance > ALLOWED["int8"] for distance in broken)
    found["broken"] = {"layers": len(broken), "noticed": noticed, "distances": sorted(broken)}
    return found


def seen(bundle: Bundle, data: Path, count: int) -> np.ndarray:
    """Preprocessed photos of the expert's classes, which it was not calibrated on."""
    photos, spec = open_dataset(data, "val"), bundle.preprocess
    assert spec is not None
    own = match_classes(photos.classes, bundle.labels)
    indices = [at for at in range(len(photos)) if photos.classes[photos.label(at)] in own]
    spread = [indices[at] for at in np.linspace(0, len(indices) - 1, count).astype(int)]
    parts = [x for _, x in batches(photos, spread, spec, [], count, None)]
    return np.concatenate(parts)


def without_each_layer(path: Path) -> Iterator[bytes]:
    """The model once for each convolution with quantised weights, those set to zero."""
    model = onnx.load(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    stored = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for node in model.graph.node:
        tensor = weights.get(stored.get(node.input[1], "")) if node.op_type == "Conv" else None
        if tensor is not None:
            kept = tensor.SerializeToString()
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.zeros_like(onnx.numpy_helper.to_array(tensor)), tensor.name)
            )
            yield model.SerializeToString()
            tensor.ParseFromString(kept)


if __name__ == "__main__":
    main()
