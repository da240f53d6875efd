"""Everything that needs no GPU: networks, experts, forms, precisions, images, and ONNX Runtime's scores.

Networks of random weights are written without them: they are drawn again on the other machine, to the bit. So every
form of an expert has weights of its own, which say nothing about another form's; it is held against ONNX Runtime on the
same weights. The bundled model's experts are trained, and are carried as they are.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from contextlib import closing
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.forms import CUT, FULL, FUSED, Expert, LeftOutError, Network, tell
from expertc import __version__
from expertc.backends.cpu import open_session
from expertc.errors import ExpertcError
from expertc.evaluate.calibration import Calibration, calibration
from expertc.graph import Model, Shape, read_model, to_proto, with_batch
from expertc.graph.cost import cost
from expertc.lint import ceiling, lint, refuse
from expertc.observe import observe
from expertc.sensitivity import within_budget
from expertc.source import Source
from expertc.surgery.exits import staged
from expertc.surgery.fold import Fold
from expertc.surgery.fuse import FORMS, Fuse
from expertc.surgery.half import Half
from expertc.surgery.lower import Lower
from expertc.surgery.quantise import TENSORRT
from expertc.targets import Release, load_target

from .contests import ALL, CONTESTS, FP16, FP32, SIDES, STAGE, Contest, Entry
from .hollow import Known, hollow, redraw
from .seeds import Array, images

NOISE = 16  # images of noise for networks of random weights
PHOTOS = 200  # to calibrate on and to judge, together
LIMIT = 45_000_000  # bytes of the folder, which is carried with a checkout of 25 MB


class Sized(Expert):
    """An expert of a network for images of another size."""

    def __init__(self, network: Network, folder: Path, data: Path | None, side: int) -> None:
        super().__init__(network, folder, 1, data)
        self.side = side

    @cached_property
    def source(self) -> Source:
        """The full model; exported if it is not in the folder yet."""
        network = self.network
        path = self.folder / f"{network.arch}-{network.classes}-{network.form or 'fused'}.onnx"
        if network.arch is not None and not path.exists():
            from expertc.export import export_random

            export_random(network.arch, network.classes, path, form=network.form, size=self.side, gain=False)
        return super().source


class Trained:
    """The photos of the bundled model's experts."""

    def __init__(self, expert: Expert) -> None:
        self.expert = expert

    @cached_property
    def photos(self) -> Calibration:
        card, preprocess = self.expert.cut.card, self.expert.source.card.preprocess
        if self.expert.data is None or preprocess is None:
            raise LeftOutError("no photos given with --data")
        tree = self.expert.source.card.taxonomy
        return calibration(self.expert.data, preprocess, card.classes, taxonomy=tree, most=PHOTOS)

    def pixels(self) -> Array:
        """The photos to judge, as the bytes that they were before they were scaled."""
        spec = self.expert.source.card.preprocess
        assert spec is not None
        mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (spec.mean, spec.std))
        return np.rint((self.photos.judged * std + mean) * 255).astype(np.uint8)


