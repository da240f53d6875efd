"""int8 against fp32 experts on this processor: latency in turns, decisions, size, and where the time goes.

    python -m benchmarks.int8 --data DIR [--seconds 10] [--threads 1] [--size 112] [--folder SCRATCH]

DIR holds the sea-animals photos. Experts: the bundled model's sharks and rays (trained; accuracy on val), and five of
ten classes of an HLFP-small with random weights, as separate branches and as one grouped network (so only the agreement
with fp32 says anything, and on a network that has learnt nothing even that is the worst case). With --folder, where
``benchmarks.latency`` keeps its exports, also NHL on ConvNeXt V2, whose layers are not those int8 was made for.

Forms: fp32; int8 throughout, with scales from the least and greatest values; int8 with the layers in fp32 that one
point of agreement needs (of the trained one); int8 but for the depthwise layers, or the first. Ranges are taken from
photos of train, layers chosen on others of train.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks import forms
from expertc.backends.cpu import open_session
from expertc.backends.processor import has_vnni, saturates
from expertc.card import Card
from expertc.errors import VerificationError
from expertc.evaluate.accuracy import evaluate
from expertc.evaluate.calibration import calibration
from expertc.graph import Model, to_bytes, with_batch
from expertc.measure import interleave
from expertc.observe import observe
from expertc.runtime import open_dataset
from expertc.runtime.matching import match_classes
from expertc.selection import resolve
from expertc.sensitivity import within_budget
from expertc.source import Source, open_source
from expertc.surgery.fold import Fold
from expertc.surgery.prune import prune
from expertc.surgery.quantise import ONNXRUNTIME, Quantise
from expertc.taxonomy import Taxonomy

RESULTS = Path(__file__).parent / "results"
RUNS = 100  # of the profiler
LARGE = "ConvNeXtV2-NHL, 5 of 1000"


@dataclass(frozen=True)
class Case:
    """An expert and its card; ``tree`` is the full model's."""

    name: str
    model: Model
    card: Card
    tree: Taxonomy
    trained: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the sea-animals photos")
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring each expert")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=112, help="side of the HLFP's images")
    parser.add_argument("--photos", type=int, default=300, help="to calibrate and choose on, both halves together")
    parser.add_argument("--folder", type=Path, help="of exported networks; the larger ones are measured with it only")
    given = parser.parse_args()
    lines = [machine(given.threads), ""]
    lines += ["| expert | form | ms | fp32 over it | 95 % interval | MB | layers in fp32 | agree, train | top-1, val |"]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    kinds = [
        "",
        "Microseconds per kind of operator, from ONNX Runtime's profiler (which slows all of them a little):",
        "",
    ]
    kinds += ["| expert | kind | fp32 | int8 | fp32 over int8 |", "| --- | --- | ---: | ---: | ---: |"]
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(Path(folder), given):
            rows, profile = measured(case, given)
            lines += rows
            kinds += profile
            print("\n".join(rows + profile), flush=True)
    text = "\n".join(lines + kinds) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "int8.md").write_text(text)
    print(text)


