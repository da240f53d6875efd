"""The golden record as a file, and what is held against it: with sessions that say whatever a test wants."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expertc.controls import Control
from expertc.verify import golden
from expertc.verify.agreement import ALLOWED, Agreement, check
from expertc.verify.golden import Golden, answers, record

Array = np.ndarray[Any, Any]

X = np.random.default_rng(0).random((5, 3, 4, 4), np.float32)
SCORES = np.array([[4, 1, 0], [0, 0.5, 2]], np.float32)


@dataclass
class Told:
    """A session that gives, for each image in turn, a row of ``rows``."""

    rows: dict[str, Array]
    size: int | None = 1
    controls: tuple[Control, ...] = ()
    calls: list[tuple[int, Any]] = field(default_factory=list)

    input: str = "image"
    classes: None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.rows)

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        return (self.size, 3, 4, 4)

    def run(self, x: Array, controls: Any = None) -> dict[str, Array]:
        start = sum(count for count, _ in self.calls)
        self.calls.append((len(x), controls))
        return {
            name: np.take(rows, range(start, start + len(x)), axis=0, mode="clip") for name, rows in self.rows.items()
        }

    def close(self) -> None:
        """Nothing to free."""


def test_a_record_is_read_back_and_is_what_numpy_reads(tmp_path: Path) -> None:
    names = ["../../etc/passwd", "\u202eärger\n[red]", "file", "0"]
    kinds = (np.float32, np.float16, np.int64, np.bool_)
    rows = {name: np.arange(6).reshape(2, 3).astype(kind) for name, kind in zip(names, kinds, strict=True)}
    rows["one number"] = np.array([7.0, 8.0])
    session = Told(rows, controls=(Control("gäin", (0.1, 2.0), False), Control("x", (1e30,), False)))
    data = record(session, X)
    assert data == record(Told(rows, controls=session.controls), X)
    assert [count for count, _ in session.calls] == [1, 1]
    (tmp_path / "golden.npz").write_bytes(data)
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        assert {*file.files} == {"input", "controls", "control_0", "control_1", "outputs",
                                 *(f"output_{number}" for number in range(5))}  # fmt: skip
        np.testing.assert_array_equal(file["input"], X[:2])
        assert file["outputs"].tolist() == [*names, "one number"]
        assert (file["controls"].tolist(), file["control_0"].tolist()) == (["gäin", "x"], [0.1, 2.0])
    found = Golden.read(tmp_path / "golden.npz")
    assert [*found.outputs] == [*rows]
    for name, values in rows.items():
        assert found.outputs[name].dtype == values.dtype
        np.testing.assert_array_equal(found.outputs[name], values)


def test_text_is_not_recorded_and_what_cannot_be_read_again_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    text = {"label": np.array(["cat", "dog"], object), "scores": SCORES}
    with np.load(io.BytesIO(record(Told(text), X))) as file:
        assert file["outputs"].tolist() == ["scores"]
    many = {f"output {number}": SCORES for number in range(golden.MAX_OUTPUTS)}
    assert record(Told(many), X)
    assert record(Told({**many, "more": SCORES}), X) == b""
    assert record(Told({"scores": np.array([[1.0], [np.nan]])}), X) == b""
    monkeypatch.setattr(golden, "MAX_BYTES", X[:2].nbytes + 500)
    assert record(Told({"scores": SCORES}), X) == b""


def test_as_many_images_per_call_as_the_expert_takes() -> None:
    session = Told({"scores": np.arange(12.0).reshape(4, 3)}, size=4)
    found = answers(session, X[:2], {"gain": np.array([1.0, 2.0])})
    assert session.calls == [(4, {"gain": [1.0, 2.0]})]
    np.testing.assert_array_equal(found["scores"], np.arange(6.0).reshape(2, 3))
    assert answers(Told({"scores": SCORES}, size=None), X[:2], {})["scores"].shape == (2, 3)


def compared(found: dict[str, Array], precision: str = "fp32", **wanted: Array) -> Agreement:
    own = wanted or {"scores": SCORES}
    return check(Told(found), Golden(X[:2], {}, own), precision=precision, scores="scores")


def off(by: float) -> Array:
    """The scores, one of them off by a share of the largest."""
    return SCORES + np.array([[0, 0, 4 * by], [0, 0, 0]], np.float32)


@pytest.mark.parametrize("precision", ALLOWED)
def test_what_a_precision_allows(precision: str) -> None:
    allowed = ALLOWED[precision]
    found = compared({"scores": off(0.9 * allowed)}, precision)
    assert (found.passed, found.inputs, found.allowed, found.decided_otherwise) == (True, 2, allowed, 0)
    assert found.largest_difference == pytest.approx(0.9 * allowed, rel=1e-3)
    found = compared({"scores": off(1.1 * allowed)}, precision)
    assert not found.passed
    assert found.detail.startswith("The output 'scores' differs by")
    assert compared({"scores": SCORES.copy()}, precision).detail == "It gives what was recorded, bit for bit."


def test_the_largest_allowed_differences_are_in_order() -> None:
    assert 0 < ALLOWED["fp32"] < ALLOWED["fp16"] < ALLOWED["int8"] < 1


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, "is missing"),
        ({"scores": SCORES[:, :2]}, r"is \(2, 2\), but \(2, 3\) was recorded"),
        ({"scores": np.where(SCORES == 2, np.nan, SCORES)}, "NaN"),
        ({"scores": np.where(SCORES == 2, np.inf, SCORES)}, "infinite"),
        ({"scores": SCORES.astype(np.int64)}, "another kind of numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_at_all(found: dict[str, Array], words: str) -> None:
    got = compared(found, "int8")
    assert not got.passed
    assert re.search(words, got.detail)
    assert got.to_mapping()["largest_difference"] is None


def test_a_clear_decision_has_to_be_the_same() -> None:
    """Both scores of the first input move by less than what is allowed each, towards each other."""
    wanted = np.array([[4, 3.94, 0], [0, 0, 2]], np.float32)
    found = wanted + np.array([[-0.035, 0.035, 0], [0, 0, 0]], np.float32)
    got = compared({"scores": found}, "fp16", scores=wanted)
    assert (got.passed, got.decided_otherwise) == (False, 1)
    assert got.largest_difference < got.allowed
    close = np.array([[4, 3.98, 0], [0, 0, 2]], np.float32)
    assert compared({"scores": close[:, [1, 0, 2]]}, "fp16", scores=close).passed


def test_whole_numbers_are_the_same_or_rounding_took_one_input_elsewhere() -> None:
    exits, others = np.array([1, 2]), {"scores": off(0.9), "exit": np.array([3, 2], np.int32)}
    wanted = {"scores": SCORES, "exit": exits}
    got = compared(others, "fp32", **wanted)
    assert (got.passed, got.decided_otherwise) == (False, 1)
    assert "1 got another exit" in got.detail
    for precision in ("fp16", "int8"):
        got = compared(others, precision, **wanted)  # the other input's scores are as they were
        assert (got.passed, got.decided_otherwise, got.largest_difference) == (True, 1, 0)
        assert not compared({"scores": off(0.9)[::-1], "exit": others["exit"]}, precision, **wanted).passed
        assert not compared({"scores": SCORES, "exit": np.array([3, 3])}, precision, **wanted).passed
    assert compared({"scores": SCORES, "exit": exits.astype(np.int32)}, **wanted).passed  # as TensorRT 8 has it
