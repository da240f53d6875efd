"""Models from strangers: whatever is in the file, reading and cutting it ends in a result or in an error of ours.

Nothing outside the file is read, and a few hundred bytes do not ask for gigabytes.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import Net, card
from onnx import TensorProto, helper, numpy_helper
from victims import everything

import expertc
from expertc.card import Card, Output
from expertc.errors import ExpertcError, InvalidArtifactError, ModelError
from expertc.graph import read_model, to_bytes
from expertc.graph.cost import cost
from expertc.surgery.fold import Fold
from expertc.surgery.owners import ownership
from expertc.surgery.prune import prune

ROADS: tuple[Callable[[Any, Card], Any], ...] = (
    lambda model, full: to_bytes(prune(model, full, [0, 2]).model),
    lambda model, full: to_bytes(Fold().run(model)[0]),
    lambda model, full: ownership(model, full),
    lambda model, full: cost(model),
)


def attempt(data: bytes, full: Card) -> list[str]:
    """Take every road with the file; the names of the errors of ours that came of it. Any other error gets out."""
    found: list[ExpertcError] = []

    def take(road: Callable[[], Any]) -> Any:
        try:
            return road()
        except ExpertcError as error:
            found.append(error)
            return None

    model = take(lambda: read_model(data))
    if model is not None:
        for road in ROADS:
            take(lambda road=road: road(model, full))
    for error in found:
        assert isinstance(error, InvalidArtifactError), repr(error)
        assert error.message.isprintable()
    return [type(error).__name__ for error in found]


FULL = card(6, Output("scores", "probabilities"))


def test_the_victim_is_healthy() -> None:
    assert attempt(everything().bytes(), FULL) == []


# -- bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes(seed: int) -> None:
    data, draw = everything().bytes(), random.Random(seed)
    for _ in range(25):
        broken = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 8))):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        attempt(bytes(broken), FULL)


def test_pieces_left_out_doubled_and_swapped() -> None:
    data, draw = everything().bytes(), random.Random(9)
    for _ in range(40):
        a, b = sorted(draw.randrange(len(data)) for _ in range(2))
        b = min(b, a + 200)
        attempt(draw.choice((data[:a] + data[b:], data[:b] + data[a:], data[b:] + data[:b])), FULL)


# -- fields ------------------------------------------------------------------------------------------------------------

NUMBERS = (0, -1, 99, -(2**63), 2**63 - 1)


def attributes() -> Iterator[tuple[int, str]]:
    for at, node in enumerate(everything().model().graph.node):
        yield from ((at, attribute.name) for attribute in node.attribute)


@pytest.mark.parametrize(("at", "name"), list(attributes()))
def test_absurd_attributes(at: int, name: str) -> None:
    proto = everything().model()
    attribute = next(a for a in proto.graph.node[at].attribute if a.name == name)
    kept = onnx.AttributeProto.FromString(attribute.SerializeToString())
    listed = kept.type == onnx.AttributeProto.INTS
    for number in NUMBERS:
        wrong = ([number] * len(kept.ints), [*kept.ints, number], list(kept.ints)[:-1]) if listed else (number,)
        for value in wrong:
            attribute.CopyFrom(
                helper.make_attribute(name, value, attr_type=onnx.AttributeProto.INTS if listed else None)
            )
            attempt(proto.SerializeToString(), FULL)
    for value in (3, [3], "three", 3.5):
        attribute.CopyFrom(helper.make_attribute(name, value))
        attempt(proto.SerializeToString(), FULL)


INTEGERS = ("pads", "sizes", "start", "end", "axes", "step", "index", "space", "new", "old", "target", "wide", "flat")


@pytest.mark.parametrize("name", INTEGERS)
def test_absurd_constants(name: str) -> None:
    net = everything()
    kept = net.initializers[name]
    wrong = [array for number in NUMBERS for array in (np.full_like(kept, number), np.append(kept, number))]
    for values in (*wrong, kept[:-1], kept[0], kept.reshape(1, -1), np.repeat(kept, 2)):
        net.initializers[name] = np.asarray(values).astype(np.int64)
        attempt(net.model(check=False).SerializeToString(), FULL)


@pytest.mark.parametrize("name", ["c.w", "c.b", "t", "ln", "heads", "fc", "bias", "low"])
def test_weights_of_absurd_shapes(name: str) -> None:
    net = everything()
    kept = net.initializers[name]
    for values in (
        kept.reshape(-1),
        kept[None],
        kept[..., None],
        np.zeros(0, np.float32),
        np.float32(0),
        np.zeros((5, 7), np.float32),
    ):
        net.initializers[name] = np.asarray(values)
        attempt(net.model(check=False).SerializeToString(), FULL)


def test_absurd_declared_shapes() -> None:
    proto = everything().model()
    for value in (proto.graph.input[0], proto.graph.output[0]):
        kept = onnx.ValueInfoProto.FromString(value.SerializeToString())
        for axis in range(len(kept.type.tensor_type.shape.dim)):
            for number in (*NUMBERS, 2**45):
                value.CopyFrom(kept)
                value.type.tensor_type.shape.dim[axis].dim_value = number
                attempt(proto.SerializeToString(), FULL)
        value.CopyFrom(kept)
        del value.type.tensor_type.shape.dim[1:]
        attempt(proto.SerializeToString(), FULL)
        value.CopyFrom(kept)


def test_inputs_and_outputs_of_nodes_left_out_and_added() -> None:
    for change in ("no inputs", "no outputs", "empty inputs", "one more input", "one more output"):
        for at in range(len(everything().nodes)):
            proto = everything().model()
            node = proto.graph.node[at]
            if change == "no inputs":
                del node.input[:]
            elif change == "no outputs":
                del node.output[:]
            elif change == "empty inputs":
                node.input[:] = [""] * len(node.input)
            elif change == "one more input":
                node.input.append("image")
            else:
                node.output.append("surplus")
            attempt(proto.SerializeToString(), FULL)


# -- what is outside the file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["secret.bin", "../secret.bin", "/etc/passwd", "link.bin"])
@pytest.mark.parametrize("where", ["constant", "subgraph"])
def test_weights_inside_nodes_are_never_looked_for_in_files(
    location: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    for path in (tmp_path / "secret.bin", inside / "secret.bin"):
        path.write_bytes(bytes(range(16)))
    (inside / "link.bin").symlink_to("/etc/passwd")
    monkeypatch.chdir(inside)
    tensor = TensorProto(name="stolen", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    net = Net()
    net.result(net.node("Add", net.head(net.image(), 3, 4, name="h"), "stolen", out="scores"), 4)
    proto = net.model(check=False)
    if where == "constant":
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["stolen"], value=tensor))
    else:
        made = helper.make_graph(
            [helper.make_node("Constant", [], ["x"], value=tensor)],
            "g",
            [],
            [helper.make_tensor_value_info("x", 1, [4])],
        )
        proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
        proto.graph.node.insert(0, helper.make_node("If", ["flag"], ["stolen"], then_branch=made, else_branch=made))
    Path("model.onnx").write_bytes(proto.SerializeToString())
    opened: list[str] = []
    monkeypatch.setattr("builtins.open", lambda *a, **k: opened.append(str(a[0])) or pytest.fail("opened a file"))
    with pytest.raises(ModelError, match="another file"):
        read_model("model.onnx")
    assert opened == []


@pytest.mark.parametrize("depth", [3, 20])
def test_subgraphs_inside_subgraphs(depth: int) -> None:
    """protobuf itself reads no more than about thirty."""

    def graph(inner: onnx.NodeProto) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(inner.output[0], TensorProto.FLOAT, None)
        return helper.make_graph([inner], "g", [], [value])

    node = helper.make_node("Identity", ["h"], ["leaf"])
    for level in range(depth):
        other = graph(helper.make_node("Identity", ["h"], [f"other{level}"]))
        node = helper.make_node("If", ["flag"], [f"o{level}"], then_branch=graph(node), else_branch=other)
    net = Net()
    net.head(net.image(), 3, 4, name="h")
    net.constant(np.array(True), "flag")
    net.nodes.append(node)
    net.result(net.node("Identity", node.output[0], out="scores"), 4)
    assert attempt(net.model(check=False).SerializeToString(), card(4)) == []


# -- bombs: in processes of their own, with little memory and little time ----------------------------------------------

BOMBS = Path(__file__).with_name("model_bombs.py")
NAMES = (
    "slice", "gather", "reshape", "split", "concat", "pad", "tile", "classes", "functions", "expand", "doubling",
    "constant of shape", "range",
)  # fmt: skip


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """What became of each bomb: "done", the name of an error, or how its process died."""
    root = Path(expertc.__file__).parent.parent
    paths = os.pathsep.join(str(path) for path in (root, BOMBS.parent.parent))
    done = subprocess.run(
        [sys.executable, str(BOMBS)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    assert set(found) == set(NAMES)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_small_file_asks_for_no_gigabytes(name: str, outcomes: dict[str, str]) -> None:
    assert outcomes[name] in ("done", "ModelError", "CardError")
