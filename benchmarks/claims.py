"""The claims of HLFP's Table 3 on what can be trained here: reduced networks, small photos, one recipe and budget.

    python -m benchmarks.claims --data DIR --runs RUNS [--sets imagenette,imagewoof] [--seeds 0,1] [--epochs 20]

1. On all ten classes HLFP and NHL come near the ResNet of about the same cost.
2. A cut-out of five classes against (a) the ResNet trained on all ten and restricted to the five, (b) a ResNet of the
   cut-out's MACs trained on the five alone.
3. Attention: the gain of the true class's branch raised. The label is given away, so this is an oracle, not a result.

DIR holds the packed photos. Networks are trained once and kept in RUNS: the script may be stopped and started again.
Rows of other sets and seeds stay in ``results`` as they were, if as many epochs were trained.
The cut-outs are experts that `expertc.build` makes and verifies; accuracies are of val, with 95 % Wilson intervals.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from expertc import build
from expertc.evaluate import evaluate, match_classes
from expertc.evaluate.judges import open_judge
from expertc.export import export_trained, load_trained
from expertc.intervals import wilson
from expertc.runtime import open_dataset
from expertc.taxonomy import Taxonomy
from expertc.training import Progress, Recipe, load_recipe, save_trained, train
from expertc.training.data import Decoded, Photos, eval_transform, normalise
from expertc.zoo.arguments import build as make
from expertc.zoo.count import count

RESULTS = Path(__file__).parent / "results"
HALVES = {"upper": range(5), "lower": range(5, 10)}
GAINS = (1.1, 1.25, 1.5, 2.0)


def main() -> None:
    """Train what is missing, judge, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of packed photos")
    parser.add_argument("--runs", type=Path, required=True, help="where trained networks are kept")
    parser.add_argument("--sets", default="imagenette,imagewoof")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--epochs", type=int, help="of every network (default: the recipe's)")
    given = parser.parse_args()
    file = RESULTS / "claims.json"
    before = json.loads(file.read_text()) if file.exists() else {"epochs": None, "rows": []}
    for name in given.sets.split(","):
        for seed in map(int, given.seeds.split(",")):
            epochs = given.epochs or sum(stage.epochs for stage in load_recipe(f"hlfp-{name}").stages)
            own = judged(name, seed, given.epochs, given.data / f"{name}-128", given.runs / name / str(seed))
            same = before["rows"] if before["epochs"] == epochs else []
            rows = [row for row in same if (row["set"], row["seed"]) != (name, seed)] + list(own)
            before = {"epochs": epochs, "rows": sorted(rows, key=lambda row: (row["set"], row["seed"]))}
            RESULTS.mkdir(exist_ok=True)
            file.write_text(json.dumps(before, indent=1) + "\n")
            (RESULTS / "claims.md").write_text(markdown(before))
    print(markdown(before))


def judged(name: str, seed: int, epochs: int | None, data: Path, runs: Path) -> Iterator[dict[str, Any]]:
    """Every row of one data set and seed."""
    photos = open_dataset(data, "val")

    def row(claim: str, network: str, classes: str, macs: int, hits: int, images: int) -> dict[str, Any]:
        low, high = wilson(hits, images)
        return {
            "set": name, "seed": seed, "claim": claim, "network": network, "classes": classes, "macs": macs,
            "hits": hits, "images": images, "low": round(low, 4), "high": round(high, 4),
        }  # fmt: skip

    def right(model: Path, labels: Sequence[str] | None = None) -> tuple[int, int]:
        with open_judge(model, classes=labels) as judge:
            assert judge.preprocess is not None  # as export writes it
            found = evaluate(judge.scores, judge.preprocess, judge.labels, photos, match=_match(photos, judge))
        return found.hits, found.images

    full = {kind: _trained(f"{kind}-{name}", seed, epochs, data, runs / kind) for kind in ("hlfp", "nhl", "resnet")}
    for kind, folder in full.items():
        yield row("1 all classes", kind, "all ten", _macs(folder), *right(folder / "full.onnx"))
    taxonomy = load_trained(full["hlfp"]).taxonomy
    for half, indices in HALVES.items():
        labels = [taxonomy.classes[i] for i in indices]
        restricted = right(full["resnet"] / "full.onnx", labels)
        for kind in ("hlfp", "nhl"):
            with TemporaryDirectory() as place:
                made = build(
                    full[kind] / "full.onnx", classes=labels, output=Path(place) / "cut.expert", measure_seconds=0
                )
                yield row("2 cut-out", kind, half, made.expert.cost.macs, *right(made.path))
            alone = _trained(
                f"resnet-{name}", seed, epochs, data, runs / f"resnet-{half}-{kind}", labels, made.expert.cost.macs
            )
            yield row(f"2b as {kind}, alone", "resnet", half, _macs(alone), *right(alone / "full.onnx"))
        yield row("2a restricted", "resnet", half, _macs(full["resnet"]), *restricted)
    for gain in GAINS:
        yield row(
            f"3 oracle, gain {gain}", "hlfp", "all ten", _macs(full["hlfp"]), *_attended(full["hlfp"], photos, gain)
        )


def _trained(
    recipe_name: str, seed: int, epochs: int | None, data: Path, folder: Path,
    labels: Sequence[str] | None = None, macs: int | None = None,
) -> Path:  # fmt: skip
    """The folder of a trained and exported network; of ``labels`` alone and about ``macs`` if they are given."""
    if (folder / "full.onnx").exists():
        return folder
    recipe = replace(load_recipe(recipe_name), seed=seed)
    taxonomy = Taxonomy.shipped(recipe.taxonomy)
    if labels is not None:
        taxonomy = taxonomy.restrict([taxonomy.by_name[label].index or 0 for label in labels])
    if epochs is not None:
        recipe = replace(recipe, stages=tuple(replace(stage, epochs=epochs) for stage in recipe.stages))
    if macs is not None:
        recipe = _resized(recipe, taxonomy, macs)

    def report(progress: Progress) -> None:
        if progress.accuracy is not None:
            print(f"{folder}: {progress.epoch}/{progress.epochs}, held out {progress.accuracy:.3f}", flush=True)

    save_trained(folder, train(recipe, taxonomy, open_dataset(data, "train"), folder, report=report), recipe, taxonomy)
    return export_trained(folder, folder / "full.onnx", gain=False).parent


def _resized(recipe: Recipe, taxonomy: Taxonomy, macs: int) -> Recipe:
    """The recipe with the ResNet's channels scaled, in steps of four, to come nearest to ``macs``."""

    def thin(quarter: int) -> dict[str, Any]:
        return {"channels": [4 * quarter, 8 * quarter, 16 * quarter, 32 * quarter]}

    def off(quarter: int) -> float:
        with torch.device("meta"):
            return abs(count(make(recipe.arch, taxonomy, thin(quarter)), recipe.size)["macs"] - macs)

    return replace(recipe, arch_args=thin(min(range(1, 12), key=off)))


def _macs(folder: Path) -> int:
    trained = load_trained(folder)
    return count(trained.network.to("meta"), trained.preprocess.size[0])["macs"]


def _match(photos: Any, judge: Any) -> dict[str, int]:
    return match_classes(photos.classes, judge.labels, judge.taxonomy)


def _attended(folder: Path, photos: Any, gain: float) -> tuple[int, int]:
    """Right decisions where the branch of a photo's own class is multiplied by ``gain``."""
    trained = load_trained(folder)
    recipe = load_recipe(str(trained.facts["training"]["recipe"]))
    match = match_classes(photos.classes, trained.taxonomy.classes, trained.taxonomy)
    labels = {k: match[name] for k, name in enumerate(photos.classes) if name in match}
    hits = total = 0
    for label in sorted(set(labels.values())):
        own = [i for i in range(len(photos)) if labels.get(photos.label(i)) == label]
        batches = torch.utils.data.DataLoader(
            Photos(Decoded(photos, own, labels), eval_transform(recipe, recipe.size)), 128
        )
        gains = torch.ones(len(trained.taxonomy))
        gains[label] = gain
        with torch.inference_mode():
            for x, y in batches:
                hits += int((trained.network(normalise(x, recipe, "cpu"), gains).argmax(1) == y).sum())
                total += len(y)
    return hits, total


def markdown(found: dict[str, Any]) -> str:
    """What became of the claims, then all rows, data set by data set."""
    rows = found["rows"]
    lines = [
        f"HLFP-small, NHL and a ResNet-50 with a quarter of the channels, photos of 64 x 64 pixels, {found['epochs']}",
        "epochs from random weights on one CPU core, the same recipe for all. Differences in points of top-1 on val,",
        "with 95 % intervals (of independent proportions, so wider than paired ones). A claim counts as holding where",
        "the interval reaches zero: so many photos cannot tell two points apart.",
        "",
        "| set | seed | claim | difference | 95 % interval | holds here |",
        "| --- | ---: | --- | ---: | ---: | --- |",
    ]
    for name, seed in dict.fromkeys((row["set"], row["seed"]) for row in rows):
        for text, row, base in comparisons([r for r in rows if (r["set"], r["seed"]) == (name, seed)]):
            value, low, high = difference(row, base)
            holds = "yes" if high >= 0 else "no"
            lines.append(f"| {name} | {seed} | {text} | {value:+.1f} | {low:+.1f} to {high:+.1f} | {holds} |")
    lines += ["", "The oracle raises the gain of the true class's branch: the label is given away.", "",
              "| set | seed | claim | network | classes | MMACs | accuracy | 95 % interval |",
              "| --- | ---: | --- | --- | --- | ---: | ---: | ---: |"]  # fmt: skip
    for r in rows:
        accuracy = f"{100 * r['hits'] / r['images']:.1f} %"
        interval = f"{100 * r['low']:.1f} to {100 * r['high']:.1f}"
        named = f"{r['set']} | {r['seed']} | {r['claim']} | {r['network']} | {r['classes']}"
        lines.append(f"| {named} | {r['macs'] / 1e6:.1f} | {accuracy} | {interval} |")
    return "\n".join(lines) + "\n"


def comparisons(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each claim in words, the row it is about, and the row that is held against it."""
    found = {(row["claim"], row["network"], row["classes"]): row for row in rows}
    whole = found["1 all classes", "resnet", "all ten"]
    for kind in ("hlfp", "nhl"):
        own = found["1 all classes", kind, "all ten"]
        yield f"1: {kind} near the ResNet ({own['macs'] / whole['macs']:.2f} of its MACs)", own, whole
    for kind in ("hlfp", "nhl"):
        for half in HALVES:
            cut, restricted = found["2 cut-out", kind, half], found["2a restricted", "resnet", half]
            yield f"2a: {kind} cut to the {half} five, against the ResNet restricted", cut, restricted
            alone = found[f"2b as {kind}, alone", "resnet", half]
            yield "2b: the same, against a ResNet of its MACs for these alone", cut, alone
    best, without = found[f"3 oracle, gain {GAINS[-1]}", "hlfp", "all ten"], found["1 all classes", "hlfp", "all ten"]
    yield f"3: hlfp with the oracle's gain {GAINS[-1]}, against without", best, without


def difference(row: dict[str, Any], base: dict[str, Any]) -> tuple[float, float, float]:
    """How many points ``row`` is better than ``base``, with the 95 % interval of two independent proportions."""
    p, q = (each["hits"] / each["images"] for each in (row, base))
    spread = 1.96 * math.sqrt(p * (1 - p) / row["images"] + q * (1 - q) / base["images"])
    return 100 * (p - q), 100 * (p - q - spread), 100 * (p - q + spread)


if __name__ == "__main__":
    main()