class Preparation:
    """The folder that is carried, while it is made."""

    def __init__(self, folder: Path, scratch: Path, data: Path | None, tensorrt: Release) -> None:
        self.folder, self.scratch, self.data, self.tensorrt = folder, scratch, data, tensorrt
        self.engines: dict[str, dict[str, Any]] = {}
        self.images: dict[str, dict[str, Any]] = {}
        self.left_out: dict[str, str] = {}
        self.answered: set[str] = set()
        self.experts: dict[str, Expert] = {}

    def add(self, entry: Entry) -> str | None:
        """Write an engine's files unless they are there; its name, or None if there is no such engine."""
        name = name_of(entry)
        if name in self.engines:
            return name
        if name not in self.left_out:
            tell(name)
            try:
                self.engines[name] = self.made(entry, name)
            except (LeftOutError, ExpertcError) as reason:  # such as a network that this version does not have
                self.left_out[name] = str(reason)
                tell(f"left out: {reason}")
        return name if name in self.engines else None

    def made(self, entry: Entry, name: str) -> dict[str, Any]:
        network = ALL[entry.network]
        expert = self.experts.setdefault(
            entry.network, Sized(network, self.scratch, self.data, SIDES.get(entry.network, 224))
        )
        single = Lower(ceiling(self.tensorrt)).run(shaped(expert, entry.form))[0]
        trained = network.arch is None and entry.form != FULL
        proto, known = to_proto(single), {}
        if not trained:
            known = redraw(proto)
            single = read_model(proto.SerializeToString())
        view = self.view(expert, trained, next(iter(single.inputs.values())))
        reference = f"{name_of(replace(entry, precision=FP32))}.npz"  # of the same weights in single precision
        if reference not in self.answered:
            self.answer(proto, view, reference)
        lowered = single if entry.precision == FP32 else self.lowered(single, entry.precision, expert)
        target = load_target("gpu")
        refuse(lint(lowered, target, release=self.tensorrt), target)
        proto = proto if lowered is single else to_proto(lowered)
        about = {
            "id": name, **asdict(entry), "file": f"{name}.onnx.rest", "draws": f"{name}.draws.json",
            "images": view, "reference": reference, "trained": trained, "parameters": cost(single).parameters,
            "macs": cost(single).macs,
        }  # fmt: skip
        return about | self.written(proto, known, about)

    def written(self, proto: onnx.ModelProto, known: Known, about: dict[str, Any]) -> dict[str, Any]:
        """Write a graph, without the weights that are known, and how these are drawn."""
        data, rest, draws = hollow(proto, known)
        (self.folder / about["file"]).write_bytes(rest)
        (self.folder / about["draws"]).write_text(json.dumps([draw.to_mapping() for draw in draws]) + "\n")
        return {"sha256": hashlib.sha256(data).hexdigest()}

    def lowered(self, single: Model, precision: str, expert: Expert) -> Model:
        if precision == FP16:
            made, changed = Half().run(single)
        else:
            card, photos = expert.cut.card, Trained(expert).photos
            ranges = observe(single, [photos.observed])
            made, report = within_budget(single, ranges, photos.judged, flavour=TENSORRT, output=card.outputs[0])
            changed = len(report.restored) < report.layers
        if not changed:
            raise LeftOutError(f"nothing becomes {precision}")
        return made

    def view(self, expert: Expert, trained: bool, shape: Shape) -> str:
        """The name of the images that an engine is judged on; of a later stage, what stands for its features."""
        spec = expert.source.card.preprocess
        assert spec is not None
        if trained and self.data is not None:
            name = "photos"
            if name not in self.images:
                np.save(self.folder / "photos.npy", Trained(expert).pixels())
                self.images[name] = {"kind": name, "file": "photos.npy", "mean": spec.mean, "std": spec.std}
            return name
        name = f"noise-{'x'.join(map(str, shape[1:]))}"
        self.images[name] = {"kind": "noise", "shape": [NOISE, *shape[1:]], "seed": 0}
        return name

    def answer(self, proto: onnx.ModelProto, view: str, file: str) -> None:
        """ONNX Runtime's outputs on the images, without its graph optimisations."""
        x = images(self.images[view], self.folder)
        with closing(open_session(proto.SerializeToString(), optimise=False)) as session:
            rows = [session.run(x[i : i + 1]) for i in range(len(x))]
        np.savez(self.folder / file, **{key: np.concatenate([row[key] for row in rows]) for key in session.outputs})
        self.answered.add(file)

    def contest(self, asked: Contest) -> dict[str, Any] | None:
        """The contest over what could be made; None without its base."""
        made = {entry: self.add(entry) for entry in asked.entries}
        if made[asked.base] is None:
            return None
        return {
            "id": asked.id, "name": asked.name, "engines": [name for name in made.values() if name is not None],
            "base": made[asked.base], "budget": asked.budget,
        }  # fmt: skip


def prepare(folder: Path, scratch: Path, data: Path | None, only: str, tensorrt: Release) -> None:
    """Write ``folder``; what it holds already is written over."""
    for place in (folder, scratch):
        place.mkdir(parents=True, exist_ok=True)
    work = Preparation(folder, scratch, data, tensorrt)
    contests = [made for asked in CONTESTS if only in asked.name and (made := work.contest(asked)) is not None]
    packages = ("onnx", "onnxruntime", "numpy")
    plan = {
        "prepared": {
            "expertc": __version__,
            "tensorrt": list(tensorrt),
            "machine": platform.machine(),
            **{name: version(name) for name in packages},
        },
        "images": work.images,
        "engines": list(work.engines.values()),
        "contests": contests,
        "left_out": work.left_out,
    }
    (folder / "plan.json").write_text(json.dumps(plan, indent=1) + "\n")
    size = sum(file.stat().st_size for file in folder.iterdir())
    tell(f"{len(work.engines)} engines in {len(contests)} contests, {size / 1e6:.1f} MB in {folder}")
    if size > LIMIT:
        raise SystemExit(f"that is more than {LIMIT / 1e6:g} MB: prepare fewer with --only")


def shaped(expert: Expert, form: str) -> Model:
    """The graph of a form, for one image at a time; folded, as a build's are, and as TensorRT would fold them."""
    if form == FULL:
        return Fold().run(with_batch(expert.source.model, 1))[0]
    cut = Fold().run(expert.single)[0]
    if form == CUT:
        return cut
    if form.startswith(STAGE):
        return staged(cut, expert.cut.card)[int(form.removeprefix(STAGE)) - 1]
    model, changed = Fuse(next(each for each in FORMS if FUSED + each.name == form)).run(cut)
    if not changed:
        raise LeftOutError("nothing to fuse")
    return model


def name_of(entry: Entry) -> str:
    """A file name for an engine."""
    return re.sub(r"[^a-z0-9]+", "-", f"{entry.network} {entry.form} {entry.precision}".lower()).strip("-")
