"""The fast form of a tree of classifiers, and the laws of its cut."""

from __future__ import annotations

import choices
import numpy as np
import onnx
import pytest
from choices import MIXED, THREE_LEVELS, TWO_LEVELS, Tree
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import check
from networks import Array, cut, operators, reference, run, weights

from expertc.errors import UnsupportedError
from expertc.graph import read_model, to_bytes, with_batch
from expertc.graph.cost import cost
from expertc.surgery.owners import ownership
from expertc.surgery.prune import prune
from expertc.surgery.route import route

IMAGES = 6


def both(tree: Tree, *, batch: int | str = 1, seed: int = 0) -> tuple[bytes, bytes]:
    """The slow form and the fast one, for one image at a time or for any number."""
    slow = choices.network(tree, seed=seed).bytes()
    model = read_model(slow)
    return slow, to_bytes(route(with_batch(model, 1) if batch == 1 else model, choices.card(tree)))


def images(data: bytes, count: int = IMAGES) -> Array:
    """Noise that is not routed all one way."""
    return 2 * np.random.default_rng(1).standard_normal((count, 3, 4, 4)).astype(np.float32)


def outputs(data: bytes, x: Array) -> tuple[Array, Array]:
    """Scores and routes; image by image if the model takes one."""
    one = onnx.load_from_string(data).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    parts = [run(data, {"image": part}) for part in (np.split(x, len(x)) if one else [x])]
    scores, routes = (np.concatenate([part[name] for part in parts]) for name in ("scores", "routes"))
    return scores, routes


def close(got: Array, wanted: Array) -> None:
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def matches(tree: Tree, slow: bytes, fast: bytes, keep: list[int] | None = None) -> None:
    """The fast form, or its expert, gives what walking the slow one's routes by hand gives."""
    x = images(slow)
    for got, wanted in zip(outputs(fast, x), choices.fast(tree, *outputs(slow, x), keep), strict=True):
        close(got, wanted)


@pytest.mark.parametrize("batch", [1, "batch"])
@pytest.mark.parametrize("tree", [TWO_LEVELS, THREE_LEVELS, MIXED])
def test_fast_follows_the_likeliest_branch(tree: Tree, batch: int | str) -> None:
    slow, fast = both(tree, batch=batch)
    matches(tree, slow, fast)
    assert cost(read_model(fast)).parameters == cost(read_model(slow)).parameters


@pytest.mark.parametrize("batch", [1, "batch"])
@pytest.mark.parametrize("tree", [TWO_LEVELS, THREE_LEVELS, MIXED])
def test_an_image_costs_the_longest_way(tree: Tree, batch: int | str) -> None:
    """What the way to a class costs is what the slow expert for this class computes."""
    slow, fast = both(tree, batch=batch)
    card, classes = choices.card(tree), sorted(choices.classes(tree))
    ways = [cost(read_model(cut(slow, card, [one])[0])).macs for one in classes]
    assert cost(read_model(fast)).macs == max(ways) < cost(read_model(slow)).macs
    for keep in ([0], [0, 1], classes[:4]):
        expert = read_model(cut(fast, card, keep)[0])
        assert cost(expert).macs == max(ways[one] for one in keep)


def test_onnx_itself_agrees() -> None:
    for batch, count in ((1, 1), ("batch", 3)):
        _, fast = both(MIXED, batch=batch)
        x = {"image": images(fast, count)}
        for name, values in run(fast, x).items():
            close(reference(fast, x)[name], values)


