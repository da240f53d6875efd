"""``expertc inspect --arch`` of networks that take a tree and arguments."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")


def test_a_tree_and_arguments(cli, tmp_path):
    """The published HierNet with n = 3 by its own name, and put together from its parts."""
    code, out, err = cli("inspect", "--arch", "hiernet_elu_resnet20", "--classes-count", 100, "--json")
    assert (code, err) == (0, "")
    published = json.loads(out)
    assert (published["parameters"], published["macs"], published["groups"]) == (1_641_435, 127_851_200, 7)
    tree = tmp_path / "t.yaml"
    lines = [f"    c{i}: {{index: {i}}}" for i in range(100)]
    for at, group in zip((85, 70, 55, 40, 25, 10, 0), "gfedcba", strict=True):
        lines.insert(at, f"  {group}:")
    tree.write_text("\n".join(["name: t", "tree:", *lines]) + "\n")
    asked = ("--set", "backbone=cifar_elu_resnet20", "--set", "split=6", "--set", "add=2", "--size", 32, "--json")
    again = json.loads(cli("inspect", "--arch", "hiernet", "--taxonomy", tree, *asked).out)
    same = ("classes", "size", "parameters", "macs", "macs_thop", "groups", "macs_routed")
    assert {key: again[key] for key in same} == {key: published[key] for key in same}
    assert "MACs, routed" in cli("inspect", "--arch", "hiernet", "--classes-count", 30).out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--set", "split=5"), 2, "--arch"),
        (("--size", "64"), 2, "--arch"),
        (("--arch", "hiernet", "--classes-count", "30", "--set", "split"), 2, "NAME=VALUE"),
        (("--arch", "hiernet", "--classes-count", "30", "--set", "split=10"), 3, "9 stages"),
        (("--arch", "hiernet", "--classes-count", "30", "--set", "backbone=/etc/passwd"), 3, "not allowed"),
        (("--arch", "hiernet", "--classes-count", "30", "--set", "pretrained_backbone=true"), 3, "not allowed"),
        (("--arch", "hiernet", "--classes-count", "30", "--set", "size=1"), 3, "size"),
        (("--arch", "hiernet", "--taxonomy", "no.yaml"), 3, "no.yaml"),
        (("--levels", "2"), 2, "--levels"),
        (("--taxonomy", "cifar10", "--levels", "2"), 2, "--levels"),
        (("--arch", "gran_hbn", "--classes-count", "10", "--levels", "2"), 2, "--levels"),
    ],
)
def test_what_cannot_be_counted(cli, arguments, code, words):
    found = cli("inspect", *arguments)
    assert (found.code, found.out) == (code, "")
    assert words in found.err


def test_a_network_with_exits(cli):
    """The published Gran-HBN, by its log: 12,189,480 parameters, 68.10 M mult-adds."""
    code, out, err = cli("inspect", "--arch", "gran_hbn", "--classes-count", 100, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["parameters"], round(found["macs_torchinfo"] / 1e6, 2)) == (12_189_480, 68.10)
    assert [round(macs / 1e6, 3) for macs in found["macs_to_exit"]] == [15.892, 37.896, 68.026]
    shown = cli("inspect", "--arch", "gran_hbn", "--classes-count", 100).out
    assert all(f"{number:,}" in shown for number in (*found["macs_to_exit"], found["macs_torchinfo"]))
    three = cli("inspect", "--arch", "gran_hbn", "--taxonomy", "cifar10")
    assert (three.code, three.out) == (2, "")
    assert "two levels" in three.err
    assert "--levels 2" in three.err
    code, out, err = cli("inspect", "--arch", "gran_hbn", "--taxonomy", "cifar10", "--levels", 2, "--json")
    assert (code, err) == (0, "")
    # on each of three necks of 2048, linears with bias of 100 + 20 labels are those of 10 + 5 here
    assert json.loads(out)["parameters"] == found["parameters"] - 3 * 2049 * (120 - 15)
