"""Early exits on what can be trained here: how accurate, how specific and how costly the answers of every exit are.

    pip install '.[bench,train]'
    python -m benchmarks.exits --data DIR --runs RUNS [--set cifar10] [--seed 0] [--epochs 120] [--seconds 60]

AlexNet, B-AlexNet, Sem-HBN, Gran-HBN and AG-HBN, trained by one recipe (AG-HBN's last sixth of the epochs trains its
semantic exit alone). Every exit's answers to the held-out photos are recorded once, by ONNX Runtime on the exported
network; what a threshold and a tolerance make of them follows by the rule. Latencies are of the nested graphs, of all
networks and exits in turns within one run, one thread.

*Specificity* is the share of answers that name a class. DIR holds the packed photos. Networks are trained once and kept
in RUNS: the script may be stopped and started again, and goes on after the last whole epoch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.exits_table import markdown, plots
from expertc.backends import cpu
from expertc.controls import MAX_VALUE
from expertc.evaluate.batches import batches
from expertc.evaluate.operating import Array, Recorded, front, grid, points
from expertc.exits import THRESHOLD, TOLERANCE, Exit, Exits
from expertc.export import export_trained, load_trained
from expertc.export.early import has_exits
from expertc.measure import interleave
from expertc.runtime import LabelledImages, open_dataset
from expertc.runtime.exits import forced
from expertc.source import open_source
from expertc.taxonomy import Taxonomy
from expertc.training import Progress, Recipe, Stage, load_recipe, save_trained, train
from expertc.zoo.count import count_arch

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("alexnet", "b-alexnet", "sem-hbn", "gran-hbn", "ag-hbn")
SETS = {"cifar10": ("cifar10", "test"), "tiny-imagenet": ("tiny-imagenet-32", "val")}
SEMANTIC = 1 / 6  # of AG-HBN's epochs: 20 of 120
STEPS = 40  # of the tolerance: each makes a fortieth more of the answers fine
BATCHES = (1, 2, 4, 8, 16, 32, 64)
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
PHOTOS = 128  # at a time


def main() -> None:
    """Train what is missing, record, and write tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of packed photos")
    parser.add_argument("--runs", type=Path, required=True, help="where trained networks are kept")
    parser.add_argument("--set", default="cifar10", choices=SETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=120, help="of every network (the paper's 120)")
    parser.add_argument("--only", choices=NETWORKS, help="train this one and stop: several can run side by side")
    parser.add_argument("--seconds", type=float, default=60.0, help="of measuring latency")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    folder, split = SETS[given.set]
    runs = given.runs / given.set / str(given.seed)
    names = NETWORKS if given.only is None else (given.only,)
    trained = {name: network(name, given.set, given.seed, given.epochs, given.data / folder, runs) for name in names}
    if given.only is not None:
        return
    photos = open_dataset(given.data / folder, split)
    recorded = {name: answers(place / "plain.onnx", photos, macs_of(place)) for name, place in trained.items()}
    times = latencies({name: place / "full.onnx" for name, place in trained.items()}, given.seconds)
    found = {
        "set": given.set, "seed": given.seed, "epochs": given.epochs, "images": recorded[names[0]].images,
        "runtime": cpu.describe(),
        "networks": {name: described(each, times[name]) for name, each in recorded.items()},
        "batches": by_batch(recorded["gran-hbn"]),
    }  # fmt: skip
    given.results.mkdir(parents=True, exist_ok=True)
    base = given.results / f"exits-{given.set}"
    base.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    base.with_suffix(".md").write_text(markdown(found))
    plots(found, base)
    print(markdown(found))


# -- the networks ------------------------------------------------------------------------------------------------------


