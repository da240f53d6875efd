"""HierNet against its backbone at equal training, by its paper's recipe and split of the held-out images.

    python -m benchmarks.hiernet --data DIR --runs RUNS [--set tiny-imagenet] [--n 3] [--seeds 0,1] [--epochs 200]

Per seed: (1) the backbone is trained; (2) it groups the classes by what it confuses on one half of the held-out images;
(3) HierNet is trained as long, from the backbone's weights; (4) so is the backbone once more, from the same weights by
the same schedule, so that both have had as much; with --scratch also (5) HierNet from random weights. All are judged
once, on the other half: HierNet *slow* (all leaves) and *fast* (only the likeliest group's).

--bf16 is for GPUs and processors with AMX; one with AVX-512 alone takes twice as long with it.

DIR holds the packed photos, or CIFAR's binary version. Networks are trained once and kept in RUNS: the script may be
stopped and started again, and goes on after the last whole epoch.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expertc.atomic import save
from expertc.evaluate import grouped
from expertc.evaluate.picture import png
from expertc.export import TrainedNetwork, load_trained
from expertc.export.trained import FACTS, WEIGHTS
from expertc.hierarchy import Level, agglomerate, confusion_probabilities, from_confusion
from expertc.hierarchy.file import to_yaml
from expertc.intervals import wilson
from expertc.runtime import LabelledImages, open_dataset
from expertc.taxonomy import Taxonomy
from expertc.training import Progress, Recipe, Stage, load_recipe, save_trained, train
from expertc.training.data import Decoded, Photos, eval_transform, label_map, normalise
from expertc.zoo import HierNet
from expertc.zoo.count import count, route_macs

RESULTS = Path(__file__).parent / "results"
P_MIN, G_MAX = {"": 0.0075, "elu_": 0.005}, 50  # the paper's
HELD_OUT = {"tiny-imagenet": "val", "cifar10": "test", "cifar100": "test"}
GROUPS = {"cifar10": 3}  # ten classes are confused so much that the paper's bound would put them into one group
FOLDERS = {"tiny-imagenet": "tiny-imagenet-32"}


def main() -> None:
    """Train what is missing, judge, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--runs", type=Path, required=True, help="where trained networks are kept")
    parser.add_argument("--set", default="tiny-imagenet", choices=HELD_OUT)
    parser.add_argument("--n", type=int, default=3, choices=(3, 5, 7, 9, 18), help="blocks of one width")
    parser.add_argument("--elu", action="store_true", help="the variant with ELU")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--epochs", type=int, default=200, help="of every network (the paper's 200)")
    parser.add_argument("--p-min", type=float, help="what groups must be closer than (default: the paper's)")
    parser.add_argument("--groups", type=int, help="find the --p-min that leaves so many (CIFAR-10: 3)")
    parser.add_argument("--scratch", action="store_true", help="also train HierNet from random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    kind = f"{'elu_' if given.elu else ''}resnet{6 * given.n + 2}"
    for seed in map(int, given.seeds.split(",")):
        rows += Seed(given, kind, seed).judged()
        given.results.mkdir(parents=True, exist_ok=True)
        found = {"set": given.set, "network": kind, "epochs": given.epochs, "rows": rows}
        name = f"hiernet-{given.set}-{kind}"
        (given.results / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        (given.results / f"{name}.md").write_text(markdown(found))
    print(markdown(found))


class Seed:
    """The networks of one seed and what is said of them."""

    def __init__(self, given: argparse.Namespace, kind: str, seed: int) -> None:
        self.given, self.kind, self.seed = given, kind, seed
        self.data = given.data / FOLDERS.get(given.set, given.set)
        self.folder = given.runs / given.set / kind / str(seed)

    def judged(self) -> Iterator[dict[str, Any]]:
        """A row for each network and way to run it, on the half of the held-out images that nothing else looks at."""
        backbone = self.trained("resnet20", f"cifar_{self.kind}", "backbone")
        tree = self.grouped(backbone)
        weights = backbone / WEIGHTS
        paths = {
            "backbone": backbone,
            "backbone, as long": self.trained("hiernet20", f"cifar_{self.kind}", "backbone-again", trunk=weights),
            "HierNet": self.trained("hiernet20", f"hiernet_{self.kind}", "hiernet", tree, weights),
        }
        if self.given.scratch:
            paths["HierNet, from random weights"] = self.trained(
                "hiernet20", f"hiernet_{self.kind}", "hiernet-scratch", tree
            )
        images = open_dataset(self.data, f"{HELD_OUT[self.given.set]}:report")
        base: np.ndarray | None = None
        for name, path in paths.items():
            trained = load_trained(path)
            network = trained.network
            ways: dict[str, Callable[[Tensor], Tensor]] = {name: network}
            if isinstance(network, HierNet):
                ways = {f"{name}, slow": network, f"{name}, fast": network.routed}
            truth = None
            for way, forward in ways.items():
                truth, scores = self.scores(trained, forward, images)
                right = scores.argmax(1) == truth
                base = right if way == "backbone, as long" else base
                yield self.row(way, trained, right, base if isinstance(network, HierNet) else None)
            if isinstance(network, HierNet):
                found = self.router(trained, network, images)
                print(f"{name}: {len(network.groups)} groups, the router is right for {100 * found:.1f} %", flush=True)

    def row(self, name: str, trained: TrainedNetwork, right: np.ndarray, base: np.ndarray | None) -> dict[str, Any]:
        """What is known of one way to run a network; ``base``: which images the backbone has right."""
        network, size = copy.deepcopy(trained.network).to("meta"), trained.preprocess.size[0]
        cost = count(network, size)
        macs = max(route_macs(network, size).values()) if name.endswith("fast") else cost["macs"]  # type: ignore[arg-type]
        hits = int(right.sum())
        low, high = wilson(hits, len(right))
        made = {
            "seed": self.seed, "network": name, "parameters": cost["parameters"], "macs": macs, "hits": hits,
            "images": len(right), "low": round(low, 4), "high": round(high, 4),
        }  # fmt: skip
        if base is not None:
            # paired: the same images, so only those count that one has right and the other has not
            difference = right.astype(int) - base.astype(int)
            half = 1.96 * math.sqrt(difference.var() / len(difference))
            made["gain"] = [round(float(difference.mean() + sign * half), 4) for sign in (0, -1, 1)]
        return made

    def grouped(self, backbone: Path) -> Taxonomy:
        """The tree over what the backbone confuses on the tuning half, written beside it with its picture."""
        place = self.folder / "groups.yaml"
        if not place.exists():
            trained = load_trained(backbone)
            images = open_dataset(self.data, f"{HELD_OUT[self.given.set]}:tuning")
            truth, scores = self.scores(trained, trained.network, images)
            probabilities = torch.from_numpy(scores).double().softmax(1).numpy()
            leaves = trained.taxonomy.leaves
            matrix = confusion_probabilities(truth, probabilities, trained.taxonomy.classes)
            p_min = self.given.p_min or P_MIN["elu_" if self.given.elu else ""]
            groups = self.given.groups or GROUPS.get(self.given.set)
            if groups is not None:
                p_min = agglomerate(matrix, G_MAX).p_min(groups)
            tree = from_confusion(matrix, leaves, [Level(p_min, G_MAX)], "groups")
            save(
                place.with_suffix(".png"), png(grouped.draw(matrix, tree, f"{self.given.set}, {self.kind}")), force=True
            )
            save(place, to_yaml(tree).encode(), force=True)
        tree = Taxonomy.load(place)
        if len(tree.roots) == 1 or tree.depth == 1:
            raise SystemExit(f"{place}: nothing is grouped, or everything in one group; give --groups or --p-min")
        sizes = sorted((len(root.leaves) for root in tree.roots), reverse=True)
        print(f"{place}: groups of {', '.join(map(str, sizes))}", flush=True)
        return tree

    def trained(
        self, recipe_name: str, arch: str, name: str, tree: Taxonomy | None = None, trunk: Path | None = None
    ) -> Path:
        """The folder of a trained network."""
        folder = self.folder / name
        if (folder / FACTS).exists():
            return folder
        recipe = load_recipe(f"{recipe_name}-{self.given.set}")
        stages = _shorter(recipe, self.given.epochs)
        recipe = replace(recipe, arch=arch, seed=self.seed, stages=stages)
        taxonomy = tree or Taxonomy.shipped(self.given.set)
        start = time.monotonic()

        def report(progress: Progress) -> None:
            if progress.accuracy is not None:
                line = f"{folder}: {progress.stage} {progress.epoch}/{progress.epochs}, loss {progress.loss:.3f}"
                spent = time.monotonic() - start
                print(f"{line}, held out {progress.accuracy:.3f}, {spent:.0f} s since the start", flush=True)

        done = train(
            recipe, taxonomy, open_dataset(self.data, "train"), folder, trunk=trunk, workers=self.given.workers,
            device=self.given.device, autocast=torch.bfloat16 if self.given.bf16 else None, report=report,
        )  # fmt: skip
        return save_trained(folder, done, recipe, taxonomy)

    def scores(
        self, trained: TrainedNetwork, forward: Callable[[Tensor], Tensor], images: LabelledImages
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels int ``[N]`` and scores float32 ``[N, classes]``."""
        recipe = load_recipe(f"resnet20-{self.given.set}")
        trained.network.to(self.given.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        photos = Photos(
            Decoded(images, range(len(images)), label_map(images, trained.taxonomy)),
            eval_transform(recipe, recipe.size),
        )
        found = []
        with torch.inference_mode():
            for x, y in torch.utils.data.DataLoader(photos, 250):
                found.append((y, forward(normalise(x, recipe, self.given.device)).float().cpu()))
        truth, scores = (torch.cat(each).numpy() for each in zip(*found, strict=True))
        return truth, scores

    def router(self, trained: TrainedNetwork, network: HierNet, images: LabelledImages) -> float:
        """The share of images whose class is in the group that the top finds likeliest."""
        owner = np.full(network.num_classes, -1)
        for at, child in enumerate(network.places[0].children):
            owner[list(network.taxonomy.by_name[child].leaves) if isinstance(child, str) else child] = at
        truth, scores = self.scores(trained, lambda x: network.decisions(x)[""], images)
        return float((scores.argmax(1) == owner[truth]).mean())


def _shorter(recipe: Recipe, epochs: int) -> tuple[Stage, ...]:
    """The recipe's stages in the same proportion, ``epochs`` in all, at least one each."""
    whole = sum(stage.epochs for stage in recipe.stages)
    first = [max(1, round(stage.epochs * epochs / whole)) for stage in recipe.stages[:-1]]
    lengths = [*first, max(1, epochs - sum(first))]
    return tuple(replace(stage, epochs=length) for stage, length in zip(recipe.stages, lengths, strict=True))


def markdown(found: dict[str, Any]) -> str:
    """All rows, seed by seed, with the paired gain over the backbone that was trained as long."""
    lines = [
        f"{found['network']} on {found['set']}, {found['epochs']} epochs each; HierNet and the backbone",
        '"as long" start from the backbone\'s weights. Top-1 on the half of the held-out images that was used for',
        "nothing else, with 95 % intervals; the gain is over the backbone trained as long, image by image, in points.",
        "",
        "| seed | network | parameters | MMACs | top-1 | 95 % interval | gain | 95 % interval |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in found["rows"]:
        mean, low, high = (f"{100 * value:+.1f}" for value in r["gain"]) if "gain" in r else ("", "", "")
        interval = f"{100 * r['low']:.1f} to {100 * r['high']:.1f}"
        lines.append(
            f"| {r['seed']} | {r['network']} | {r['parameters']:,} | {r['macs'] / 1e6:.1f} | "
            f"{100 * r['hits'] / r['images']:.1f} % | {interval} | {mean} | {f'{low} to {high}' if mean else ''} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
