"""Damaged files: bytes flipped, the end missing. ONNX Runtime, given the very same file, is the judge."""

from __future__ import annotations

from collections import Counter

import judge
import onnx
import pytest
from damage import fields, flips, shortened, truncations
from hostile import loop
from judge import AGREES, DAMAGE_CUT, NOWHERE, TOO_LARGE, judge_all, judged
from onnx import helper
from victims import VICTIMS

from expertc.card import CARD_KEY

FLIPS = 500  # of each model, in its weights and again in all else
METADATA, OPSETS, GRAPH = 14, 8, 7
ERRORS = {"ModelError", "CardError"}
HARMLESS = ERRORS | {AGREES, NOWHERE, DAMAGE_CUT, TOO_LARGE}


def harmful(files: list[bytes], outcomes: list[str]) -> list[tuple[int, str]]:
    assert len(outcomes) == len(files)
    # What the runtime itself does to a stranger's file it does in a process of its own (``expertc.verify``).
    return [(at, text) for at, text in enumerate(outcomes) if text not in HARMLESS and "the runtime:" not in text]


@pytest.mark.parametrize("where", ["weights", "structure"])
@pytest.mark.parametrize("name", VICTIMS)
def test_flipped_bytes(name: str, where: str) -> None:
    files = list(flips(VICTIMS[name](), FLIPS, seed=1, weights=where == "weights"))
    outcomes = judge_all(files)
    assert harmful(files, outcomes) == []
    kinds = Counter(outcomes)
    if where == "weights":
        assert kinds[AGREES] > FLIPS * 0.9  # a weight that became NaN is refused
    else:
        assert kinds[AGREES] > FLIPS / 20
        assert kinds["ModelError"] > FLIPS / 4
        assert kinds["CardError"] > FLIPS / 50


def reordered(proto: onnx.ModelProto, *first: int) -> bytes:
    """The same model with the fields of these numbers first."""
    parts = fields(proto.SerializeToString())
    return b"".join(part for number, part in sorted(parts, key=lambda part: part[0] not in first))


@pytest.mark.parametrize("first", [(), (METADATA,), (OPSETS, GRAPH), (METADATA, OPSETS)])
@pytest.mark.parametrize("name", VICTIMS)
def test_the_end_is_missing(name: str, first: tuple[int, ...]) -> None:
    data = reordered(VICTIMS[name](), *first)
    files = [*truncations(data), data]
    *outcomes, whole = judge_all(files)
    assert whole == AGREES
    assert harmful(files[:-1], outcomes) == []
    assert len(outcomes) >= 4
    for short, outcome in zip(files, outcomes, strict=False):
        proto = onnx.ModelProto.FromString(short)
        complete = proto.HasField("graph") and len(proto.opset_import) > 0
        if not any(entry.key == CARD_KEY for entry in proto.metadata_props):
            assert outcome == ("CardError" if complete else "ModelError")
        elif not complete:
            assert outcome == "ModelError"


def test_the_functions_are_missing() -> None:
    """What is left calls an operator that nobody knows; the card is there."""
    proto = VICTIMS["branches"]()
    node = next(node for node in proto.graph.node if node.op_type == "Relu")
    node.op_type, node.domain = "F", "f"
    proto.opset_import.add(domain="f", version=1)
    imports = [helper.make_opsetid("", 20)]
    body = [helper.make_node("Relu", ["a"], ["b"])]
    proto.functions.append(helper.make_function("f", "F", ["a"], ["b"], body, imports))
    data = proto.SerializeToString()
    short = list(truncations(data))[-1]
    assert judge_all([data, short]) == [AGREES, "ModelError"]


@pytest.mark.parametrize("name", VICTIMS)
def test_the_end_of_the_graph_is_missing(name: str) -> None:
    files = list(shortened(VICTIMS[name]()))
    outcomes = judge_all(files)
    assert harmful(files, outcomes) == []
    assert Counter(outcomes)["ModelError"] > len(files) / 2


@pytest.mark.parametrize("name", VICTIMS)
def test_the_end_is_missing_anywhere(name: str) -> None:
    data = VICTIMS[name]().SerializeToString()
    files = [data[:end] for end in range(0, len(data), 37)]
    assert set(judge_all(files)) <= ERRORS


def test_the_judge_notices_a_wrong_expert(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(VICTIMS["branches"]().SerializeToString())
    assert judged(path) == AGREES
    right = judge.prune
    monkeypatch.setattr(judge, "prune", lambda model, card, keep: right(model, card, (1, 2)))
    assert judged(path).startswith("WRONG: scores differs")
    monkeypatch.setattr(judge, "prune", lambda model, card, keep: right(model, card, (1, 2, 3)))
    assert judged(path).startswith("WRONG: scores differs by inf")


def test_the_judge_notices_a_hang() -> None:
    """A process that dies costs the file it was at, and no other."""
    good, endless = VICTIMS["branches"]().SerializeToString(), loop(count=2**62).SerializeToString()
    assert judge_all([good, endless, good], seconds=3) == [AGREES, "the runtime: SIGPROF", AGREES]
