"""Synthetic branched classifiers of any size: a small trunk, ``k`` separate branches, weights in an external file.

A branch is two convolutions with batch norms and a head of one logit, as in the seeds' networks: ten nodes, twelve
initializers. The weights are random bytes in a small range, written as they are made, so a model may be larger than
the memory. ``python -m benchmarks.synthetic FOLDER --branches 1000 --gigabytes 5`` writes ``model.onnx`` and
``model.onnx.data``; the model card is embedded.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import expertc
from expertc.card import CARD_KEY, Card, Output
from expertc.preprocessing import Preprocess
from expertc.taxonomy import Taxonomy

CHANNELS, SIZE = 32, 16  # of the trunk's output, and of the image
CHUNK = 2**22  # values written at a time
SMALLEST = 1024  # bytes of a tensor in the external file, as in onnx.save_model; smaller ones stay in the protobuf


class Store:
    """The external file: appends tensors, aligned as ONNX advises, and remembers where each lies."""

    def __init__(self, file: BinaryIO, location: str, hollow: bool) -> None:
        self.file, self.location, self.hollow = file, location, hollow
        self.random = np.random.default_rng(0)
        self.tensors: list[TensorProto] = []

    def random_tensor(self, name: str, shape: tuple[int, ...], scale: float, shift: float = 0.0) -> str:
        """Write a tensor of ``shape`` of uniform values in ``shift`` +- ``scale``."""
        offset, count = self.file.tell(), math.prod(shape)
        if 4 * count < SMALLEST:
            values = shift + scale * (2 * self.random.random(shape, np.float32) - 1)
            self.tensors.append(numpy_helper.from_array(values.astype(np.float32), name))
            return name
        if self.hollow and count > CHUNK // 1024:
            self.file.truncate(offset + 4 * count)
            self.file.seek(0, 2)
        for start in range(0, 0 if self.file.tell() > offset else count, CHUNK):
            part = self.random.random(min(CHUNK, count - start), np.float32)
            self.file.write((shift + scale * (2 * part - 1)).astype(np.float32).tobytes())
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self.location), ("offset", offset), ("length", 4 * count)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name


def write_model(folder: Path, branches: int, total_bytes: int, *, hollow: bool = False) -> Path:
    """Write a model of ``branches`` classes with about ``total_bytes`` of weights into ``folder``; returns its path.

    The large weights of a ``hollow`` one are holes in the file, zeros that take no room on the disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    width = _width(total_bytes / branches / 4)
    nodes: list[onnx.NodeProto] = []
    with (folder / "model.onnx.data").open("wb") as file:
        store = Store(file, "model.onnx.data", hollow)
        nodes += _block(store, "trunk", "image", 3, CHANNELS, 3)
        nodes += [n for branch in range(branches) for n in _branch(store, f"branch.{branch}", width)]
    nodes.append(helper.make_node("Concat", [f"branch.{b}.logit" for b in range(branches)], ["logits"], "join", axis=1))
    graph = helper.make_graph(
        nodes, "synthetic",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", branches])],
        store.tensors,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    card = Card(
        name="synthetic",
        taxonomy=Taxonomy.flat([f"class-{b}" for b in range(branches)]),
        outputs=(Output("logits", "logits", 1),),
        input="image",
        preprocess=Preprocess(size=(SIZE, SIZE), resize=SIZE),
        provenance={"expertc": expertc.__version__},
    )
    model.metadata_props.add(key=CARD_KEY, value=card.to_json())
    path.write_bytes(model.SerializeToString())
    return path


def _width(values: float) -> int:
    """Channels ``w`` of a branch so that ``CHANNELS * w + 9 w * w`` weights are about ``values``."""
    return max(1, round((-CHANNELS + math.sqrt(CHANNELS**2 + 36 * values)) / 18))


def _block(store: Store, name: str, source: str, cin: int, cout: int, kernel: int) -> list[onnx.NodeProto]:
    """Convolution, batch norm, ReLU."""
    weight = store.random_tensor(f"{name}.weight", (cout, cin, kernel, kernel), (2 / (cin * kernel**2)) ** 0.5)
    vectors = [
        store.random_tensor(f"{name}.{role}", (cout,), 0.1, shift)
        for role, shift in (("gamma", 1.0), ("beta", 0.0), ("mean", 0.0), ("variance", 1.0))
    ]
    padding: Any = [kernel // 2] * 4
    return [
        helper.make_node("Conv", [source, weight], [f"{name}.conv"], f"{name}.conv", pads=padding),
        helper.make_node("BatchNormalization", [f"{name}.conv", *vectors], [f"{name}.norm"], f"{name}.norm"),
        helper.make_node("Relu", [f"{name}.norm"], [f"{name}.out"], f"{name}.relu"),
    ]


def _branch(store: Store, name: str, width: int) -> list[onnx.NodeProto]:
    head = [
        store.random_tensor(f"{name}.head.weight", (1, width), 0.5),
        store.random_tensor(f"{name}.head.bias", (1,), 0.5),
    ]
    return [
        *_block(store, f"{name}.1", "trunk.out", CHANNELS, width, 1),
        *_block(store, f"{name}.2", f"{name}.1.out", width, width, 3),
        helper.make_node("GlobalAveragePool", [f"{name}.2.out"], [f"{name}.pool"], f"{name}.pool"),
        helper.make_node("Flatten", [f"{name}.pool"], [f"{name}.flat"], f"{name}.flatten"),
        helper.make_node("Gemm", [f"{name}.flat", *head], [f"{name}.logit"], f"{name}.head", transB=1),
    ]


def main() -> None:
    """Write one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--branches", type=int, default=1000)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    arguments = parser.parse_args()
    path = write_model(arguments.folder, arguments.branches, int(arguments.gigabytes * 1e9))
    print(f"{path}: {sum(f.stat().st_size for f in arguments.folder.iterdir()):,} bytes")


if __name__ == "__main__":
    main()
