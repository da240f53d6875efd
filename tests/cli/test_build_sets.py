"""``expertc build`` for several class sets at once, and ``--plan``."""

from __future__ import annotations

import json

import exiting
import pytest
from rainbow import CLASSES

from expertc.bundle import open_bundle

QUICK = ("--verify", "off", "--measure", "0")


def test_several_class_sets_read_the_model_once(cli, full, tmp_path, monkeypatch):
    opened = []
    original = expertc_source().read_bytes
    monkeypatch.setattr(expertc_source(), "read_bytes", lambda path: opened.append(path) or original(path))
    sets = tmp_path / "sets.toml"
    sets.write_text('[sets]\nhot = ["warm", "-yellows"]\n')
    code, text, err = cli(
        "build", full, "--classes", "warm", "--classes", "blues", "--sets", sets, "-o", tmp_path / "out", *QUICK
    )
    assert (code, err) == (0, "")
    assert len(opened) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "blues.expert", "hot.expert", "reds-yellows.expert",
    ]  # fmt: skip
    assert open_bundle(tmp_path / "out" / "hot.expert").labels == ("reds",)
    lines = text.splitlines()
    assert lines[0].split() == ["bundle", "classes", "parameters", "MACs", "file", "faster"]
    assert lines[2].split()[:4] == ["(full", "model)", "4", "33"]


def test_json_of_several_is_a_list(cli, full, tmp_path):
    code, text, _ = cli(
        "build", full, "--classes", "reds", "--classes", "blues", "-o", tmp_path / "out", *QUICK, "--json"
    )
    assert code == 0
    assert [built["classes"] for built in json.loads(text)] == [["reds"], ["blues"]]


def test_each_one_is_verified(cli, full, tmp_path):
    code, text, _ = cli(
        "build", full, "--classes", "warm", "--classes", "blues", "-o", tmp_path / "out", "--measure", "0", "--json"
    )
    assert code == 0
    assert [built["verification"]["verdict"] for built in json.loads(text)] == ["verified", "verified"]


def test_a_typo_in_the_last_set_is_found_before_anything_is_built(cli, full, tmp_path):
    code, out, err = cli("build", full, "--classes", "reds", "--classes", "bleus", "-o", tmp_path / "out", *QUICK)
    assert (code, out) == (2, "")
    assert "Did you mean 'blues'?" in err
    assert list(tmp_path.iterdir()) == []


def test_two_sets_of_one_name(cli, full, tmp_path):
    code, out, err = cli("build", full, "--classes", "reds", "--classes", "#0", "-o", tmp_path / "out", *QUICK)
    assert (code, out) == (2, "")
    assert "Two class sets would be written to 'reds.expert'." in err


def test_no_class_set(cli, full):
    code, out, err = cli("build", full)
    assert (code, out) == (2, "")
    assert "No class set is given." in err


def test_a_plan_says_what_goes_and_writes_nothing(cli, full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text, err = cli("build", full, "--classes", "warm", "--plan")
    assert (code, err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    rows = [line.split() for line in text.splitlines()[2:]]
    assert [row[0] for row in rows] == ["stays"] * 4 + ["goes"] * 3 + ["full", "expert"]
    assert {row[1] for row in rows if row[0] == "stays"} == {"(trunk)", "warm", "reds", "yellows"}
    assert max(map(len, text.splitlines())) <= 80


def test_a_plan_adds_up_to_the_expert_that_is_built(cli, full, tmp_path):
    _, text, _ = cli("build", full, "--classes", "warm", "--plan", "--json")
    plan = json.loads(text)
    _, text, _ = cli("build", full, "--classes", "warm", "-o", tmp_path / "a.expert", *QUICK, "--json")
    built = json.loads(text)
    for what in ("parameters", "macs"):
        assert plan["expert"][what] == built["expert"]["cost"][what]
        assert plan["full"][what] == built["full"]["cost"][what]
        assert plan["trunk"][what] + sum(branch[what] for branch in plan["stays"]) == plan["expert"][what]
        assert plan["expert"][what] + sum(branch[what] for branch in plan["goes"]) == plan["full"][what]


@pytest.mark.parametrize(
    ("classes", "trunk", "each", "exits"),
    [
        # three exits of 3x3 weights, 3 weights a class, 3 a category
        ("reds,blues", 3 * 9, 3 * 3, None),  # of two categories: all stays
        ("reds,yellows", 3 * 9, 3 * 3, 3 * 2 * 3),  # of one: its coarse logits say nothing
        ("reds", 9, 3, 3 * 2 * 3 + 2 * 9 + 2 * 4 * 3),  # the first exit is sure
    ],
)
def test_a_plan_says_what_goes_with_exits(cli, tmp_path, classes, trunk, each, exits):
    full = tmp_path / "full.onnx"
    full.write_bytes(exiting.plain())
    plan = json.loads(cli("build", full, "--classes", classes, "--plan", "--json").out)
    assert plan["trunk"]["parameters"] == trunk
    leaves = {row["name"]: row["parameters"] for row in (*plan["stays"], *plan["goes"]) if row["name"] in CLASSES}
    assert leaves == dict.fromkeys(CLASSES, each)
    assert (plan["exits"] and plan["exits"]["parameters"]) == exits
    for what in ("parameters", "macs", "weight_bytes"):
        assert plan["trunk"][what] + sum(row[what] for row in plan["stays"]) == plan["expert"][what]
        gone = sum(row[what] for row in (*plan["goes"], *filter(None, [plan["exits"]])))
        assert plan["expert"][what] + gone == plan["full"][what]
    rows = [line.split() for line in cli("build", full, "--classes", classes, "--plan").out.splitlines()]
    assert [row[2] for row in rows if row[:2] == ["goes", "(exits)"]] == ([] if exits is None else [str(exits)])


def expertc_source():
    from expertc import source

    return source