def network(name: str, data: str, seed: int, epochs: int, photos: Path, runs: Path) -> Path:
    """The folder of a trained network, with its exports ``plain.onnx`` and ``full.onnx``."""
    folder = runs / name
    if (folder / "full.onnx").exists():
        if (found := len(load_trained(folder).facts["training"]["history"])) != epochs:
            raise SystemExit(f"{folder} was trained for {found} epochs, not {epochs}: give another --runs.")
        return folder
    recipe = shorter(replace(load_recipe(f"{name}-{data}"), seed=seed), epochs)
    taxonomy = Taxonomy.shipped(recipe.taxonomy)
    if recipe.levels:
        taxonomy = taxonomy.lowest(recipe.levels)

    def report(progress: Progress) -> None:
        if progress.accuracy is not None:
            print(f"{folder}: {progress.epoch}/{progress.epochs}, held out {progress.accuracy:.3f}", flush=True)

    made = train(recipe, taxonomy, open_dataset(photos, "train"), folder, report=report)
    save_trained(folder, made, recipe, taxonomy)
    forms = ("plain", "nested") if has_exits(made.network) else ("", "")  # AlexNet decides nothing
    for form, file in zip(forms, ("plain.onnx", "full.onnx"), strict=True):
        export_trained(folder, folder / file, form=form)
    return folder


