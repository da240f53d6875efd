"""Every branch has its feature map, found on the graph: separate, nested, grouped, in any layout."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from forest import CATEGORIES, LEAVES, NARROW, WIDE, forest
from networks import Net, card, feeds, run
from onnx import TensorProto, numpy_helper
from rainbow import CLASSES, TAXONOMY
from rainbow import card as rainbow_card

from expertc.card import Card, Output, Preprocess
from expertc.graph import read_model, with_batch, with_input
from expertc.surgery.maps import Maps, chain, find_maps, picture_axes
from expertc.surgery.outputs import plan_outputs
from expertc.surgery.sweep import sweep

FORMS = ("separate", "grouped")


def maps_of(net: Net, full: Card) -> Maps:
    return find_maps(with_batch(read_model(net.model().SerializeToString()), 1), full)


@pytest.mark.parametrize("form", FORMS)
def test_every_node_of_the_tree_has_its_last_map(form: str) -> None:
    maps = maps_of(forest(form), rainbow_card())
    assert {one.name for one in maps.values()} == {*CATEGORIES, *LEAVES}
    for number, name in enumerate(LEAVES):
        one = maps[frozenset([CLASSES.index(name)])]
        first = 0 if form == "separate" else NARROW * number
        assert one.tensor == (f"{name}.last.out" if form == "separate" else "lasts.out")
        assert (one.size, one.axes, one.channel) == ((4, 4), (2, 3), 1)
        assert one.channels == tuple(range(first, first + NARROW))
    for number, name in enumerate(CATEGORIES):
        one = maps[frozenset(next(node for node in TAXONOMY.roots if node.name == name).leaves)]
        first = 0 if form == "separate" else WIDE * number
        assert one.tensor == (f"{name}.out" if form == "separate" else "categories.out")
        assert one.channels == tuple(range(first, first + WIDE))


@pytest.mark.parametrize("form", FORMS)
def test_only_the_owners_of_a_channel_can_tell_that_it_changed(form: str) -> None:
    """ONNX Runtime as the judge: a channel's values are shifted, and exactly its owners' scores move."""
    net = forest(form)
    proto = net.model()
    inputs, before = feeds(proto), run(proto)["scores"]
    for one in maps_of(net, rainbow_card()).values():
        shift = np.zeros(one.shape[1], np.float32)
        shift[list(one.channels)] = 1
        changed = onnx.ModelProto()
        changed.CopyFrom(proto)
        changed.graph.initializer.append(numpy_helper.from_array(shift.reshape(1, -1, 1, 1), "shift"))
        at = next(i for i, node in enumerate(changed.graph.node) if one.tensor in node.output)
        for node in changed.graph.node:
            node.input[:] = ["shifted" if name == one.tensor else name for name in node.input]
        added = onnx.helper.make_node("Add", [one.tensor, "shift"], ["shifted"])
        changed.graph.node.insert(at + 1, added)
        moved = np.any(run(changed, inputs)["scores"] != before, axis=0)
        assert tuple(np.flatnonzero(moved)) == one.indices


@pytest.mark.parametrize("form", FORMS)
def test_the_channels_of_a_class_are_those_that_its_cut_asks_for(form: str) -> None:
    """The sweep with all classes at once says the same as the sweep for that class alone."""
    data = forest(form).bytes()
    model, full = read_model(data), rainbow_card()
    maps = maps_of(forest(form), full)
    for index in range(4):
        plan = plan_outputs(model, full, (index,))
        alone = sweep(model, plan.seeds, plan.through).demands
        for one in maps.values():
            asked = alone.get(one.tensor)
            channels = set() if asked is None else set(np.flatnonzero(asked.axis(1, one.shape[1])).tolist())
            owned = {c for other in maps.values() if other.tensor == one.tensor and index in other.indices
                     for c in other.channels}  # fmt: skip
            assert channels == owned


def test_the_maps_of_a_class_run_from_its_category_down() -> None:
    maps = maps_of(forest("grouped"), rainbow_card())
    assert [one.name for one in chain(maps, [3])] == ["warm", "yellows"]
    assert [one.name for one in chain(maps, [0, 3])] == ["warm"]
    assert chain(maps, [0, 1]) == ()


def test_of_overlapping_branches_the_first_counts() -> None:
    net = Net()
    x = net.image()
    pairs = [net.conv(x, 3, 2, name=name) for name in ("ab", "bc")]
    both = net.node("Concat", *pairs, axis=1)
    heads = [net.head(pairs[0], 2, 1), net.head(both, 4, 1), net.head(pairs[1], 2, 1)]
    net.result(net.node("Concat", *heads, axis=1, out="scores"), 3)
    maps = maps_of(net, card(3))
    assert set(maps) == {frozenset([0, 1]), frozenset([1, 2]), frozenset([1])}
    assert [one.name for one in chain(maps, [1])] == ["2 classes", "class-1"]
    assert [one.tensor for one in chain(maps, [2])] == ["bc"]


def test_a_convolution_as_the_head_gives_every_class_its_channel() -> None:
    net = Net()
    scores = net.conv(net.conv(net.image(), 3, 4), 4, 3, name="cam")
    net.result(net.node("Flatten", net.node("GlobalAveragePool", scores), axis=1, out="scores"), 3)
    maps = maps_of(net, card(3))
    assert {(one.tensor, one.channels, one.indices) for one in maps.values()} == {
        ("cam", (index,), (index,)) for index in range(3)
    }


def test_channels_last() -> None:
    """A photo of 3 x 5 pixels; the branches are products over its last axis, as ConvNeXt's are."""
    net = Net()
    x = net.image(3, 3, 5)
    last = net.node("Transpose", x, perm=[0, 2, 3, 1])
    heads = []
    for index in range(2):
        own = net.node("Relu", net.node("MatMul", last, net.weight(3, 4)), out=f"own-{index}")
        heads.append(
            net.node("MatMul", net.node("ReduceMean", own, net.constant([1, 2]), keepdims=0), net.weight(4, 1))
        )
    net.result(net.node("Concat", *heads, axis=1, out="scores"), 2)
    maps = maps_of(net, card(2))
    one = maps[frozenset([1])]
    assert (one.tensor, one.axes, one.channel, one.size, one.channels) == ("own-1", (1, 2), 3, (3, 5), (0, 1, 2, 3))


