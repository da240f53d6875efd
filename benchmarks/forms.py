"""The forms one expert can run in, as calls that can be timed.

They are: the full model; the expert as it was cut, which is what Polygraphy's extract gives too; folded, and what ONNX
Runtime is slow at written otherwise; that fused in each way there is; int8. Beside them the same torch network built
with only the selected branches (random weights): exported ("re-export"), in torch, and compiled by torch; OpenVINO on
the cut; and products of 1024 x 1024 matrices, which say what this machine can do at all. All but torch, OpenVINO and
numpy run on ONNX Runtime.

Threads of ONNX Runtime stop spinning when a call ends, or they would take the next form's processor; a user who runs
one model has them spin.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from expertc.card import Card, Output
from expertc.errors import VerificationError
from expertc.graph import Model, to_bytes, with_batch
from expertc.graph.cost import cost
from expertc.observe import observe
from expertc.selection import resolve
from expertc.source import Source, open_source
from expertc.surgery.fold import Fold
from expertc.surgery.fuse import FORMS, Form, Fuse
from expertc.surgery.prune import Cut, prune
from expertc.surgery.strength import Strength
from expertc.taxonomy import Taxonomy

FULL, CUT, FOLDED, FUSED, AGAIN = "full model", "cut", "folded", "fused: ", "re-export"
INT8, WITHIN, OPENVINO, EAGER, COMPILED = "int8", "int8 within 1 point", "OpenVINO", "torch", "torch.compile"
GEMM, NUMPY_GEMM = "1024³, ONNX Runtime", "1024³, numpy"

SIDE = 1024  # of the matrices
PHOTOS = 300  # to calibrate and choose layers on, as in benchmarks.int8
SEED = 0

Array = np.ndarray[Any, Any]
Call = Callable[[], Array]


class LeftOutError(Exception):
    """Why a form is not measured, in a few words."""


@dataclass(frozen=True)
class Network:
    """A full model and the classes kept of it; ``arch`` of the zoo with random weights, or None: the bundled one."""

    arch: str | None
    classes: int
    form: str
    kept: str


NETWORKS = {
    "HLFP-small, 5 of 10": Network("hlfp_small", 10, "separate", "#0-4"),
    "HLFP-small, 5 of 10, one grouped network": Network("hlfp_small", 10, "fused", "#0-4"),
    "sea animals, sharks and rays": Network(None, 0, "", "sharks,rays"),
    "HLFP-small, 5 of 100": Network("hlfp_small", 100, "separate", "#0-4"),
    "HLFP-small, 10 of 100": Network("hlfp_small", 100, "separate", "#0-9"),
    "HLFP-small, 20 of 100": Network("hlfp_small", 100, "separate", "#0-19"),
    "HLFP-small, 100 of 100": Network("hlfp_small", 100, "separate", "#0-99"),
    "HLFP nested, 20 of 100 (17 of 52)": Network("hlfp_nested", 100, "separate", "#80-99"),
    "ResNet50-NHL, 20 of 100": Network("nhl_resnet50", 100, "", "#0-19"),
    "ConvNeXtV2-NHL, 5 of 1000": Network("nhl_convnextv2_tiny", 1000, "", "#0-4"),
}


class Expert:
    """An expert, and how each of its forms is made."""

    def __init__(self, network: Network, folder: Path, threads: int, data: Path | None) -> None:
        self.network, self.folder, self.threads, self.data = network, folder, threads, data
        self.written: dict[bytes, str] = {}

    @cached_property
    def source(self) -> Source:
        """The full model; exported if it is not in the folder yet."""
        network = self.network
        if network.arch is None:
            return open_source()
        path = self.folder / f"{network.arch}-{network.classes}-{network.form or 'fused'}.onnx"
        if not path.exists():
            from expertc.export import export_random

            export_random(network.arch, network.classes, path, form=network.form, gain=False)
        return open_source(path)

    @cached_property
    def cut(self) -> Cut:
        card = self.source.card
        return prune(self.source.model, card, resolve(card.taxonomy, self.network.kept).indices)

    @cached_property
    def single(self) -> Model:
        """The expert for one image at a time."""
        return with_batch(self.cut.model, 1)

    @cached_property
    def folded(self) -> Model:
        return Strength().run(Fold().run(self.single)[0])[0]

    @cached_property
    def image(self) -> Array:
        preprocess = self.source.card.preprocess
        assert preprocess is not None
        return np.random.default_rng(SEED).standard_normal((1, 3, *preprocess.size), np.float32)

    def makers(self) -> dict[str, Callable[[], Call]]:
        """What makes each form, in the order of the table."""
        a, b = np.random.default_rng(SEED).standard_normal((2, SIDE, SIDE), np.float32)
        return {
            FULL: lambda: self.session(self.source.runnable),
            CUT: lambda: self.session(to_bytes(self.single)),
            FOLDED: lambda: self.session(to_bytes(self.folded)),
            **{FUSED + form.name: partial(self.fused, form) for form in FORMS},
            INT8: self.int8,
            WITHIN: self.within_budget,
            AGAIN: lambda: self.session(self.again()),
            OPENVINO: self.openvino,
            EAGER: self.torch,
            COMPILED: self.compiled,
            GEMM: lambda: self.session(product(b), a),
            NUMPY_GEMM: lambda: lambda: a @ b,
        }

    def session(self, model: bytes | Path, given: Array | None = None) -> Call:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
        feeds = {session.get_inputs()[0].name: self.image if given is None else given}
        return lambda: session.run(None, feeds)[0]

    def fused(self, form: Form) -> Call:
        model, changed = Fuse(form).run(self.folded)
        if not changed:
            raise LeftOutError("nothing to fuse")
        data = to_bytes(model)
        if (same := self.written.setdefault(data, form.name)) != form.name:
            raise LeftOutError(f"the same as {same}")
        return self.session(data)

    def int8(self) -> Call:
        """Every layer in integers; ranges from noise, as the time does not depend on them."""
        try:
            from expertc.backends.processor import saturates
            from expertc.surgery.quantise import ONNXRUNTIME, Quantise
        except ImportError:
            raise LeftOutError("this version has no int8") from None
        ranges = observe(self.folded, [self.image])
        model, changed = Quantise(ranges, replace(ONNXRUNTIME, reduce_range=saturates())).run(self.folded)
        if not changed:
            raise LeftOutError("nothing to quantise")
        return self.session(to_bytes(model))

    def within_budget(self) -> Call:
        """As many layers in integers as agreement within a point allows: only decisions that were learnt can agree."""
        try:
            from expertc.backends.processor import saturates
            from expertc.evaluate.calibration import calibration
            from expertc.sensitivity import within_budget
            from expertc.surgery.quantise import ONNXRUNTIME
        except ImportError:
            raise LeftOutError("this version has no int8") from None
        card = self.cut.card
        if self.network.arch is not None:
            raise LeftOutError("random weights")
        if self.data is None or card.preprocess is None:
            raise LeftOutError("no photos given with --data")
        tree, flavour = self.source.card.taxonomy, replace(ONNXRUNTIME, reduce_range=saturates())
        photos = calibration(self.data, card.preprocess, card.classes, taxonomy=tree, most=PHOTOS)
        ranges = observe(self.folded, [photos.observed])
        try:
            model, _ = within_budget(self.folded, ranges, photos.judged, flavour=flavour, output=card.outputs[0])
        except VerificationError as error:
            raise LeftOutError(error.message) from error
        return self.session(to_bytes(model))

    def again(self) -> Path:
        """The file of the smaller torch network, exported; it must have as many parameters as the expert."""
        name = f"{self.network.arch or 'bundled'}-{self.network.classes}-{self.network.form or 'fused'}"
        path = self.folder / f"{name}-{self.network.kept.lstrip('#').replace(',', '-')}-again.onnx"
        if not path.exists():
            network = self.rebuilt()
            from expertc.export import export_file

            card = Card("peer", self.taxonomy, (Output("logits"),), "image", self.source.card.preprocess)
            import torch

            export_file(network, card, self.image.shape[2:], torch.from_numpy(self.image).repeat(2, 1, 1, 1), path)
        ours, theirs = cost(self.cut.model).parameters, open_source(path).cost.parameters
        if ours != theirs:
            raise LeftOutError(f"it has {theirs:,} parameters, the expert {ours:,}")
        return path

    @property
    def taxonomy(self) -> Taxonomy:
        """The tree of the selected classes."""
        return self.source.card.taxonomy.restrict(self.cut.indices)

    def rebuilt(self) -> Any:
        """The torch network with only the selected branches, the same each time."""
        try:
            import torch

            from expertc.zoo.arguments import build
        except ImportError:
            raise LeftOutError("torch is not installed") from None
        about = self.source.card.provenance
        arguments = dict(about.get("arch_args") or {})
        if about.get("form"):
            arguments["form"] = about["form"]
        torch.manual_seed(SEED)
        return build(about["arch"], self.taxonomy, arguments).eval()

    def torch(self) -> Call:
        return self.in_torch(self.rebuilt())

    def in_torch(self, network: Any) -> Call:
        import torch

        torch.set_num_threads(self.threads)
        image = torch.from_numpy(self.image)

        def call() -> Array:
            with torch.inference_mode():
                scores: Array = network(image).numpy()
            return scores

        return call

    def compiled(self) -> Call:
        network = self.rebuilt()
        import torch

        if not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
            raise LeftOutError("it needs a C++ compiler")
        call = self.in_torch(torch.compile(network))
        start = time.perf_counter()
        try:
            call()
        except torch._dynamo.exc.TorchDynamoException as error:
            raise LeftOutError(f"torch cannot compile it ({type(error).__name__})") from error
        tell(f"compiled in {time.perf_counter() - start:.0f} s")
        return call

    def openvino(self) -> Call:
        try:
            import openvino
        except ImportError:
            raise LeftOutError("it is not installed") from None
        core = openvino.Core()
        wishes = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        model = core.compile_model(
            core.read_model(to_bytes(self.single)), "CPU", {**wishes, "INFERENCE_NUM_THREADS": self.threads}
        )
        request = model.create_infer_request()
        return lambda: request.infer({0: self.image})[0]


def product(b: Array) -> bytes:
    """A model that multiplies its input by ``b``."""
    from onnx import TensorProto, helper, numpy_helper

    a, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, list(b.shape)) for name in "ac")
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = helper.make_graph([node], "product", [a], [c], [numpy_helper.from_array(b, "b")])
    opsets = [helper.make_opsetid("", 17)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data


def tell(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)
