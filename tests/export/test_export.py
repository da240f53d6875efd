from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from expertc.backends.cpu import open_session
from expertc.card import CARD_KEY, Card, Output
from expertc.errors import CardError, ModelError, UsageError, VerificationError
from expertc.export import check, export, export_file, export_plain
from expertc.export.checking import Answer, answers
from expertc.taxonomy import Taxonomy
from expertc.zoo import NHL

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def proto(model: bytes) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model)


class Small(torch.nn.Module):
    """Two outputs, a bias that happens to be zero, and a module that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)
        torch.nn.init.zeros_(self.conv.bias)
        self.coarse = torch.nn.Linear(3, 2)
        self.fine = torch.nn.Linear(3, 4, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.nn.functional.gelu(self.conv(self.conv(x))).mean((2, 3))
        return self.coarse(x), self.fine(x)


@pytest.fixture(scope="session")
def small() -> tuple[Small, bytes]:
    torch.manual_seed(0)
    network = Small()
    return network, export_plain(network, (8, 12), image="x", outputs=("coarse", "fine"), opset=18)


def test_it_is_a_valid_model_of_an_old_enough_kind(proto: onnx.ModelProto) -> None:
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version <= 10
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 20)]
    assert not proto.functions
    assert proto.producer_name == "pytorch"
    assert proto.producer_version == torch.__version__


def test_the_graph_is_the_network_and_nothing_else(proto: onnx.ModelProto, network: NHL) -> None:
    found = [node.op_type for node in proto.graph.node]
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in network.modules())
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert found.count("Conv") == convolutions > 20
    assert found.count("BatchNormalization") == norms == convolutions
    assert found.count("Gemm") == found.count("ReduceMean") == 3
    assert found.count("Concat") == found.count("MaxPool") == 1
    assert set(found) <= {"Conv", "BatchNormalization", "Relu", "MaxPool", "Add", "ReduceMean", "Gemm", "Concat"}


def test_initializers_are_the_networks_weights_under_their_names(proto: onnx.ModelProto, network: NHL) -> None:
    weights = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert weights.keys() <= stored.keys()
    for name, tensor in weights.items():
        np.testing.assert_array_equal(stored[name], tensor.numpy(), err_msg=name)
    constants = [stored[name] for name in stored.keys() - weights.keys()]
    assert [constant.tolist() for constant in constants] == [[2, 3]], "one set of axes for every pooling"
    assert all(len(node.input) == 2 for node in proto.graph.node if node.op_type == "Conv"), "a bias nobody trained"


def test_batch_is_symbolic_and_nothing_else_is(pets: Any, proto: onnx.ModelProto) -> None:
    image, logits = proto.graph.input[0].type.tensor_type, proto.graph.output[0].type.tensor_type
    dims = [[dim.dim_param or dim.dim_value for dim in kind.shape.dim] for kind in (image, logits)]
    assert dims == [["batch", 3, *pets.size], ["batch", 3]]
    assert (proto.graph.input[0].name, proto.graph.output[0].name) == ("image", "logits")
    inner = [value.type.tensor_type.shape.dim[0] for value in proto.graph.value_info]
    assert {dim.dim_param for dim in inner} == {"batch"}


def test_no_path_and_no_source_code_is_in_the_file(model: bytes, proto: onnx.ModelProto) -> None:
    keys = {entry.key for node in proto.graph.node for entry in node.metadata_props}
    assert keys == {"pkg.torch.onnx.name_scopes"}
    scopes = {entry.value for node in proto.graph.node for entry in node.metadata_props}
    assert any("nest.felines.children_by_name.cats" in scope for scope in scopes)
    assert not proto.graph.metadata_props
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.initializer):
        assert not value.metadata_props
    for secret in (str(ROOT), sys.prefix, os.path.expanduser("~"), "site-packages", ".py", "torch.nn.modules", "aten."):
        assert secret == "/" or secret.encode() not in model, secret


def test_the_card_is_inside(proto: onnx.ModelProto, pets: Any) -> None:
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert metadata.keys() == {CARD_KEY}
    card = Card.from_json(metadata[CARD_KEY])
    assert card.taxonomy == pets.taxonomy
    assert card.preprocess == pets.recipe.preprocess
    assert [(output.name, output.kind, output.axis) for output in card.outputs] == [("logits", "logits", 1)]
    assert (card.name, card.input, card.selected_from, card.weights_licence) == ("pets", "image", None, pets.licence)
    assert card.provenance["arch"] == "nhl"
    assert card.provenance["arch_args"] == pets.args
    training = card.provenance["training"]
    assert training.keys() == {"recipe", "fingerprint", "train_images", "epochs", "torch", "timm"}
    assert (training["fingerprint"], training["epochs"]) == (pets.recipe.fingerprint, 3)


def test_onnx_runtime_agrees_with_torch(model: bytes, network: NHL, images: torch.Tensor) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for batch in (images, images[:1]):
        with torch.inference_mode():
            expected = network(batch).numpy()
        (got,) = session.run(None, {"image": batch.numpy()})
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
    assert check(model, network, images) <= 1e-5


@pytest.mark.parametrize(
    "name",
    [
        "trunk.bn1.running_mean",
        "nest.dogs.head.bias",
        "nest.felines.children_by_name.cats.block.conv2.weight",
        "trunk.conv1.weight",
    ],
)
def test_check_rejects_another_weight(pets: Any, model: bytes, images: torch.Tensor, name: str) -> None:
    other = pets.network()
    with torch.no_grad():
        other.state_dict()[name].add_(0.01)
    with pytest.raises(VerificationError, match="'logits' differs"):
        check(model, other, images)


def test_check_rejects_values_that_are_no_numbers(model: bytes, network: NHL, images: torch.Tensor) -> None:
    images[0, 0, 0, 0] = torch.nan
    with pytest.raises(VerificationError, match="nan"):
        check(model, network, images)


def test_weights_that_are_no_numbers_are_refused(pets: Any) -> None:
    broken = pets.network()
    with torch.no_grad():
        broken.state_dict()["trunk.conv1.weight"][0, 0, 0, 0] = torch.inf
    with pytest.raises(ModelError, match=r"trunk\.conv1\.weight"):
        export_plain(broken, pets.size)


class Frozen(torch.nn.Module):
    """A network that only works on batches of two."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean((2, 3)).reshape(2, 3))


