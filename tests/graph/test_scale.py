"""Many nodes: no recursion, and work that grows with the graph and not with its square. Counted, never timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from networks import Net, card, feeds, rows, run

from expertc.card import Card
from expertc.graph import Constant, Model, read_model, to_bytes
from expertc.surgery.fold import Fold
from expertc.surgery.owners import ownership
from expertc.surgery.prune import prune


def chain(length: int) -> Net:
    """One node after another."""
    net = Net()
    x = net.image(3, 1, 1)
    for number in range(length):
        x = net.node("Tanh" if number % 2 else "Neg", x)
    net.result(net.head(x, 3, 4, name="scores"), 4)
    return net


def fan_out(width: int) -> Net:
    """One tensor with many readers, put together by one Concat: a branch per class."""
    net = Net()
    flat = net.node("Flatten", net.image(3, 1, 1))
    heads = [net.node("MatMul", flat, net.weight(3, 1, name=f"w{c}")) for c in range(width)]
    net.result(net.node("Concat", *heads, axis=1, out="scores"), width)
    return net


def shared_weight(width: int) -> Net:
    """One initializer in many different cuts: a column per class."""
    net = Net()
    flat, table = net.node("Flatten", net.image(3, 1, 1)), net.weight(3, 2, name="table")
    heads = [net.node("MatMul", net.node("Neg", flat), table) for _ in range(width // 2)]
    net.result(net.node("Concat", *heads, axis=1, out="scores"), width // 2 * 2)
    return net


def slices(width: int) -> Net:
    """Many selections of one tensor."""
    net = Net()
    flat = net.node("Tanh", net.node("Flatten", net.image(8, 1, 1)))
    heads = [
        net.node(
            "MatMul",
            net.node("Gather", flat, net.constant([c % 8, (c + 3) % 8]), axis=1),
            net.weight(2, 1, name=f"w{c}"),
        )
        for c in range(width)
    ]
    net.result(net.node("Concat", *heads, axis=1, out="scores"), width)
    return net


def calls(work: Callable[[], Any]) -> int:
    """How many Python and C functions ``work`` calls."""
    count = 0

    def tally(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(tally)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def cut_all(data: bytes, full: Card) -> Model:
    return prune(read_model(data), full, range(0, len(full.classes), 2)).model


@pytest.mark.parametrize("build", [chain, fan_out, shared_weight, slices])
def test_the_work_is_linear(build: Callable[[int], Net]) -> None:
    """Four times the graph is about four times the calls; squared work would be sixteen times."""
    found = []
    for size in (60, 240):
        data, full = build(size).bytes(), card(4 if build is chain else size)
        steps: tuple[Callable[[], Any], ...] = (
            lambda data=data: read_model(data),
            lambda data=data, full=full: cut_all(data, full),
            lambda data=data, full=full: to_bytes(cut_all(data, full)),
            lambda data=data: Fold().run(read_model(data)),
        )
        found.append([calls(step) for step in steps])
    for small, large in zip(*found, strict=True):
        assert large < 5 * small


def test_five_thousand_nodes_in_a_row_need_no_stack() -> None:
    data = chain(5000).bytes()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(400)  # what pytest needs, and little more
    try:
        model = read_model(data)
        expert = prune(model, card(4), [1, 3]).model
        folded, _ = Fold().run(expert)
        ownership(model, card(4))
        written = to_bytes(folded)
    finally:
        sys.setrecursionlimit(limit)
    inputs = feeds(data)
    assert np.array_equal(run(written, inputs)["scores"], rows(run(data, inputs)["scores"], [1, 3]))


def test_a_thousand_branches_of_which_five_stay() -> None:
    net = fan_out(1000)
    data = net.bytes()
    done = prune(read_model(data), card(1000), [1, 10, 100, 500, 999])
    assert len(done.model.nodes) == 1 + 5 + 1
    assert done.removed == 995
    inputs = feeds(data)
    written = to_bytes(done.model)
    assert np.array_equal(run(written, inputs)["scores"], rows(run(data, inputs)["scores"], done.indices))


def test_weights_of_branches_that_go_are_never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def values(constant: Constant) -> Any:
        loaded.append(constant.name)
        return original(constant)

    original = Constant.values.fget
    assert original is not None
    monkeypatch.setattr(Constant, "values", property(values))
    to_bytes(prune(read_model(fan_out(50).bytes()), card(50), [3, 7]).model)
    assert {name for name in loaded if name.startswith("w")} <= {"w3", "w7"}