def shorter(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with as many epochs; those that train a part alone get their share."""
    own = {stage.name: max(1, round(SEMANTIC * epochs)) for stage in recipe.stages if stage.train_only}
    rest = epochs - sum(own.values())

    def short(stage: Stage) -> Stage:
        return replace(stage, epochs=own.get(stage.name, rest))

    return replace(recipe, stages=tuple(map(short, recipe.stages)))


def macs_of(folder: Path) -> tuple[float, ...]:
    """MACs to each exit."""
    trained = load_trained(folder)
    found = count_arch(trained.facts["arch"], trained.taxonomy, size=trained.preprocess.size[0])
    return tuple(found.get("macs_to_exit", [found["macs"]]))


# -- what they answer --------------------------------------------------------------------------------------------------


def answers(path: Path, photos: LabelledImages, macs: tuple[float, ...]) -> Recorded:
    """Every exit's answers to all photos; the cost of an answer is in ``macs``."""
    source = open_source(path)
    card = source.card
    exits = card.exits or Exits((), (Exit(card.outputs[0].name),))
    assert card.preprocess is not None
    match = {name: card.taxonomy.by_name[name].index for name in photos.classes}
    parts: dict[str, list[Array]] = {name: [] for name in exits.tensors}
    truth: list[int] = []
    unreadable: list[tuple[str, str]] = []
    with closing(cpu.open_session(path)) as session:
        for indices, x in batches(photos, range(len(photos)), card.preprocess, unreadable, PHOTOS, None):
            made = session.run(x)
            for name, values in parts.items():
                values.append(made[name])
            truth += [int(match[photos.classes[photos.label(index)]] or 0) for index in indices]
    assert not unreadable, unreadable[0]
    return recorded(exits, {name: np.concatenate(values) for name, values in parts.items()}, np.array(truth), macs)


def recorded(exits: Exits, logits: Mapping[str, Array], truth: Array, macs: tuple[float, ...]) -> Recorded:
    """From logits ``[N, labels]`` by tensor and the photos' classes ``[N]``."""
    above = np.asarray(exits.of, np.int64)[truth] if exits.categories else truth

    def heads(names: list[str | None], labels: Array) -> tuple[Array, Array]:
        lost = np.full(len(truth), np.nan)
        sure = [lost if name is None else entropies(logits[name]) for name in names]
        right = [np.isnan(lost) & False if name is None else logits[name].argmax(1) == labels for name in names]
        return np.stack(sure), np.stack(right)

    fine, fine_right = heads([one.fine for one in exits.exits], truth)
    coarse, coarse_right = heads([one.coarse for one in exits.exits], above)
    semantic = None if exits.semantic is None else logits[exits.semantic].argmax(1) == 1
    return Recorded(exits, fine, coarse, fine_right, coarse_right, semantic, macs)


def entropies(logits: Array) -> Array:
    """Of the softmax of each row, in nats."""
    values = logits.astype(np.float64)
    logs = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
    return np.asarray(-(np.exp(logs) * logs).sum(axis=1))


def latencies(paths: Mapping[str, Path], seconds: float) -> dict[str, list[float]]:
    """Median seconds of a call on noise that ends at each exit, all in turns."""
    calls = {}
    with ExitStack() as stack:
        for name, path in paths.items():
            session = stack.enter_context(closing(cpu.open_session(path, threads=1)))
            x = np.random.default_rng(0).standard_normal((1, 3, 32, 32), np.float32)
            settable = {control.name: len(control.default) for control in session.controls}
            for number in range(1, settable.get(THRESHOLD, 0) + 2):
                values = forced(settable[THRESHOLD], number) if THRESHOLD in settable else {}
                values |= {TOLERANCE: (MAX_VALUE,)} if TOLERANCE in settable else {}
                calls[f"{name} {number}"] = partial(session.run, x, values)
        samples = interleave(calls, seconds=seconds, warmup=seconds / 10)
    medians = {call: float(np.median(samples.durations(call))) for call in calls}
    return {name: [value for call, value in medians.items() if call.split()[0] == name] for name in paths}


# -- what is shown -----------------------------------------------------------------------------------------------------


def described(own: Recorded, seconds: list[float]) -> dict[str, Any]:
    """A network's exits, each by itself and over the tolerance, and its best operating points, costs in MACs."""
    exits = []
    for number, one in enumerate(own.exits.exits, 1):
        row: dict[str, Any] = {"macs": own.seconds[number - 1], "seconds": seconds[number - 1]}
        heads = {"fine": (one.fine, own.fine, own.fine_right), "coarse": (one.coarse, own.coarse, own.coarse_right)}
        for name, (tensor, sure, right) in heads.items():
            if tensor is not None:
                spread = np.quantile(sure[number - 1], QUANTILES)
                row[name] = {
                    "hits": int(right[number - 1].sum()),
                    "entropy": {"mean": float(sure[number - 1].mean()), "quantiles": spread.round(4).tolist()},
                }
        if own.exits.compares and one.fine and one.coarse:
            row["tolerance"] = list(over_tolerance(own, number))
        exits.append(row)
    best = front(grid(own))
    plain = {"hits", "fine", "seconds", "thresholds", "tolerance"}
    made: dict[str, Any] = {
        "exits": exits,
        "best": [{name: getattr(one, name) for name in sorted(plain)} for one in best],
    }
    if own.semantic is not None:
        decided = np.where(own.semantic, own.fine_right, own.coarse_right).sum(axis=1)
        entropies_only = replace(own, exits=replace(own.exits, semantic=None), semantic=None)
        curve = list(over_tolerance(entropies_only, len(own.exits.exits)))
        made["semantic"] = {"fine": int(own.semantic.sum()), "hits": decided.tolist(), "tolerance": curve}
    return made


def over_tolerance(own: Recorded, number: int) -> Iterator[dict[str, float]]:
    """What exit ``number`` answers, where it alone does, over the tolerance: shares of right and of fine answers."""
    limits = forced(len(own.exits.exits) - 1, number).get(THRESHOLD, ())
    apart = own.fine[number - 1] - own.coarse[number - 1]
    inner = np.quantile(apart, np.linspace(0, 1, STEPS + 1))
    for tolerance in (inner[0] - 1, *inner, inner[-1] + 1):
        [one] = points(own, [limits], float(tolerance))
        yield {"tolerance": round(float(tolerance), 4), "accuracy": one.accuracy, "fine": one.fine_share}


def by_batch(own: Recorded) -> list[dict[str, Any]]:
    """The last exit's answers over the tolerance, where a batch of photos drawn at random decides as one."""
    order = np.random.default_rng(0).permutation(own.images)
    found = []
    for size in BATCHES:
        kept = order[: len(order) // size * size]

        def shared(values: Array, size: int = size, kept: Array = kept) -> Array:
            means = values[:, kept].reshape(len(values), -1, size).mean(axis=2)
            return np.repeat(means, size, axis=1)

        together = replace(
            own, fine=shared(own.fine), coarse=shared(own.coarse),
            fine_right=own.fine_right[:, kept], coarse_right=own.coarse_right[:, kept],
        )  # fmt: skip
        curve = list(over_tolerance(together, len(own.exits.exits)))
        found.append({"batch": size, "images": len(kept), "tolerance": curve})
    return found


if __name__ == "__main__":
    main()
