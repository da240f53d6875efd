"""``expertc bench --by-branch`` on the little rainbow: the table, the JSON, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.mark.parametrize("names", [(), ("--branch", "reds", "--branch", "blues,greens")])
def test_branches_are_left_out_one_by_one(cli, full: Path, names: tuple[str, ...]) -> None:
    shown = cli("bench", full, "--by-branch", *names, "--duration", "0.1", "-q")
    assert shown.code == 0, shown.err
    assert "of the MACs" in shown.out
    found = json.loads(cli("bench", full, "--by-branch", *names, "--duration", "0.1", "-q", "--json").out)
    if names:
        assert {each["name"]: each["classes"] for each in found} == {"reds": 1, "blues,greens": 2}
    assert all(0 < each["predicted"] < 1 for each in found)
    assert [each["predicted"] for each in found] == sorted((each["predicted"] for each in found), reverse=True)


def test_one_model_is_taken_apart(cli, full: Path) -> None:
    refused = cli("bench", full, full, "--by-branch", "-q")
    assert refused.code == 2
    assert "takes one model apart" in refused.err