def test_the_photo_itself_may_come_channels_last() -> None:
    net = Net()
    x = net.image(3, 5, 3)
    full = Card("tiny", card(2).taxonomy, (Output("scores"),), "image", Preprocess((3, 5), 5, layout="NHWC"))
    net.result(net.head(net.node("Transpose", x, perm=[0, 3, 1, 2], out="first"), 3, 2, name="scores"), 2)
    axes = picture_axes(read_model(net.bytes()), full)
    assert (axes["image"], axes["first"]) == ((1, 2), (2, 3))


def test_what_is_no_picture_is_not_shown() -> None:
    """Tokens that attend to each other: a square table per class, but not one of the photo."""
    net = Net()
    tokens = net.node("Reshape", net.conv(net.image(), 3, 4), net.constant([0, 1, 4, 16]))
    heads = []
    for _ in range(2):
        mine = net.node("Mul", tokens, net.weight(1))
        table = net.node("Softmax", net.node("MatMul", net.node("Transpose", mine, perm=[0, 1, 3, 2]), mine), axis=-1)
        seen = net.node("MatMul", mine, table)
        heads.append(net.node("ReduceMean", seen, net.constant([1, 2, 3]), keepdims=0))
    rows = [net.node("Unsqueeze", head, net.constant([1])) for head in heads]
    net.result(net.node("Concat", *rows, axis=1, out="scores"), 2)
    assert maps_of(net, card(2)) == {}


@pytest.mark.parametrize("classes", [1, 3])
def test_a_model_without_such_branches_has_no_maps(classes: int) -> None:
    net = Net()
    net.result(net.head(net.conv(net.image(), 3, 4), 4, classes, name="scores"), classes)
    assert maps_of(net, card(classes)) == {}


@pytest.mark.parametrize("odd", ["whole numbers", "parts of the photo as a batch"])
def test_the_last_map_is_one_that_can_be_shown(odd: str) -> None:
    """What follows it, of the same class, is made of whole numbers, or no longer a row per photo."""
    net = Net()
    x, rows = net.image(), []
    for index in range(2):
        last = net.conv(x, 3, 2, name=f"map-{index}")
        if odd == "whole numbers":
            whole = net.node("Cast", last, to=TensorProto.INT32)
            pooled = net.node("ReduceMax", whole, net.constant([1, 2, 3]), keepdims=0)
            pooled = net.node("Cast", pooled, to=TensorProto.FLOAT)
        else:
            parts = net.node("Relu", net.node("Reshape", last, net.constant([2, 1, 4, 4])))
            pooled = net.node("ReduceMax", parts, net.constant([0, 1, 2, 3]), keepdims=0)
        rows.append(net.node("Reshape", pooled, net.constant([-1, 1])))
    net.result(net.node("Concat", *rows, axis=1, out="scores"), 2)
    assert {one.tensor for one in maps_of(net, card(2)).values()} == {"map-0", "map-1"}


def test_symbols_of_the_photo_are_not_numbers() -> None:
    """Its size decides the maps': ``with_input`` must have fixed it."""
    model = read_model(forest("separate", "side").bytes())
    assert find_maps(model, rainbow_card()) == {}
    fixed = with_input(model, "image", (1, 3, 10, 10))
    assert {one.size for one in find_maps(fixed, rainbow_card()).values()} == {(10, 10), (5, 5)}
