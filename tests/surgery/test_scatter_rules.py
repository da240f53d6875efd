"""GatherElements, GatherND, ScatterElements, ScatterND: index maps, and the exports of torch's in-place writes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from laws import check
from networks import Net, card, weights

PLACES = ([0, 4], [5, 1, 2], [3])  # which classes each of three heads scores


def three_heads(net: Net) -> list[str]:
    net.image()
    return [net.head("image", 3, len(places), name=f"h{k}") for k, places in enumerate(PLACES)]


def assembled(net: Net, parts: Sequence[str], op: str) -> str:
    """Heads written one after another into an all-zero ``[2, 6]``."""
    data = net.constant(np.zeros((2, 6), np.float32), "zeros")
    for part, places in zip(parts, PLACES, strict=True):
        if op == "ScatterElements":
            index = net.constant(np.tile(places, (2, 1)), "places")
            data = net.node(op, data, index, part, axis=1)
        elif op == "ScatterND":
            index = np.stack(np.meshgrid(range(2), places, indexing="ij"), axis=-1)
            data = net.node(op, data, net.constant(index, "places"), part)
        else:
            turned = [net.node("Transpose", tensor) for tensor in (data, part)]
            wide = net.node("ScatterND", turned[0], net.constant(np.array(places)[:, None], "places"), turned[1])
            data = net.node("Transpose", wide)
    return data


@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND", "of rows"])
@pytest.mark.parametrize("keep", [[0, 4], [1, 2], [1, 5], [0, 3], [0, 1, 2, 3, 4, 5]])
def test_scores_put_together_by_scatter(op: str, keep: list[int]) -> None:
    """Heads that no selected class is written by are gone, and so are the zeros: all of them are overwritten."""
    net = Net(batch=2)
    net.result(net.node("Identity", assembled(net, three_heads(net), op), out="scores"), 6)
    expert = check(net, card(6), keep, exact=False)
    used = {f"h{k}.w": len(set(places) & set(keep)) for k, places in enumerate(PLACES) if set(places) & set(keep)}
    assert {name: shape[0] for name, shape in expert.shapes.items() if name.endswith(".w")} == used
    assert "zeros" not in expert.shapes
    assert not [op for op in expert.operators if op.startswith("Scatter")]
    assert expert.stopped == []


@pytest.mark.parametrize("index", [[1, 3], [-3, -5], [4, 2]])
def test_rows_of_the_data_that_are_overwritten_are_not_needed(index: list[int]) -> None:
    """Both sides have weights: an overwritten row of the first head is dead, in any selection."""
    net = Net(batch=2)
    below, above = net.head(net.image(), 3, 6, name="below"), net.head("image", 3, 2, name="above")
    places = net.constant(np.tile(index, (2, 1)), "places")
    net.result(net.node("ScatterElements", below, places, above, axis=-1, out="scores"), 6)
    rows = [i % 6 for i in index]
    for keep in ([0, 1, 2, 3], [0, 5], [rows[0]], list(range(6))):
        expert = check(net, card(6), keep, exact=False)
        sizes = [len(set(keep) - set(rows)), len(set(keep) & set(rows))]
        found = [expert.shapes.get(f"{name}.w", (0,))[0] for name in ("below", "above")]
        assert found == sizes


def test_a_row_that_is_written_twice_has_its_last_value() -> None:
    net = Net(batch=2)
    first, second = net.head(net.image(), 3, 4, name="first"), net.head("image", 3, 2, name="second")
    zeros = net.constant(np.zeros((2, 4), np.float32), "zeros")
    once = net.node("ScatterElements", zeros, net.constant(np.tile(range(4), (2, 1))), first, axis=1)
    twice = net.node("ScatterElements", once, net.constant(np.tile([2, 3], (2, 1))), second, axis=1)
    net.result(net.node("Identity", twice, out="scores"), 4)
    expert = check(net, card(4), [1, 3], exact=False)
    assert (expert.shapes["first.w"], expert.shapes["second.w"]) == ((1, 3), (1, 3))


@pytest.mark.parametrize("why", ["doubled", "summed", "computed", "another row each"])
def test_scatters_that_are_no_index_map_stay_whole(why: str) -> None:
    net = Net(batch=2)
    below, above = net.head(net.image(), 3, 4, name="below"), net.head("image", 3, 2, name="above")
    index: Any = (
        [[1, 1], [1, 1]] if why == "doubled" else [[1, 2], [2, 1]] if why == "another row each" else [[1, 2]] * 2
    )
    places = net.constant(np.array(index), "places")
    if why == "computed":
        bright = net.node(
            "Cast", net.node("Greater", net.node("ReduceMax", above, keepdims=0), net.constant(0.0)), to=7
        )
        places = net.node("Sub", places, bright)
    reduction = {"reduction": "add"} if why in ("doubled", "summed") else {}
    mixed = net.node("ScatterElements", below, places, above, axis=1, **reduction)
    net.result(net.node("Mul", mixed, net.weight(4, name="k"), out="scores"), 4)
    expert = check(net, card(4), [0, 3], alive=False, judge=False)
    assert (expert.shapes["below.w"], expert.shapes["k"]) == ((4, 3), (2,))
    assert expert.stopped == ["ScatterElements with indices that are computed, doubled or summed"]


def test_scatter_of_pixels_leaves_the_classes_alone() -> None:
    """Rows of space are overwritten, in channel-last layout: the class axis is behind the index."""
    net = Net()
    tensor, other = net.conv(net.image(), 3, 5, name="c"), net.conv("image", 3, 5, name="d")
    top = net.node("Slice", other, net.constant([0]), net.constant([2]), net.constant([2]))
    turned = [net.node("Transpose", part, perm=[2, 3, 0, 1]) for part in (tensor, top)]
    rows = net.node("Cast", net.node("Clip", net.constant(np.array([[1.2], [2.7]], np.float32))), to=7)
    mixed = net.node("ScatterND", turned[0], rows, turned[1])
    net.result(net.node("ReduceMean", mixed, net.constant([0, 1]), keepdims=0, out="scores"), 5)
    expert = check(net, card(5), [1, 4], alive=False)
    assert (expert.shapes["c.w"], expert.shapes["d.w"]) == ((2, 3, 1, 1), (2, 3, 1, 1))
    assert expert.stopped == []


def test_the_first_scatter_of_all() -> None:
    """Opset 9 calls it Scatter."""
    net = Net(9, batch=2)
    below, above = net.head(net.image(), 3, 4, name="below"), net.head("image", 3, 2, name="above")
    net.result(net.node("Scatter", below, net.constant([[3, 1], [3, 1]]), above, axis=1, out="scores"), 4)
    expert = check(net, card(4), [0, 3], exact=False, judge=False)
    assert (expert.shapes["below.w"], expert.shapes["above.w"]) == ((1, 3), (1, 3))


# -- Gather ------------------------------------------------------------------------------------------------------------


def test_gather_elements_of_whole_rows() -> None:
    net = Net(batch=2)
    picked = net.node("GatherElements", net.head(net.image(), 3, 6, name="h"), net.constant([[5, -6, 2]] * 2), axis=1)
    net.result(net.node("Mul", picked, net.weight(3, name="k"), out="scores"), 3)
    expert = check(net, card(3), [0, 1])
    assert np.array_equal(weights(expert.data)["h.b"], net.initializers["h.b"][[0, 5]])
    assert check(net, card(3), [1, 2]).operators.count("Gather") == 0
    assert expert.stopped == []


def test_gather_elements_of_another_row_each() -> None:
    """Image 0 and image 1 are given scores of different heads."""
    net = Net(batch=2)
    index = net.constant(np.array([[0, 1, 5], [3, 1, 4]]), "index")
    picked = net.node("GatherElements", net.head(net.image(), 3, 6, name="h"), index, axis=1)
    net.result(net.node("Mul", picked, net.weight(3, name="k"), out="scores"), 3)
    expert = check(net, card(3), [0, 2])
    assert np.array_equal(weights(expert.data)["h.b"], net.initializers["h.b"][[0, 3, 4, 5]])
    assert np.array_equal(weights(expert.data)["index"], [[0, 3], [1, 2]])


def test_gather_elements_of_the_first_image_alone() -> None:
    """An index shorter than the data: one row of indices, for one of two images; no Gather does that."""
    net = Net(batch=2)
    picked = net.node("GatherElements", net.head(net.image(), 3, 6, name="h"), net.constant([[5, 0, 2]]), axis=1)
    both = net.node("Expand", picked, net.constant([2, 3]))
    net.result(net.node("Mul", both, net.weight(3, name="k"), out="scores"), 3)
    expert = check(net, card(3), [0, 2], judge=False)
    assert np.array_equal(weights(expert.data)["h.b"], net.initializers["h.b"][[2, 5]])


def test_gather_elements_of_space() -> None:
    """Along the width, a part of the height, another column for each channel: the channel is cut with the index."""
    net = Net(batch=2)
    tensor = net.conv(net.image(), 3, 5, name="c")
    index = net.constant(np.random.default_rng(0).integers(-4, 4, (2, 5, 3, 2)), "index")
    picked = net.node("GatherElements", tensor, index, axis=3)
    net.result(net.node("ReduceMean", picked, net.constant([2, 3]), keepdims=0, out="scores"), 5)
    expert = check(net, card(5), [0, 3], judge=False)  # the reference wants an index as high as the data
    assert (expert.shapes["c.w"], expert.shapes["index"]) == ((2, 3, 1, 1), (2, 2, 3, 2))


def test_gather_elements_with_an_index_expanded_to_the_batch() -> None:
    net = Net()
    logits = net.head(net.image(), 3, 6, name="h")
    target = net.node("Concat", net.node("Shape", logits, start=0, end=1), net.constant([2]), axis=0)
    index = net.node("Expand", net.constant(np.array([[4, 1]])), target)
    net.result(net.node("Neg", net.node("GatherElements", logits, index, axis=1), out="scores"), 2)
    expert = check(net, card(2), [0], exact=False)
    assert np.array_equal(weights(expert.data)["h.b"], net.initializers["h.b"][[4]])
    assert expert.operators == ["GlobalAveragePool", "Flatten", "Gemm", "Neg"]


def test_gather_nd_of_channels() -> None:
    """[6, N, 4, 4] by a [3, 1] index: rows 4, 0, 5 as an advanced index exports."""
    net = Net()
    first = net.node("Transpose", net.conv(net.image(), 3, 6, name="c"), perm=[1, 0, 2, 3])
    rows = net.node("GatherND", first, net.constant(np.array([[4], [0], [-1]]), "index"))
    flat = net.node("ReduceMean", rows, net.constant([2, 3]), keepdims=0)
    net.result(net.node("Transpose", flat, out="scores"), 3)
    expert = check(net, card(3), [0, 2])
    assert np.array_equal(weights(expert.data)["c.b"], net.initializers["c.b"][[4, 5]])
    assert np.array_equal(weights(expert.data)["index"], [[0], [1]])
    assert expert.stopped == []


def test_gather_nd_of_points() -> None:
    """[N, 6, 4, 4] with a batch axis: class c is one pixel of one channel."""
    net = Net(batch=2)
    tensor = net.conv(net.image(), 3, 6, name="c")
    points = np.array([[5, 0, 0], [2, 3, 1], [2, -1, -1]])
    index = net.constant(np.stack([points, points]), "index")
    net.result(net.node("GatherND", tensor, index, batch_dims=1, out="scores"), 3)
    expert = check(net, card(3), [1, 2], exact=False)
    assert np.array_equal(weights(expert.data)["c.b"], net.initializers["c.b"][[2]])
    assert expert.shapes["index"] == (2, 2, 3)


def test_gather_nd_behind_a_computed_index() -> None:
    net = Net()
    last = net.node("Transpose", net.conv(net.image(), 3, 5, name="c"), perm=[2, 3, 0, 1])
    bright = net.node("Cast", net.node("Greater", net.node("ReduceMax", "image", keepdims=0), net.constant(0.0)), to=7)
    index = net.node("Reshape", bright, net.constant([1, 1]))
    row = net.node("GatherND", last, index)  # [1, 4, N, 5]
    net.result(net.node("ReduceMean", row, net.constant([0, 1]), keepdims=0, out="scores"), 5)
    expert = check(net, card(5), [0, 3])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)


# -- torch -------------------------------------------------------------------------------------------------------------


def exported(form: str, exporter: str) -> bytes:
    """Heads of 2, 3 and 1 classes written in place into ``o = zeros(N, 6)``, as torch exports it."""
    torch = pytest.importorskip("torch")

    class Assembled(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.heads = torch.nn.ModuleList(torch.nn.Linear(3, size) for size in (2, 3, 1))

        def forward(self, image: Any) -> Any:
            x = image.mean((2, 3))
            scores = x.new_zeros(x.shape[0], 6)
            if form == "slices":
                scores[:, 0:2], scores[:, 2:5], scores[:, 5:6] = (head(x) for head in self.heads)
            else:
                for places, head in zip(PLACES[:2], self.heads, strict=False):
                    scores[:, places] = head(x)
                scores[:, 3] = self.heads[2](x)[:, 0]
            return scores

    file = io.BytesIO()
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["scores"]}
    image = torch.randn(2, 3, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.onnx.export(Assembled().eval(), (image,), dynamo=True, opset_version=20, verbose=False,
                                        dynamic_shapes=shapes, **names)  # fmt: skip
            return bytes(program.model_proto.SerializeToString())
        axes = {name: {0: "batch"} for name in ("image", "scores")}
        torch.onnx.export(
            Assembled().eval(), (image,), file, dynamo=False, opset_version=17, dynamic_axes=axes, **names
        )
    return file.getvalue()


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("form", ["slices", "lists"])
def test_in_place_writes_of_torch(form: str, exporter: str) -> None:
    """The batch is symbolic: the indices are computed from it, and followed back to the numbers they are made of."""
    # Read and written once: sizes are folded then, and shapes inferred again.
    data = exported(form, exporter)
    places = ([0, 1], [2, 3, 4], [5]) if form == "slices" else PLACES
    for keep in ([0, 5], [1, 2, 3], [4]):
        expert = check(data, card(6), keep, exact=False, judge=False, alive=False)
        wanted = {f"heads.{k}.weight": len(set(rows) & set(keep)) for k, rows in enumerate(places)}
        held = {name: shape[0] for name, shape in expert.shapes.items() if name.endswith("weight")}
        assert held == {name: count for name, count in wanted.items() if count}
        assert not {"ScatterND", "ScatterElements", "Range", "ConstantOfShape"} & set(expert.operators)
        assert expert.stopped == []
