"""build(): the whole road from a selection to a bundle, as one readable function."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from . import __version__
from .backends import cpu
from .bundle import LABELS, MODEL, PREPROCESS, README, Bundle, Output, default_name, reserve
from .errors import BundleError, ModelError, UnsupportedError, UsageError, VerificationError
from .graph import Model, to_bytes, with_batch
from .graph.cost import Cost, cost
from .instructions import instructions
from .measure import Ratio, interleave
from .preprocessing import Preprocess
from .selection import Selection, resolve
from .source import Foreign, Source, open_source
from .surgery.fold import Fold
from .surgery.owners import Branch, Ownership, ownership
from .surgery.passes import run_all
from .surgery.prune import Cut, prune
from .targets import Target, load_target
from .text import shown
from .verify import Certificate, verify

PIPELINE = (Fold(),)
MEASURE_SECONDS = 0.6
LEVELS = ("fast", "full", "off")


@dataclass(frozen=True)
class Side:
    """One column of the table: the full model, or the expert before folding (so that both are counted alike)."""

    classes: int
    branches: int
    cost: Cost
    file_bytes: int


@dataclass(frozen=True)
class Built:
    """A finished build: where the bundle is and what there is to say about it."""

    path: Path
    selection: Selection
    full: Side
    expert: Side
    certificate: Certificate
    speedup: Ratio | None
    notes: tuple[str, ...]
    seconds: Mapping[str, float]


@dataclass
class _Clock:
    """Times of the stages; ``told`` hears the name of each as it begins."""

    told: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.told(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 4)


def build(
    model: str | Path | None = None,
    *,
    classes: str | Sequence[str],
    output: str | Path | None = None,
    target: str = "cpu",
    verification: str = "fast",
    images: np.ndarray[Any, Any] | None = None,
    batch: int | None = 1,
    foreign: Foreign | None = None,
    force: bool = False,
    threads: int | None = None,
    measure_seconds: float = MEASURE_SECONDS,
    progress: Callable[[str], None] = lambda stage: None,
) -> Built:
    """Build an expert for ``classes`` and write its bundle.

    Args:
        model: the full model as ONNX; the bundled sea-animals model by default.
        classes: the text of ``--classes`` (grammar: ``expertc.selection``), or a list of such items.
        output: the bundle directory; by default named after the classes, in the working directory.
        target: name of a device profile.
        verification: "fast" (against the full model's kept nodes), "full" (against the whole model) or "off".
        images: preprocessed images ``[N, 3, H, W]`` to verify on; noise by default.
        batch: images per call the expert takes; None leaves it open.
        foreign: labels and more for a model without a card.
        force: replace an existing bundle.
        threads: CPU threads for measuring.
        measure_seconds: length of the interleaved latency window; 0 leaves it out.
        progress: is told the name of each stage as it begins.

    Raises every error of ``expertc.errors`` up to 9; whatever is raised, nothing is left at ``output``.
    """
    if verification not in LEVELS:
        raise UsageError(f"There is no verification level {shown(verification)}.", f"Choose from {', '.join(LEVELS)}.")
    clock = _Clock(progress)
    device = load_target(target)
    if device.backend != "onnxruntime":
        raise UnsupportedError(
            f"This version cannot compile for '{device.name}' ({device.backend}).",
            "Build with --target cpu; the bundle's expert.onnx also runs elsewhere.",
        )
    with clock.stage("read"):
        source = open_source(model, foreign)
        _refuse_newer(source.model, device)
        selection = resolve(source.card.taxonomy, classes if isinstance(classes, str) else ",".join(classes))
    path = Path(output) if output is not None else Path(_name(selection))
    with reserve(path, force=force) as place:
        with clock.stage("cut"):
            cut = prune(source.model, source.card, selection.indices)
            _refuse_nan(cut.model)
            owners = ownership(source.model, source.card)
        with clock.stage("fold"):
            final, passes = run_all(cut.model if batch is None else with_batch(cut.model, batch), PIPELINE)
            expert = to_bytes(final)
        with clock.stage("verify"):
            certificate = _verify(source, cut, expert, verification, images)
        with clock.stage("compile"):
            engine = cpu.compile_expert(expert, device)
        speedup = None
        if measure_seconds > 0:
            with clock.stage("measure"):
                speedup = _measure(source, expert, measure_seconds, threads)
        sides = _sides(source, cut, owners, len(expert))
        with clock.stage("write"):
            manifest = _manifest(source, cut, selection, device, sides, certificate, passes, batch)
            report = _report(clock.seconds, speedup)
            _write(place, {MODEL: expert, **engine}, cut, manifest, report)
    notes = (*_remarks(selection, cut), *cut.notes)
    return Built(path, selection, *sides, certificate, speedup, notes, clock.seconds)


def _verify(source: Source, cut: Cut, expert: bytes, level: str, images: np.ndarray[Any, Any] | None) -> Certificate:
    if level == "off":
        return Certificate.off()
    return verify(
        source.data,
        to_bytes(cut.model),
        expert,
        card_full=source.card,
        indices=cut.indices,
        level=level,
        inputs=images,
        images=images is not None,
    )


def _name(selection: Selection) -> str:
    """The default name: up to three classes as they were asked for, more by a hash that no order changes."""
    return default_name(selection.asked if len(selection.asked) <= 3 else selection.classes)


def _refuse_newer(model: Model, device: Target) -> None:
    for what, has, limit in (("opset", model.opset, device.max_opset), ("IR version", model.ir_version, device.max_ir)):
        if limit is not None and has > limit:
            raise UnsupportedError(
                f"The model uses ONNX {what} {has}, but '{device.name}' reads up to {limit}.",
                "Export it again for an older one.",
            )


def _refuse_nan(model: Model) -> None:
    for name, constant in model.constants.items():
        values = np.asarray(constant.values)
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise ModelError(f"The weights {shown(name)} hold NaN.", "Train or export the model again.")


def _measure(source: Source, expert: bytes, seconds: float, threads: int | None) -> Ratio:
    """Time of the full model over time of the expert, one image each, in turns."""
    with (
        closing(cpu.open_session(source.data, threads=threads)) as full,
        closing(cpu.open_session(expert, threads=threads)) as small,
    ):
        shape = [1, *(axis or cpu.FREE_AXIS for axis in full.input_shape[1:])]
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        calls = {"full": lambda: full.run(x), "expert": lambda: small.run(x)}
        return interleave(calls, seconds=seconds, warmup=seconds / 2).ratio("full", "expert")


def _sides(source: Source, cut: Cut, owners: Ownership, expert_bytes: int) -> tuple[Side, Side]:
    kept: tuple[Branch, ...] = owners.kept(cut.indices)
    full = Side(len(source.card.classes), len(owners.branches), cost(source.model), len(source.data))
    return full, Side(len(cut.indices), len(kept), cost(cut.model), expert_bytes)


def _remarks(selection: Selection, cut: Cut) -> Iterator[str]:
    if selection.is_all:
        yield "Every class is selected, so nothing was cut away."
    if len(selection.indices) == 1:
        yield "A single class cannot be told from others: the expert gives its raw score, not a probability."
    for reason, times in cut.stopped:
        yield f"Kept whole, {times} times: {reason}."


# -- what goes into the bundle -------------------------------------------------------------------------------------


def _manifest(
    source: Source, cut: Cut, selection: Selection, device: Target, sides: tuple[Side, Side],
    certificate: Certificate, passes: Sequence[str], batch: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Everything that is the same whenever the same build is repeated; times and latencies go into the report."""
    output = cut.card.outputs[0]
    tensors = {
        name: sha256(np.asarray(c.values).tobytes()).hexdigest() for name, c in sorted(cut.model.constants.items())
    }
    return {
        "name": cut.card.name,
        "source": {"name": source.name, "sha256": source.sha256, "kept_tensors": tensors},
        "selection": {
            "requested": selection.requested,
            "indices": list(selection.indices),
            "classes": list(selection.classes),
            "of": len(source.card.classes),
        },
        "target": device.name,
        "forms": {"passes": list(passes), "fuse": "off", "batch": "dynamic" if batch is None else batch},
        "precision": "fp32",
        "input": {"name": cut.card.input, "shape": list(cut.model.inputs[cut.card.input])},
        "output": asdict(output),
        "renormalised": cut.renormalised,
        "costs": {"full": asdict(sides[0]), "expert": asdict(sides[1])},
        "verification": certificate.to_mapping(),
        "versions": {
            "expertc": __version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
        },
        "weights_licence": cut.card.weights_licence,
        "provenance": dict(cut.card.provenance),
    }


def _report(seconds: Mapping[str, float], speedup: Ratio | None) -> dict[str, Any]:
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": dict(seconds),
        "machine": {"system": platform.system(), "machine": platform.machine(), "python": platform.python_version()},
        "full_time_over_expert_time": None if speedup is None else asdict(speedup),
    }


