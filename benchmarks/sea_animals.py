"""The bundled model against its sharks-and-rays expert: size, work, latency and accuracy, each with its peer.

Peers, in the same run: the full model; the same network built with only the two classes' branches and exported (what
the cut should cost, if everything that was removed is really saved); and, with --baseline, that network trained on the
two classes alone with the same recipe (what the expert's accuracy should be held against).

    python benchmarks/sea_animals.py --data DIR [--baseline baseline.onnx] [--seconds 30]

DIR holds the sea-animals photos. The baseline is made with

    expertc train sea-animals --data DIR --classes sharks,rays -o baseline && expertc export baseline -o baseline.onnx
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from expertc import build
from expertc.bench import bench
from expertc.evaluate import compare, evaluate, match_classes
from expertc.evaluate.judges import Judge, open_judge
from expertc.intervals import wilson
from expertc.runtime import LabelledImages, open_dataset
from expertc.source import BUNDLED, open_source

CLASSES = "sharks,rays"
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True, help="the sea-animals photos")
    arguments.add_argument("--baseline", type=Path, help="the network trained on the two classes alone, exported")
    arguments.add_argument("--seconds", type=float, default=30.0, help="length of the latency run")
    given = arguments.parse_args()
    with TemporaryDirectory() as folder:
        found = measure(Path(folder), given.data, given.baseline, given.seconds)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sea-animals.json").write_text(json.dumps(found, indent=1) + "\n")
    print(markdown(found))


def measure(folder: Path, data: Path, baseline: Path | None, seconds: float) -> dict[str, Any]:
    built = build(classes=CLASSES, output=folder / "expert.expert", measure_seconds=0)
    peer = export_peer(folder / "peer.onnx")
    latency = bench([built.path, BUNDLED, peer], seconds=seconds).to_mapping()
    for model in latency["models"]:
        del model["path"], model["durations_ns"]  # of this machine; thousands
    photos = open_dataset(data, "val")
    found: dict[str, Any] = {
        "full": vars(built.full.cost) | {"file_bytes": built.full.file_bytes},
        "expert": vars(built.expert.cost) | {"file_bytes": built.expert.file_bytes},
        "latency": latency,
        "accuracy": {},
    }
    with open_judge(BUNDLED) as full, open_judge(built.path) as expert:
        found["accuracy"]["full, all classes"] = accuracy(full, photos)
        found["accuracy"]["expert"] = accuracy(expert, photos)
        with open_judge(BUNDLED, classes=list(expert.labels)) as restricted:
            found["accuracy"]["full, restricted to the two"] = accuracy(restricted, photos)
            only = match_classes(photos.classes, expert.labels)
            agreed = compare(expert.scores, restricted.scores, expert.preprocess, photos, only=only)
            found["agreement"] = agreed.to_mapping()
    if baseline is not None:
        with open_judge(baseline) as alone:
            found["accuracy"]["trained on the two alone"] = accuracy(alone, photos)
    return found


def export_peer(path: Path) -> Path:
    """The bundled network's architecture with the two classes' branches only; its weights do not matter here."""
    from expertc import atomic
    from expertc.card import Card, Output
    from expertc.export import export
    from expertc.selection import resolve
    from expertc.zoo import import_timm

    card = open_source().card
    taxonomy = card.taxonomy.restrict(resolve(card.taxonomy, CLASSES).indices)
    arch, options = card.provenance["arch"], card.provenance["arch_args"]
    network = import_timm().create_model(arch, taxonomy=taxonomy, **options).eval()
    small = Card("peer", taxonomy, (Output("logits"),), "image", card.preprocess)
    return atomic.save(path, export(network, small, card.preprocess.size), force=True)


def accuracy(judge: Judge, photos: LabelledImages) -> dict[str, Any]:
    match = match_classes(photos.classes, judge.labels, judge.taxonomy)
    found = evaluate(judge.scores, judge.preprocess, judge.labels, photos, match=match)
    low, high = wilson(found.hits, found.images)
    return {"photos": found.images, "right": found.hits, "wilson95": [low, high]}


def markdown(found: dict[str, Any]) -> str:
    full, expert = found["full"], found["expert"]
    lines = ["| | full model | expert | |", "| --- | ---: | ---: | ---: |"]
    for key, name in (("parameters", "parameters"), ("macs", "MACs"), ("file_bytes", "file, bytes")):
        lines.append(f"| {name} | {full[key]:,} | {expert[key]:,} | {100 * (expert[key] / full[key] - 1):+.1f} % |")
    lines += ["", "| latency, batch 1 | median | time over the expert's | 95 % interval |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for model in found["latency"]["models"]:
        ratio = model["ratio"]
        milliseconds = 1000 * model["summary"]["median"]
        spread = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
        lines.append(f"| {model['name']} | {milliseconds:.1f} ms | {ratio['value']:.2f} | {spread} |")
    lines += ["", "| top-1 on val | right of | accuracy | 95 % interval |", "| --- | ---: | ---: | ---: |"]
    for name, numbers in found["accuracy"].items():
        low, high = numbers["wilson95"]
        share = numbers["right"] / numbers["photos"]
        lines.append(f"| {name} | {numbers['right']} of {numbers['photos']} | {share:.1%} | {low:.1%} to {high:.1%} |")
    agreed = found["agreement"]
    lines += ["", f"Expert and restricted full model agree on {agreed['agreed']} of {agreed['images']} photos."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
