"""Three tiny networks and their experts as text, for people to read and for a diff to show what changed.

``python tests/surgery/test_goldens.py`` writes the experts anew from the full models; read the diff before you keep it.
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from onnx import numpy_helper

from expertc.card import CARD_KEY, Card
from expertc.graph import from_proto, to_proto
from expertc.surgery.prune import prune

FOLDER = Path(__file__).parent / "goldens"

SELECTIONS = {
    "separate": (1, 3),  # a branch per class and an inner node: two branches fall away, their parent with one of them
    "grouped": (2, 3),  # one group of three is left: the group count, the heads and the Reshape targets follow
    "softmax": (0, 2),  # a class softmax over a Gather of the rows that a LayerNormalization needed as a whole
}


def readable(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with its numbers as numbers instead of bytes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor)
        plain = onnx.helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, values.reshape(-1).tolist())
        tensor.CopyFrom(plain)
    return copy


def as_text(proto: onnx.ModelProto) -> str:
    return str(text_format.MessageToString(readable(proto)))


def full_model(name: str) -> onnx.ModelProto:
    return text_format.Parse((FOLDER / f"{name}.full.textproto").read_text(), onnx.ModelProto())


def expert(name: str) -> onnx.ModelProto:
    model = from_proto(full_model(name))
    return to_proto(prune(model, Card.from_json(model.metadata[CARD_KEY]), SELECTIONS[name]).model)


@pytest.mark.parametrize("name", SELECTIONS)
def test_the_expert_is_the_golden(name: str) -> None:
    # Read and written again, so that another protobuf may set its text out otherwise.
    wanted = as_text(
        text_format.Parse((FOLDER / f"{name}.expert.textproto").read_text(), onnx.ModelProto())
    ).splitlines()
    got = as_text(expert(name)).splitlines()
    assert got == wanted, "\n" + "\n".join(difflib.unified_diff(wanted, got, "golden", "now", lineterm=""))


@pytest.mark.parametrize("name", SELECTIONS)
def test_the_goldens_are_models(name: str) -> None:
    golden = text_format.Parse((FOLDER / f"{name}.expert.textproto").read_text(), onnx.ModelProto())
    for proto in (full_model(name), golden):
        onnx.checker.check_model(proto, full_check=True)
        assert not any(tensor.raw_data for tensor in proto.graph.initializer)


if __name__ == "__main__":
    for golden_name in SELECTIONS:
        (FOLDER / f"{golden_name}.expert.textproto").write_text(as_text(expert(golden_name)))
        sys.stdout.write(f"{golden_name}\n")