class Pooled(torch.nn.Module):
    """A network for images of any size, with two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean((2, 3)))


def test_a_frozen_batch_is_refused() -> None:
    with pytest.raises(ModelError):
        export_plain(Frozen(), (8, 8))


@pytest.mark.parametrize("opset", [17, 21, 0])
def test_opsets_that_others_cannot_read_are_refused(pets: Any, network: NHL, opset: int) -> None:
    with pytest.raises(UsageError, match=f"Opset {opset}"):
        export_plain(network, pets.size, opset=opset)


def test_a_network_of_several_outputs_without_a_card(small: tuple[Small, bytes]) -> None:
    network, model = small
    proto = onnx.ModelProto.FromString(model)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == 18
    assert not proto.metadata_props
    names = [tensor.name for tensor in proto.graph.initializer]
    assert names.count("conv.weight") == names.count("conv.bias") == 1, "the network's own zeros stay, and stay one"
    session = open_session(model)
    assert (session.input, session.input_shape, session.outputs) == ("x", (None, 3, 8, 12), ("coarse", "fine"))
    assert check(model, network, torch.randn(3, 3, 8, 12)) < 1e-5


def test_the_same_network_gives_the_same_bytes(small: tuple[Small, bytes]) -> None:
    network = Small().to(memory_format=torch.channels_last)
    network.load_state_dict(small[0].state_dict())
    network.train()
    assert export_plain(network, (8, 12), image="x", outputs=("coarse", "fine"), opset=18) == small[1]
    assert not network.training


def test_outputs_without_a_name_are_refused() -> None:
    with pytest.raises(ModelError, match="2 outputs"):
        export_plain(Small(), (8, 8), outputs=("coarse",))


def test_a_card_of_other_classes_is_refused() -> None:
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 4))
    with pytest.raises(CardError, match="4 classes, the card 2"):
        export(network, Card("two", Taxonomy.flat(["a", "b"]), (Output("logits"),), "image"), (8, 8))


def test_a_file_is_checked_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = Card("two", Taxonomy.flat(["a", "b"]), (Output("logits"),), "image")
    path, images = tmp_path / "full.onnx", torch.rand(2, 3, 8, 8)
    network = Pooled()
    with torch.inference_mode():
        expected = network(images).numpy()
    assert export_file(network, two, (8, 8), images, path) == path
    assert not network.state_dict()  # used up
    (got,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": images.numpy()})
    np.testing.assert_allclose(got, expected, atol=1e-6)
    before = path.read_bytes()

    def wrong(*arguments: object) -> list[Answer]:
        return [replace(answer, outputs=(answer.outputs[0] + 1,)) for answer in answers(*arguments)]  # type: ignore[arg-type]

    monkeypatch.setattr("expertc.export.exporter.answers", wrong)
    with pytest.raises(VerificationError, match="'logits' differs"):
        export_file(Pooled(), two, (8, 8), images, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["full.onnx"]
    assert path.read_bytes() == before
