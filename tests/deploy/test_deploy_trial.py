"""What a trial finds on a device with TensorRT, which is simulated, and what makes it say no."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from on_device import Device

from expertc import build
from expertc.deploy import trial
from expertc.deploy.trial import attempt
from expertc.errors import CompilationError

WANTED = {"max_p90_ms": None, "seconds": 0.05, "threads": 1, "verify": True}


@pytest.fixture
def orin(full: Path, tmp_path: Path) -> Path:
    return build(full, classes="warm", output=tmp_path / "orin", target="orin-nano-8gb", measure_seconds=0.05).path


def heard() -> tuple[list[str], Any]:
    said: list[str] = []
    return said, lambda stage, share=None: said.append(stage)


def test_it_is_compiled_for_the_device_and_verified_there(jetson: Device, orin: Path) -> None:
    said, say = heard()
    found = attempt(orin, WANTED, say)
    assert (found["why"], found["notes"]) == (None, [])
    compiled = found["compiled"]
    assert (compiled["device"], compiled["sm"], compiled["tensorrt"]) == ("Orin", "8.7", "10.3.0")
    assert (compiled["fresh"], compiled["seconds"], compiled["notes"]) == (True, 7.0, ["A note."])
    assert found["verified"]["passed"] is True
    assert [stage for stage in said if not stage.startswith("compile:")] == ["compile", "verify", "bench"]
    assert len(jetson.compiled) == 1
    assert len(jetson.opened) == 2  # to verify, and for the bench: both times the plan and not the graph
    assert attempt(orin, WANTED, say)["compiled"]["fresh"] is False


def test_what_tensorrt_cannot_compile_is_no_good(jetson: Device, orin: Path) -> None:
    jetson.fails = CompilationError("TensorRT finds no kernel.", "Update it.")
    with pytest.raises(CompilationError, match="no kernel"):
        attempt(orin, WANTED, heard()[1])


def test_what_is_too_slow_to_be_timed_is_no_good(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "LONGEST", 0.0)
    found = attempt(bundle, {**WANTED, "seconds": 0.0, "max_p90_ms": 1e6}, heard()[1])
    assert found["bench"]["p90_ms"] is None
    assert found["why"] == f"It is too slow to find its p90: {found['bench']['count']} images in 0 s."
    monkeypatch.undo()  # with a minute for it, there is enough for 64 calls
    found = attempt(bundle, {**WANTED, "seconds": 0.0, "max_p90_ms": 1e6}, heard()[1])
    assert found["why"] is None
    assert found["bench"]["count"] >= 64


def test_without_a_limit_a_few_calls_will_do(bundle: Path) -> None:
    found = attempt(bundle, {**WANTED, "seconds": 0.0, "verify": False}, heard()[1])
    assert (found["why"], found["verified"], found["bench"]["images"]) == (None, None, 1)
