"""Full models as they are handed in, with a card or with what stands for one."""

from __future__ import annotations

import hashlib
import json

import pytest
from rainbow import CLASSES, SPEC, rainbow

from expertc.card import CARD_KEY, Preprocess
from expertc.errors import BundleError, CardError, LabelsError, ModelError, UsageError
from expertc.source import BUNDLED, Foreign, open_source


@pytest.fixture
def foreign(tmp_path):
    """A model without a card, its labels, and where to put more."""
    (tmp_path / "their.onnx").write_bytes(rainbow(described=False).bytes())
    (tmp_path / "labels.txt").write_bytes("\ufeffreds\r\ngreens\r\nblues\r\nyellows\r\n".encode())
    return tmp_path


def test_a_model_with_a_card(full):
    source = open_source(full)
    assert source.card.classes == CLASSES
    assert source.card.preprocess == SPEC
    assert source.data == full.read_bytes()
    assert source.sha256 == hashlib.sha256(source.data).hexdigest()
    assert source.name == "rainbow.onnx"
    assert source.model.metadata[CARD_KEY] == source.card.to_json()


@pytest.mark.skipif(not BUNDLED.is_file(), reason="the trained model is not in this checkout")
def test_the_bundled_model_is_the_default():
    source = open_source()
    assert len(source.card.classes) == 23
    assert {"sharks", "rays"} <= set(source.card.classes)
    assert source.card.preprocess is not None
    assert BUNDLED.stat().st_size < 25e6


def test_a_bundle_stands_for_its_expert(bundle):
    source = open_source(bundle)
    assert source.card.classes == ("reds", "yellows")
    assert source.card.selected_from == 4
    assert source.data == (bundle / "expert.onnx").read_bytes()


def test_a_damaged_bundle_is_not_opened(bundle, tmp_path):
    import shutil

    shutil.copytree(bundle, tmp_path / "copy")
    (tmp_path / "copy" / "expert.onnx").write_bytes((bundle / "expert.onnx").read_bytes() + b"\0")
    with pytest.raises(BundleError, match=r"expert\.onnx"):
        open_source(tmp_path / "copy")


def test_labels_alone(foreign):
    """With a byte order mark and CRLF."""
    source = open_source(foreign / "their.onnx", Foreign(labels=foreign / "labels.txt"))
    assert source.card.classes == CLASSES
    assert source.card.taxonomy.depth == 1
    assert source.card.preprocess is None
    assert [(o.name, o.kind, o.axis) for o in source.card.outputs] == [("scores", "logits", 1)]
    assert source.card.input == "image"
    assert source.card.name == "their"


TREE = (
    "name: t\ntree:\n  warm: {reds: {index: 0}, yellows: {index: 3}}\n  cold: {greens: {index: 1}, blues: {index: 2}}\n"
)


def test_a_taxonomy_with_and_without_labels(foreign):
    (foreign / "tree.yaml").write_text(TREE)
    for labels in (None, foreign / "labels.txt"):
        source = open_source(foreign / "their.onnx", Foreign(labels=labels, taxonomy=foreign / "tree.yaml"))
        assert source.card.classes == CLASSES
        assert source.card.taxonomy.depth == 2


def test_a_taxonomy_in_another_order(foreign):
    (foreign / "tree.yaml").write_text(
        TREE.replace("reds: {index: 0}", "greens: {index: 0}").replace("greens: {index: 1}", "reds: {index: 1}")
    )
    with pytest.raises(LabelsError, match="Row 0 is 'reds' in the labels but 'greens'"):
        open_source(foreign / "their.onnx", Foreign(foreign / "labels.txt", foreign / "tree.yaml"))


def test_imagenet_preprocessing_takes_the_size_of_the_input(foreign):
    source = open_source(foreign / "their.onnx", Foreign(foreign / "labels.txt", preprocess="imagenet"))
    assert source.card.preprocess == Preprocess.imagenet(8)


def test_preprocessing_from_a_file(foreign):
    (foreign / "p.json").write_text(json.dumps(SPEC.to_mapping()))
    source = open_source(foreign / "their.onnx", Foreign(foreign / "labels.txt", preprocess=foreign / "p.json"))
    assert source.card.preprocess == SPEC
    (foreign / "p.json").write_text(json.dumps(SPEC.to_mapping() | {"size": [9, 9], "resize": 9}))
    with pytest.raises(CardError, match="the preprocessing makes"):
        open_source(foreign / "their.onnx", Foreign(foreign / "labels.txt", preprocess=foreign / "p.json"))


def test_a_chosen_output(foreign):
    net = rainbow(described=False)
    net.result(net.node("Softmax", "scores", axis=1, out="shares"), 4)
    (foreign / "two.onnx").write_bytes(net.bytes())
    source = open_source(foreign / "two.onnx", Foreign(foreign / "labels.txt", outputs={"shares": 1}))
    assert [(o.name, o.kind) for o in source.card.outputs] == [("shares", "probabilities")]
    with pytest.raises(UsageError, match="More than one output"):
        open_source(foreign / "two.onnx", Foreign(foreign / "labels.txt"))


def test_what_only_a_card_can_say(full, foreign):
    with pytest.raises(CardError, match="has no model card"):
        open_source(foreign / "their.onnx")
    with pytest.raises(CardError, match="has no model card"):
        open_source(foreign / "their.onnx", Foreign(preprocess="imagenet"))
    with pytest.raises(UsageError, match="a model card of its own"):
        open_source(full, Foreign(preprocess="imagenet"))
    (foreign / "labels.txt").write_text("a\nb\nc\n")
    with pytest.raises(ModelError, match="No output holds the scores of 3 classes"):
        open_source(foreign / "their.onnx", Foreign(foreign / "labels.txt"))


def test_foreign_is_empty_only_without_anything():
    assert not Foreign()
    assert Foreign(labels="x")
    assert Foreign(outputs={"scores": 1})