def test_a_branch_that_is_not_taken_is_not_run() -> None:
    """NaN in its weights does not show; in those of the branch that is taken it does."""
    slow, fast = both(TWO_LEVELS)
    x = images(slow, 1)
    columns = choices.card(TWO_LEVELS).routes.columns
    taken = columns[int(outputs(slow, x)[1].argmax())]
    for name in columns:
        proto = onnx.load_from_string(fast)
        stack = [proto.graph]
        while stack:
            graph = stack.pop()
            stack += [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
            for tensor in graph.initializer:
                if tensor.name == f"{name}.body.w":
                    values = np.full(tuple(tensor.dims), np.nan, np.float32)
                    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        assert np.isnan(outputs(proto.SerializeToString(), x)[0]).any() == (name == taken)


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_any_tree_any_selection(data: st.DataObject) -> None:
    """Slow: the full model's rows, bit for bit. Fast: the router restricted to what is kept. Cut and routed commute."""
    tree = data.draw(choices.trees())
    indices = sorted(choices.classes(tree))
    keep = sorted(data.draw(st.sets(st.sampled_from(indices), min_size=1)))
    batch = data.draw(st.sampled_from((1, "batch")))
    slow, fast = both(tree, batch=batch, seed=data.draw(st.integers(0, 99)))
    card = choices.card(tree)
    matches(tree, slow, fast)
    (small, done), (routed, after) = cut(slow, card, keep), cut(fast, card, keep)
    x = images(slow)
    (scores, routes), (rows, steps) = outputs(slow, x), outputs(small, x)
    np.testing.assert_array_equal(rows, scores[:, keep])
    np.testing.assert_array_equal(steps, routes[:, card.routes.kept(card.taxonomy, keep)])
    matches(tree, slow, routed, keep)
    assert done.stopped == ()
    assert after.card == done.card
    if len(keep) > 1 and done.card.routes is not None:
        model = read_model(small)
        other = to_bytes(route(with_batch(model, 1) if batch == 1 else model, done.card))
        for one, two in zip(outputs(other, x), outputs(routed, x), strict=True):
            close(one, two)


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_cutting_in_two_steps_gives_the_same_bytes(data: st.DataObject) -> None:
    tree = data.draw(choices.trees())
    larger = sorted(data.draw(st.sets(st.sampled_from(sorted(choices.classes(tree))), min_size=1)))
    smaller = sorted(data.draw(st.sets(st.sampled_from(larger), min_size=1)))
    card = choices.card(tree)
    for full in both(tree, batch=data.draw(st.sampled_from((1, "batch")))):
        step, done = cut(full, card, larger)
        assert cut(step, done.card, [larger.index(c) for c in smaller])[0] == cut(full, card, smaller)[0]


@pytest.mark.parametrize("tree", [TWO_LEVELS, THREE_LEVELS, MIXED])
def test_the_slow_form_keeps_the_laws(tree: Tree) -> None:
    """Leaves of other groups go, the routers on the way stay whole."""
    for keep in ([choices.classes(tree)[0]], sorted(choices.classes(tree))[:3]):
        expert = check(choices.network(tree), choices.card(tree), keep)
        held = {choices.name_of(child) for router in choices.routers(tree) for child in router}
        kept = {c.removesuffix(".head.w") for c in expert.shapes if c.endswith(".head.w")} - {"top"}
        wanted = {n for n in held if n[0] == "g" and set(choices.taxonomy(tree).by_name[n].leaves) & set(keep)}
        assert kept == wanted
        assert expert.shapes["top.head.w"] == (len(tree), choices.WIDTH)


def test_what_went_is_gone_from_the_fast_form() -> None:
    """No weight and no name of another group is in the file, and the branches that stay are cut."""
    slow, fast = both(THREE_LEVELS)
    expert, _ = cut(fast, choices.card(THREE_LEVELS), [7, 2])
    for name, values in weights(slow).items():
        stays = name.split(".")[0] in ("top", "g3-0-7-5-1", "g7-5-1", "g2-4-6-8", "g2-4")
        if values.size > 3 and values.dtype == np.float32:
            assert (values.tobytes() in expert) == (stays and "image" not in name), name
    assert b'g3-0"' not in expert
    assert b"g6-8" not in expert
    assert operators(expert).count("If") == 2


def test_a_routed_branch_belongs_to_its_classes() -> None:
    _, fast = both(TWO_LEVELS)
    owned = ownership(read_model(fast), choices.card(TWO_LEVELS))
    assert {"g3-0-5", "g1-4", "g2-6"} <= {branch.name for branch in owned.branches}
    for keep in ([3, 0], [1, 2, 6]):
        kept = sum((branch.cost for branch in owned.kept(keep)), owned.trunk.cost)
        assert kept.parameters == cost(read_model(cut(fast, choices.card(TWO_LEVELS), keep)[0])).parameters


def test_an_expert_says_that_it_chooses_among_fewer() -> None:
    _, fast = both(TWO_LEVELS)
    assert any("choose among" in note for note in prune(read_model(fast), choices.card(TWO_LEVELS), [0, 1]).notes)


def test_a_model_that_is_no_tree_of_choices_is_refused() -> None:
    net = choices.network(TWO_LEVELS)
    net.nodes[-1].op_type = "Sigmoid"  # of the routes
    with pytest.raises(UnsupportedError, match="one after another"):
        route(read_model(net.bytes()), choices.card(TWO_LEVELS))
