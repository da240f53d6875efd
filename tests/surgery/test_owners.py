"""Branches are found in anybody's graph, and their costs add up: of the model, and of every expert."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import pytest
from networks import Net, card, cut
from onnx import TensorProto

from expertc.card import Card, Output
from expertc.graph import read_model
from expertc.graph.cost import Cost, cost
from expertc.surgery.owners import Ownership, ownership
from expertc.taxonomy import Taxonomy

NESTED = Taxonomy.parse("""
name: animals
tree:
  fishes:
    cartilaginous:
      rays: {index: 0}
      sharks: {index: 1}
    eels: {index: 2}
  shells:
    clams: {index: 3}
    snails: {index: 4}
""")

PIXELS = 16


def nested() -> tuple[Net, Card]:
    """A network in the form of its taxonomy: a 1x1 convolution per node, named after it, and a logit per class."""
    net = Net()
    trunk = net.conv(net.image(), 3, 4, name="trunk")
    logits: dict[int, str] = {}

    def grow(node, above: str) -> None:
        own = net.conv(net.node("Tanh", above), 4, 4, name=node.name)
        for child in node.children:
            grow(child, own)
        if node.index is not None:
            logits[node.index] = net.head(own, 4, 1, name=f"{node.name}.head")

    for root in NESTED.roots:
        grow(root, trunk)
    net.result(net.node("Concat", *(logits[i] for i in range(5)), axis=1, out="scores"), 5)
    return net, card(NESTED)


def grouped() -> tuple[Net, Card]:
    """Three branches of two classes in one grouped convolution, batched heads behind it."""
    net = Net()
    wide = net.node("Tanh", net.conv(net.image(), 3, 12, name="expand"))
    inner = net.node("Tanh", net.conv(wide, 12, 12, group=3, name="grouped"))
    flat = net.node("Reshape", net.node("ReduceMean", inner, net.constant([2, 3])), net.constant([-1, 3, 1, 4]))
    product = net.node("MatMul", flat, net.weight(3, 4, 2, name="heads"))
    net.result(net.node("Reshape", product, net.constant([-1, 6]), out="scores"), 6)
    return net, card(6)


def flat() -> tuple[Net, Card]:
    net = Net()
    net.result(net.head(net.node("Tanh", net.conv(net.image(), 3, 4, name="trunk")), 4, 5, name="scores"), 5)
    return net, card(5)


def check_sums(net: Net, full: Card, selections: Iterable[Sequence[int]] | None = None) -> Ownership:
    """Trunk and branches make the model; trunk and the branches kept make every expert (of up to three classes)."""
    data = net.bytes()
    model = read_model(data)
    owned = ownership(model, full)
    whole, total = cost(model), sum((branch.cost for branch in owned.branches), owned.trunk.cost)
    # A Reshape's target is written anew and belongs to nobody, so bytes are only bounded.
    assert (total.parameters, total.macs) == (whole.parameters, whole.macs)
    assert total.weight_bytes <= whole.weight_bytes
    for indices in selections or few(len(full.classes)):
        expert = cost(read_model(cut(data, full, indices)[0]))
        kept = sum((branch.cost for branch in owned.kept(indices)), owned.trunk.cost)
        assert (kept.parameters, kept.macs) == (expert.parameters, expert.macs), indices
    return owned


def few(count: int) -> Iterator[tuple[int, ...]]:
    """A few selections of one, two and three classes."""
    for size in (1, 2, 3):
        yield from itertools.islice(itertools.combinations(range(count), size), 0, None, 3)


def test_a_nested_network_is_its_taxonomy() -> None:
    net, full = nested()
    owned = check_sums(net, full)
    inner = Cost(4 * 4 + 4, 4 * 4 * PIXELS, 4 * (4 * 4 + 4))
    leaf = inner + Cost(4 + 1, 4, 4 * (4 + 1))
    assert owned.trunk.name == "trunk"
    assert owned.trunk.cost == Cost(3 * 4 + 4, 3 * 4 * PIXELS, 4 * (3 * 4 + 4))
    named = {branch.name: branch for branch in owned.branches}
    assert {name: branch.cost for name, branch in named.items()} == {
        "fishes": inner, "cartilaginous": inner, "shells": inner,
        "rays": leaf, "sharks": leaf, "eels": leaf, "clams": leaf, "snails": leaf,
    }  # fmt: skip
    assert named["fishes"].indices == (0, 1, 2)
    assert [branch.name for branch in owned.branches][:3] == ["fishes", "cartilaginous", "shells"]
    assert {branch.name for branch in owned.kept([1])} == {"fishes", "cartilaginous", "sharks"}
    assert owned.stopped == ()


def test_the_groups_of_one_convolution_are_branches() -> None:
    owned = check_sums(*grouped(), selections=[[0], [3], [0, 1], [2, 3, 4, 5], [0, 2, 4], [1, 5]])
    pairs = {branch.indices: branch.cost.parameters for branch in owned.branches if len(branch.indices) == 2}
    assert pairs == {(0, 1): 4 * 3 + 4 + 4 * 4 + 4, (2, 3): 36, (4, 5): 36}
    assert {branch.indices for branch in owned.branches if len(branch.indices) == 1} == {(c,) for c in range(6)}
    assert owned.trunk.cost.parameters == 0


def test_groups_hit_unequally_cost_more_than_the_branches_that_are_kept() -> None:
    """Class 0 and class 3 are different positions of their groups: the closure of both is what the expert holds."""
    net, full = grouped()
    data = net.bytes()
    owned = ownership(read_model(data), full)
    kept = sum((branch.cost for branch in owned.kept([0, 3])), owned.trunk.cost)
    assert kept.parameters == 2 * (36 + 4)
    assert cost(read_model(cut(data, full, [0, 3])[0])).parameters == 2 * (36 + 8)


def test_the_rows_of_a_flat_classifier_are_branches() -> None:
    owned = check_sums(*flat())
    assert [branch.cost.parameters for branch in owned.branches] == [5] * 5
    assert owned.trunk.cost.parameters == 16


def test_more_classes_than_bits_in_a_word() -> None:
    net = Net()
    heads = [net.head(net.image() if not c else "image", 3, 1, name=f"h{c}") for c in range(70)]
    net.result(net.node("Concat", *heads, axis=1, out="scores"), 70)
    owned = ownership(read_model(net.bytes()), card(70))
    assert [branch.indices for branch in owned.branches] == [(c,) for c in range(70)]
    assert {branch.cost.parameters for branch in owned.branches} == {4}


def test_a_class_set_that_the_taxonomy_does_not_name_is_a_branch_without_a_name() -> None:
    net = Net()
    shared = net.node("Tanh", net.conv(net.image(), 3, 4, name="pair"))
    heads = [net.head(shared, 4, 1), net.head("image", 3, 1), net.head(shared, 4, 1)]
    net.result(net.node("Concat", *heads, axis=1, out="scores"), 3)
    owned = check_sums(net, card(3))
    assert (owned.branches[0].name, owned.branches[0].indices) == ("", (0, 2))


def test_a_weight_that_two_branches_share_is_counted_per_consumer_and_stored_once() -> None:
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.image()))
    shared = net.weight(3, 2, name="shared")
    net.result(
        net.node(
            "Concat", *(net.node("MatMul", net.node(op, x), shared) for op in ("Tanh", "Neg")), axis=1, out="scores"
        ),
        4,
    )
    owned = check_sums(net, card(4))
    assert owned.trunk.cost.parameters + sum(b.cost.parameters for b in owned.branches) == 12
    assert owned.trunk.cost.weight_bytes + sum(b.cost.weight_bytes for b in owned.branches) == 24


def test_what_stops_the_demand_is_trunk_and_is_said() -> None:
    net, full = flat()
    net.outputs.clear()
    normed = net.node("Trilu", net.node("Unsqueeze", "scores", net.constant([2])))
    net.result(net.node("Squeeze", normed, net.constant([2]), out="last"), 5)
    owned = ownership(read_model(net.bytes()), card(full.taxonomy, Output("last")))
    assert owned.branches == ()
    assert owned.stopped == (("no rule for Trilu", 1),)


def test_several_score_outputs() -> None:
    net = Net()
    hidden = net.node("Tanh", net.conv(net.image(), 3, 4, name="trunk"))
    net.result(net.head("image", 3, 3, name="early"), 3)
    net.result(net.head(hidden, 4, 3, name="late"), 3)
    data, full = net.bytes(), card(3, Output("late"), Output("early"))
    owned = ownership(read_model(data), full)
    assert [branch.cost.parameters for branch in owned.branches] == [4 + 5] * 3
    assert sum((b.cost for b in owned.branches), owned.trunk.cost) == cost(read_model(data))


@pytest.mark.parametrize("kind", ["scores", "index"])
def test_an_output_the_card_does_not_name_belongs_to_everyone(kind: str) -> None:
    """An expert keeps it whole, so it is trunk: the costs must add up."""
    net = Net()
    hidden = net.node("Tanh", net.conv(net.image(), 3, 4, name="trunk"))
    net.result(net.head(hidden, 4, 3, name="scores"), 3)
    if kind == "scores":
        net.result(net.head(hidden, 4, 7, name="other"), 7)
    else:
        other = net.head(hidden, 4, 7, name="other")
        net.result(net.node("ArgMax", other, axis=1, keepdims=0, out="label"), dtype=TensorProto.INT64)
    check_sums(net, card(3))


def test_a_product_behind_an_operator_that_nobody_knows() -> None:
    """Its shape is not known, so its MACs are not either; its weights are."""
    net = Net()
    net.domains["acme"] = 1
    strange = net.node("Strange", net.node("Flatten", net.node("GlobalAveragePool", net.image())), domain="acme")
    net.result(net.node("MatMul", strange, net.weight(3, 4), out="scores"), 4)
    hidden = net.node("MatMul", strange, net.weight(3, 2, name="inner"))
    net.result(net.node("MatMul", hidden, net.weight(2, 4, name="outer"), out="other"), 4)
    owned = ownership(read_model(net.model().SerializeToString()), card(4, Output("scores"), Output("other")))
    assert owned.trunk.cost.parameters + sum(branch.cost.parameters for branch in owned.branches) == 12 + 6 + 8
