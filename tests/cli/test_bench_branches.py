"""``expertc bench --by-branch`` on the little rainbow: the table, the report, an interrupt, and what it refuses."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from expertc.cli import bench as command_module

SCHEMA = json.loads(files("expertc.bench").joinpath("schema.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("names", [(), ("--branch", "reds", "--branch", "blues,greens")])
def test_branches_are_left_out_one_by_one(cli, full: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    shown = cli("bench", full, "--by-branch", *names, "--duration", "0.2", "--report", tmp_path / "r")
    assert shown.code == 0, shown.err
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "of the MACs" in shown.out
    assert "verdict" in shown.out
    found = json.loads((tmp_path / "r" / "report.json").read_text())
    Draft202012Validator(SCHEMA).validate(found)
    branches = found["branches"]
    assert found["models"][0]["name"] == full.name
    assert {model["name"] for model in found["models"][1:]} == branches.keys()
    if names:
        assert {each["name"]: each["classes"] for each in branches.values()} == {"reds": 1, "blues,greens": 2}
    assert all(0 < each["predicted"] < 1 for each in branches.values())
    for name in ("report.md", "report.html"):
        assert "What leaving out a branch saves" in (tmp_path / "r" / name).read_text()


def test_an_interrupt_keeps_what_was_measured(cli, full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_module, "_line", stop)
    code, out, _ = cli("bench", full, "--by-branch", "--duration", "600", "--json")
    assert code == 130
    found = json.loads(out)
    assert found["complete"] is False
    assert found["branches"]


def test_one_model_is_taken_apart(cli, full: Path) -> None:
    for more in ([full], ["--scenario", "camera"], ["--cold"], ["--phases"]):
        refused = cli("bench", full, *more, "--by-branch", "-q")
        assert refused.code == 2
        assert "takes one model apart" in refused.err