def machine(threads: int) -> str:
    """What was measured on; a processor without VNNI is said to be one."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    vnni = "with VNNI" if has_vnni() else "WITHOUT VNNI: int8 is not expected to pay"
    return (
        f"{names[0] if names else platform.processor()}, {vnni}, {os.cpu_count()} cores, {threads} thread(s);"
        f" ONNX Runtime {onnxruntime.__version__}; batch 1."
    )


def cases(folder: Path, given: argparse.Namespace) -> Iterator[Case]:
    """The experts, folded, for one image at a time."""
    source = open_source()
    yield expert("sea animals: sharks, rays", source, "sharks,rays", trained=True)
    from expertc.export.random import export_random

    for form in ("separate", "fused"):
        path = export_random("hlfp_small", 10, folder / f"{form}.onnx", form=form, size=given.size, gain=False)
        yield expert(f"HLFP-small, 5 of 10, {form}", open_source(path), "#0-4", trained=False)
    if given.folder is not None:
        large = forms.Expert(forms.NETWORKS[LARGE], given.folder, given.threads, None)
        yield Case(LARGE, large.folded, large.cut.card, large.source.card.taxonomy, False)


def expert(name: str, source: Source, classes: str, *, trained: bool) -> Case:
    cut = prune(source.model, source.card, resolve(source.card.taxonomy, classes).indices)
    return Case(name, Fold().run(with_batch(cut.model, 1))[0], cut.card, source.card.taxonomy, trained)


def measured(case: Case, given: argparse.Namespace) -> tuple[list[str], list[str]]:
    open_one = partial(open_session, threads=given.threads)
    output, preprocess = case.card.outputs[0], case.card.preprocess
    assert preprocess is not None
    photos = calibration(
        given.data, preprocess, case.card.classes, taxonomy=case.tree, most=given.photos
    ) if case.trained else unknown(given, preprocess)  # fmt: skip
    ranges = observe(case.model, [photos.observed], open_session=open_one)
    flavour = replace(ONNXRUNTIME, reduce_range=saturates())
    models = {"fp32": case.model, "int8": Quantise(ranges, flavour).run(case.model)[0]}
    single = {"fp32": "all", "int8": "0"}
    for what, kept in {"depthwise": depthwise(case.model), "first layer": first(case.model)}.items():
        if kept:
            models[f"int8, {what} fp32"] = Quantise(ranges, flavour, kept).run(case.model)[0]
            single[f"int8, {what} fp32"] = str(len(kept))
    if case.trained:  # what has learnt nothing decides by chance
        try:
            made, report = within_budget(
                case.model, ranges, photos.judged, flavour=flavour, output=output, open_session=open_one
            )
            models["int8, 1 point"] = made
            single["int8, 1 point"] = f"{len(report.restored)} of {report.layers}"
        except VerificationError as error:
            print(error.message)
    with ExitStack() as stack:
        opened = {name: stack.enter_context(closing(open_one(to_bytes(model)))) for name, model in models.items()}
        image = photos.judged[:1]
        samples = interleave(
            {name: partial(session.run, image) for name, session in opened.items()}, seconds=given.seconds
        )
        scores = {
            name: np.concatenate([session.run(x[None])[output.name] for x in photos.judged])
            for name, session in opened.items()
        }
        rows = []
        for name, session in opened.items():
            ratio, median = samples.ratio("fp32", name), samples.summary(name).median
            agrees = (scores[name].argmax(axis=1) == scores["fp32"].argmax(axis=1)).mean()
            top1 = accuracy(case, session, given.data) if case.trained else ""
            span = "" if ratio.low is None or name == "fp32" else f"{ratio.low:.2f} to {ratio.high:.2f}"
            rows.append(
                f"| {case.name} | {name} | {1e3 * (median or 0):.2f} | {ratio.value:.2f} | {span}"
                f" | {len(to_bytes(models[name])) / 1e6:.1f} | {single[name]} | {agrees:.1%} | {top1} |"
            )
    fp32, int8 = profiled(case.model, [models["fp32"], models["int8"]], photos.judged[:1], given.threads)
    profile = [
        f"| {case.name} | {kind} | {fp32[kind]:.0f} | {int8[kind]:.0f} |"
        f" {f'{fp32[kind] / int8[kind]:.2f}' if fp32[kind] and int8[kind] else ''} |"
        for kind in sorted(fp32 | int8, key=lambda kind: -max(fp32[kind], int8[kind]))
    ]
    return rows, profile


def depthwise(model: Model) -> frozenset[str]:
    """Results of the depthwise convolutions."""
    convolutions = (node for node in model.nodes if node.op == "Conv" and node.attrs.get("group", 1) > 1)
    return frozenset(node.outputs[0].name for node in convolutions if model.shapes[node.inputs[1].name][1] == 1)


def first(model: Model) -> frozenset[str]:
    """The result of the convolution that reads the image."""
    [image] = model.inputs
    return frozenset(n.outputs[0].name for n in model.nodes if n.op == "Conv" and n.inputs[0].name == image)


def unknown(given: argparse.Namespace, preprocess: Any) -> Any:
    """Photos for a network that has learnt nothing: any will do."""
    classes = open_dataset(given.data, "train").classes
    return calibration(given.data, preprocess, classes, most=given.photos)


def accuracy(case: Case, session: Any, data: Path) -> str:
    assert case.card.preprocess is not None
    photos, name = open_dataset(data, "val"), case.card.outputs[0].name
    found = evaluate(
        lambda batch: np.concatenate([session.run(x[None])[name] for x in batch]),
        case.card.preprocess,
        case.card.classes,
        photos,
        match=match_classes(photos.classes, case.card.classes, case.tree),
    )
    return f"{found.hits} of {found.images}"


def profiled(plain: Model, models: Sequence[Model], image: np.ndarray, threads: int) -> list[Counter[str]]:
    """Median microseconds of all operators of a kind together, of each model; the models run in turns."""
    with tempfile.TemporaryDirectory() as folder:
        sessions = []
        for number, model in enumerate(models):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.enable_profiling = threads, True
            options.profile_file_prefix = str(Path(folder) / f"profile-{number}")
            sessions.append(onnxruntime.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"]))
        for _ in range(RUNS):
            for session in sessions:
                for _ in range(2):  # the first brings the model back into the caches
                    session.run(None, {session.get_inputs()[0].name: image})
        return [by_kind(plain, json.loads(Path(session.end_profiling()).read_text())) for session in sessions]


def by_kind(plain: Model, events: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Convolutions are told apart by how they are connected: by the weights' shape, or the fp32 node of their name."""
    convolutions = [node for node in plain.nodes if node.op == "Conv"]
    kinds = {node.name: kind(plain.shapes[node.inputs[1].name], node.attrs.get("group", 1)) for node in convolutions}
    times: dict[str, list[int]] = {}
    group: dict[str, str] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        node, operator = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
        times.setdefault(node, []).append(event["dur"])
        if operator == "QLinearConv":
            operator = kinds.get(node.partition("_token_")[0], operator)
        elif operator in ("Conv", "FusedConv"):
            image_shape, weights = (next(iter(each.values())) for each in event["args"]["input_type_shape"][:2])
            operator = kind(weights, image_shape[1] // weights[1])
        group[node] = operator
    total: Counter[str] = Counter()
    for node, durations in times.items():
        total[group[node]] += float(np.median(durations[RUNS // 2 :][1::2]))
    return total


def kind(weights: Any, groups: int) -> str:
    size = "x".join(map(str, weights[2:]))
    if groups == 1:
        return f"convolution, {size}"
    return f"depthwise, {size}" if weights[1] == 1 else f"grouped, {size}"


if __name__ == "__main__":
    main()