def _write(
    place: Output, files: Mapping[str, bytes], cut: Cut, manifest: dict[str, Any], report: dict[str, Any]
) -> None:
    extra = {LABELS: "".join(f"{label}\n" for label in cut.card.classes).encode()}
    preprocess: Preprocess | None = cut.card.preprocess
    if preprocess is not None:
        extra[PREPROCESS] = (json.dumps(preprocess.to_mapping(), indent=2) + "\n").encode()
    extra[README] = instructions(cut.card).encode()
    place.write({**files, **extra}, manifest, report)


# -- checking a bundle again ---------------------------------------------------------------------------------------


def verify_bundle(
    bundle: Bundle, source: Source, *, level: str = "full", images: np.ndarray[Any, Any] | None = None
) -> Certificate:
    """Check a bundle against its full model: the cut is made again, and the bundle's own file is what must agree.

    Raises ``BundleError`` if the bundle was built from another model, ``VerificationError`` if it does not agree.
    """
    built_from = bundle.manifest.get("source", {}).get("sha256")
    if built_from != source.sha256:
        raise BundleError(
            f"The bundle '{bundle.path}' was built from another model (SHA-256 {str(built_from)[:12]}…).",
            "Give the full model it was built from with --against.",
        )
    cut = prune(source.model, source.card, bundle.manifest["selection"]["indices"])
    if bundle.labels != cut.card.classes:
        raise VerificationError(
            f"The labels of '{bundle.path}' are not the classes of its selection.", "Build the bundle again."
        )
    return _verify(source, cut, bundle.file(MODEL).read_bytes(), level, images)
