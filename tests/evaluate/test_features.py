"""The values of the maps are those that ONNX Runtime and torch compute, in every form of the same network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from forest import LEAVES, PARENT, WEIGHTS, forest
from networks import Net, run
from networks import card as flat_card
from PIL import Image
from rainbow import SIDE, SPEC, rainbow

from expertc.card import CARD_KEY, Card, Output, Preprocess
from expertc.errors import CardError, ModelError, UnsupportedError, UsageError
from expertc.evaluate import features as room
from expertc.evaluate.features import Features, features
from expertc.graph import write
from expertc.selection import resolve
from expertc.source import Source, open_source
from expertc.taxonomy import Taxonomy

PHOTO = Image.fromarray(np.random.default_rng(3).integers(0, 256, (11, 13, 3), np.uint8))


def tensor(spec: Preprocess = SPEC) -> np.ndarray:
    """What the model sees of the photo, by Pillow: short side to 8, the middle square, 0 to 1."""
    wide = PHOTO.resize((SIDE * 13 // 11, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(wide.crop((0, 0, SIDE, SIDE)), np.float32).transpose(2, 0, 1)[None] / 255


def opened(net: Net, folder: Path, full: Card | None = None) -> Source:
    if full is not None:
        net.metadata = {CARD_KEY: full.to_json()}
    path = folder / "model.onnx"
    path.write_bytes(net.model().SerializeToString())
    return open_source(path)


def seen(net: Net, folder: Path, wanted: str | None = None, full: Card | None = None) -> Features:
    source = opened(net, folder, full)
    return features(source, PHOTO, None if wanted is None else resolve(source.card.taxonomy, wanted))


@pytest.mark.parametrize("form", ["separate", "grouped"])
def test_the_values_are_torchs(form: str, tmp_path: Path) -> None:
    """Branch by branch with torch, whatever form the graph has."""
    functional = pytest.importorskip("torch.nn.functional")
    from torch import from_numpy

    def block(x, name, **options):
        weight = from_numpy(WEIGHTS[name])
        return functional.relu(functional.conv2d(x, weight, padding=weight.shape[2] // 2, **options))

    found = seen(forest(form), tmp_path)
    trunk = block(from_numpy(tensor()), "trunk")
    assert {column.name for column in found.columns} == set(LEAVES)
    scores = {}
    for column in found.columns:
        above = block(trunk, PARENT[column.name])
        last = block(block(above, column.name), f"{column.name}.last", stride=2)
        assert [one.name for one in column.maps] == [PARENT[column.name], column.name]
        for heat, expected in zip(column.heats, (above, last), strict=True):
            np.testing.assert_allclose(heat, expected[0].mean(0).numpy(), rtol=1e-5, atol=1e-6)
        scores[column.name] = float((last.mean((2, 3)) @ from_numpy(WEIGHTS[f"{column.name}.head"])[0, :, 0]).item())
    total = sum(np.exp(value) for value in scores.values())
    for column in found.columns:
        assert column.probability == pytest.approx(np.exp(scores[column.name]) / total, rel=1e-4)
    assert [column.name for column in found.columns] == sorted(scores, key=lambda name: -scores[name])


@pytest.mark.parametrize("batch", ["batch", 1, 3])
def test_the_values_are_those_of_onnx_runtime(batch: int | str, tmp_path: Path) -> None:
    net = rainbow(batch=batch)
    found = seen(net, tmp_path, "warm, cold")
    proto = net.model()
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("warm", "cold"))
    values = run(proto, {"image": tensor().repeat(3 if batch == 3 else 1, 0)})
    for column in found.columns:
        assert [one.tensor for one in column.maps] == [column.name]
        np.testing.assert_allclose(column.heats[0], values[column.name][0].mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(found.photo), (tensor()[0].transpose(1, 2, 0) * 255).round())


def test_the_size_of_the_photo_may_be_a_symbol(tmp_path: Path) -> None:
    fixed = seen(forest("grouped"), tmp_path)
    free = seen(forest("grouped", "side"), tmp_path)
    for one, other in zip(fixed.columns, free.columns, strict=True):
        for heat, same in zip(one.heats, other.heats, strict=True):
            np.testing.assert_allclose(heat, same, rtol=1e-5, atol=1e-6)


def test_weights_in_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = seen(forest("grouped"), tmp_path)
    monkeypatch.setattr(write, "EXTERNAL_ABOVE", 0)
    found = seen(forest("grouped"), tmp_path)
    for one, other in zip(found.columns, expected.columns, strict=True):
        np.testing.assert_array_equal(one.heats[-1], other.heats[-1])


def test_channels_last_and_an_index_as_output(tmp_path: Path) -> None:
    """A model that reads [H, W, C], turns it to [W, H, C], and gives only the best class."""
    net = Net(17)
    x = net.image(3, 5, 3)
    turned = net.node("Transpose", x, perm=[0, 2, 1, 3])
    heads = []
    for index in range(2):
        own = net.node("MatMul", turned, net.weight(3, 4), out=f"own-{index}")
        pooled = net.node("ReduceMean", own, axes=[1, 2], keepdims=0)
        heads.append(net.node("MatMul", pooled, net.weight(4, 1)))
    scores = net.node("Concat", *heads, axis=1)
    net.result(net.node("ArgMax", scores, axis=1, keepdims=0, out="best"), dtype=onnx.TensorProto.INT64)
    spec = Preprocess((3, 5), (3, 5), "nearest", (0.0,) * 3, (1.0,) * 3, layout="NHWC")
    full = Card("tiny", Taxonomy.flat(["class-0", "class-1"]), (Output("best"),), "image", spec)
    found = seen(net, tmp_path, full=full)
    proto = net.model()
    proto.graph.output.append(onnx.ValueInfoProto(name="own-1"))
    pixels = np.asarray(PHOTO.resize((5, 3), Image.Resampling.NEAREST), np.float32)[None] / 255
    [column] = [column for column in found.columns if column.name == "class-1"]
    assert column.heats[0].shape == (3, 5)
    np.testing.assert_allclose(column.heats[0], run(proto, {"image": pixels})["own-1"][0].mean(-1).T, rtol=1e-5)
    assert sum(one.probability for one in found.columns) == pytest.approx(1)


# -- which branches ----------------------------------------------------------------------------------------------------


def columns(found: Features) -> list[tuple[str, list[str]]]:
    return [(column.name, [one.name for one in column.maps]) for column in found.columns]


def test_a_category_is_a_column_if_it_is_a_branch(tmp_path: Path) -> None:
    found = seen(forest("grouped"), tmp_path, "warm, blues")
    assert columns(found) == [("warm", ["warm"]), ("blues", ["cold", "blues"])]
    own = [seen(forest("grouped"), tmp_path, name).columns[0].probability for name in ("reds", "yellows")]
    assert found.columns[0].probability == pytest.approx(sum(own))


def test_what_is_no_branch_is_its_classes(tmp_path: Path) -> None:
    assert [name for name, _ in columns(seen(forest("grouped"), tmp_path, "#0-2, -greens"))] == ["reds", "blues"]
    assert [name for name, _ in columns(seen(forest("grouped"), tmp_path, "-greens"))] == ["reds", "blues", "yellows"]


def test_a_category_of_independent_classes_is_as_likely_as_its_likeliest(tmp_path: Path) -> None:
    net = rainbow(kind="scores", end="Sigmoid")
    for node in net.nodes:
        if node.op_type == "Sigmoid":
            del node.attribute[:]
    found = seen(net, tmp_path, "warm, reds, yellows")
    warm, reds, yellows = (column.probability for column in found.columns)
    assert warm == max(reds, yellows)


def test_only_the_eight_likeliest_are_shown(tmp_path: Path) -> None:
    heads = [str(number) for number in range(12)]
    net = Net(17)
    x = net.image(3, SIDE, SIDE)
    rows = [net.head(net.conv(x, 3, 2), 2, 1) for _ in heads]
    net.result(net.node("Concat", *rows, axis=1, out="scores"), 12)
    full = Card("tiny", Taxonomy.flat([f"class-{name}" for name in heads]), (Output("scores"),), "image", SPEC)
    found = seen(net, tmp_path, full=full)
    chances = [column.probability for column in found.columns]
    scores = run(net.model(), {"image": tensor()})["scores"][0]
    assert [column.indices[0] for column in found.columns] == np.argsort(-scores)[:8].tolist()
    assert chances == sorted(chances, reverse=True)


def test_levels_are_rows_and_a_class_stands_in_the_last(tmp_path: Path) -> None:
    """Of a tree of two levels and a category beside it."""
    found = seen(forest("separate"), tmp_path, "cold, reds")
    cold, reds = found.columns
    assert [found.cell(row, cold) is not None for row in range(2)] == [True, False]
    assert [found.cell(row, reds)[0].name for row in range(2)] == ["warm", "reds"]
    assert found.scale(0) == (0, max(cold.heats[0].max(), reds.heats[0].max()))


# -- what cannot be shown ----------------------------------------------------------------------------------------------


def test_no_branch_has_a_map(tmp_path: Path) -> None:
    net = Net(17)
    net.result(net.head(net.conv(net.image(3, SIDE, SIDE), 3, 4), 4, 3, name="scores"), 3)
    full = Card("flat", flat_card(3).taxonomy, (Output("scores"),), "image", SPEC)
    with pytest.raises(UnsupportedError, match="no branch with a feature map"):
        seen(net, tmp_path, full=full)


def test_the_class_that_is_asked_for_has_no_map(tmp_path: Path) -> None:
    net = Net(17)
    x = net.image(3, SIDE, SIDE)
    flat = net.node("Flatten", net.node("GlobalAveragePool", x), axis=1)
    rows = [net.head(net.conv(x, 3, 2), 2, 1), net.node("MatMul", flat, net.weight(3, 1))]
    net.result(net.node("Concat", *rows, axis=1, out="scores"), 2)
    full = Card("tiny", flat_card(2).taxonomy, (Output("scores"),), "image", SPEC)
    with pytest.raises(UnsupportedError, match="asked for have no feature map"):
        seen(net, tmp_path, "class-1", full)
    assert columns(seen(net, tmp_path, full=full)) == [("class-0", ["class-0"])]
    both = seen(net, tmp_path, "class-1, class-0", full)
    assert columns(both) == [("class-1", []), ("class-0", ["class-0"])]
    assert both.cell(0, both.columns[0]) is None


def test_no_preprocessing(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="how images become"):
        seen(rainbow(spec=None), tmp_path)


def test_too_many_branches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_BRANCHES", 3)
    with pytest.raises(UsageError, match="4 branches do not fit"):
        seen(forest("grouped"), tmp_path, "#0-3")


def test_what_is_asked_of_a_graph_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the grouped one, tensors of 6 x 8 x 8 and 8 x 4 x 4 numbers, however many branches lie in them."""
    monkeypatch.setattr(room, "MAX_VALUES", 6 * 64 + 8 * 16)
    seen(forest("grouped"), tmp_path)
    monkeypatch.setattr(room, "MAX_VALUES", 6 * 64 + 8 * 16 - 1)
    with pytest.raises(UnsupportedError, match="more than 511 numbers"):
        seen(forest("grouped"), tmp_path)


def test_a_map_or_a_score_that_is_no_number(tmp_path: Path) -> None:
    net = forest("separate")
    net.initializers["reds.last"] = np.full_like(net.initializers["reds.last"], np.inf)
    with pytest.raises(ModelError, match="no number for this image"):
        seen(net, tmp_path)
    net = Net(17)
    first = net.conv(net.image(3, SIDE, SIDE), 3, 1)
    maps = net.node("Reciprocal", net.node("Sub", first, first), out="maps")
    worst = net.node("ReduceMax", maps, axes=[2, 3], keepdims=0)
    bounded = net.node("Clip", worst, net.constant(np.float32(0)), net.constant(np.float32(5)))
    net.result(net.node("Concat", bounded, net.head("image", 3, 1), axis=1, out="scores"), 2)
    full = Card("tiny", flat_card(2).taxonomy, (Output("scores"),), "image", SPEC)
    with pytest.raises(ModelError, match="'maps' holds NaN or infinity"):
        seen(net, tmp_path, full=full)
