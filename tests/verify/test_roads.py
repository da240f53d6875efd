"""Routed models: what a router sends elsewhere is no fault, and what it never sends is looked at all the same."""

from __future__ import annotations

from dataclasses import replace

import choices
import numpy as np
import onnx
import pytest
from branched import PREPROCESS, Case, case
from choices import MIXED, THREE_LEVELS, TWO_LEVELS, Tree
from onnx import numpy_helper

from expertc.graph import read_model, to_bytes, with_batch
from expertc.surgery.route import route

SELECTIONS: dict[str, tuple[Tree, tuple[int, ...]]] = {
    "two groups of three": (TWO_LEVELS, (0, 1, 3, 4)),
    "a part of one group": (TWO_LEVELS, (0, 5)),
    "one class": (TWO_LEVELS, (6,)),
    "all classes": (TWO_LEVELS, tuple(range(7))),
    "three levels": (THREE_LEVELS, (1, 3, 6, 9)),
    "one branch to the end": (THREE_LEVELS, (5, 7)),
    "a class beside groups": (MIXED, (2, 3, 6)),
}


def routed(tree: Tree, indices: tuple[int, ...], *, fast: bool = True, batch: int | str = 1) -> Case:
    card = replace(choices.card(tree), preprocess=PREPROCESS)
    full = choices.network(tree, size=8).bytes()
    if fast:
        model = read_model(full)
        full = to_bytes(route(with_batch(model, 1) if batch == 1 else model, card))
    return case(full, card, indices)


@pytest.mark.parametrize("level", ["fast", "full"])
@pytest.mark.parametrize("name", SELECTIONS)
def test_an_expert_of_either_form_is_verified(name: str, level: str) -> None:
    for fast, batch in ((False, 1), (True, 1), (True, "batch")):
        certificate = routed(*SELECTIONS[name], fast=fast, batch=batch).climb(level)
        assert certificate.failure is None, (fast, batch)
        numbers = certificate.steps[1].numbers
        assert numbers["largest_difference"] == 0
        assert ("roads" in numbers) == fast


def test_it_says_how_many_inputs_the_full_model_sends_elsewhere() -> None:
    numbers, detail = [], []
    for keep in ((0, 3, 5), (1, 4), (2, 6)):
        step = routed(TWO_LEVELS, keep).climb().steps[1]
        numbers.append(step.numbers["routed_elsewhere"])
        detail.append(step.detail)
    assert sum(numbers) == 2 * 8  # every input has one group, and is elsewhere for both others
    assert all(("branches that are gone" in text) == (number > 0) for text, number in zip(detail, numbers, strict=True))
    assert routed(TWO_LEVELS, tuple(range(7))).climb().steps[1].numbers["routed_elsewhere"] == 0


def branches(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    """Every subgraph."""
    found, stack = [], [proto.graph]
    while stack:
        inner = [a.g for node in stack.pop().node for a in node.attribute if a.HasField("g")]
        found += inner
        stack += inner
    return found


@pytest.mark.parametrize("group", ["g3-0-5", "g1-4"])
def test_a_branch_that_no_input_takes_is_looked_at(group: str) -> None:
    """A bias row is shifted in one leaf: whichever group the noise is sent to, both are found."""

    def shifted(proto: onnx.ModelProto) -> None:
        for graph in branches(proto):
            for tensor in graph.initializer:
                if tensor.name == f"{group}.head.b":
                    values = np.roll(numpy_helper.to_array(tensor), 1)
                    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    sound = routed(TWO_LEVELS, (0, 1, 3, 4))
    for damaged in (sound.changed(shifted), sound.finally_changed(shifted)):
        failure = damaged.climb().failure
        assert failure is not None
    assert failure.name == "optimised"


def test_branches_that_are_swapped_are_found() -> None:
    """The choice's columns are taken for each other's."""

    def swapped(proto: onnx.ModelProto) -> None:
        starts = [t for t in proto.graph.initializer if t.name.endswith(".starts") and "choice" in t.name]
        ends = [t for t in proto.graph.initializer if t.name.endswith(".ends") and "choice" in t.name]
        assert len(starts) == len(ends) == 2
        for pair in (starts, ends):
            first, second = (numpy_helper.to_array(tensor) for tensor in pair)
            for tensor, values in zip(pair, (second, first), strict=True):
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    sound = routed(TWO_LEVELS, (0, 1, 3, 4))
    assert sound.changed(swapped).climb().failure is not None
    assert sound.finally_changed(swapped).climb().failure is not None


def test_a_router_that_still_chooses_among_all_is_found() -> None:
    """Then an input that belongs elsewhere would get no answer."""
    sound = routed(TWO_LEVELS, (1, 2, 4, 6))

    def unrestricted(proto: onnx.ModelProto) -> None:
        choice = next(node for node in proto.graph.node if node.op_type == "Hardmax")
        maker = next(node for node in proto.graph.node if choice.input[0] in node.output)
        assert maker.op_type == "Slice"
        choice.input[0] = maker.input[0]
        for tensor in proto.graph.initializer:
            if "choice" in tensor.name and tensor.name.endswith((".starts", ".ends")):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))

    failure = sound.changed(unrestricted).climb().failure
    assert failure is not None
    assert sound.climb().failure is None
