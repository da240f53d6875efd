"""``expertc releases``: what is on a device, seen and changed from its own command line."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from expertc.bundle import write_bundle
from expertc.cli.releases import command
from expertc.releases import Store

VERBS = ("list", "activate", "rollback", "remove", "gc")
LONG = "a" + "-shore.camera_" * 4 + "xyz"


@pytest.fixture
def ids(tmp_path: Path) -> list[str]:
    """Three releases; the second is active, the third was refused."""
    store, made = Store(tmp_path / "store"), []
    for which in ("1", "2", "3"):
        bundle = write_bundle(tmp_path / which, {"expert.onnx": which.encode()}, {"which": which}, {})
        facts = {
            "accepted": which != "3",
            "bench": {"p90_ms": 1.5},
            "why": "\x1b[31m[bold]no[/]",
            "installed": f"202{which}",
        }
        made.append(store.install(LONG, bundle, facts).id)
    for release in made[:2]:
        store.activate(LONG, release)
    return made


def test_the_list_fits_and_says_what_is_active(cli, tmp_path, ids):
    code, out, err = cli("releases", "list", "--store", tmp_path / "store")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert [release for release in ids if release in out] == ids
    assert [word for line in out.splitlines() for word in line.split() if word in ("active", "accepted")] == [
        "active",
        "accepted",
        "accepted",
    ]  # fmt: skip  (the last one is not)
    assert "1.5 ms" in out
    told = json.loads(cli("releases", "list", LONG, "--store", tmp_path / "store", "--json").out)
    assert [(each["id"], each["active"], each["accepted"]) for each in told] == [
        (ids[1], True, True), (ids[0], False, True), (ids[2], False, False),
    ]  # fmt: skip
    assert cli("releases", "list", "--store", tmp_path / "none").out == "There is no release here.\n"


def test_switching(cli, tmp_path, ids):
    def asked(*words: object) -> tuple[int, object]:
        code, out, _ = cli("releases", *words, "--store", tmp_path / "store", "--json")
        return code, [each["id"] for each in json.loads(out)] if code == 0 else out

    store = Store(tmp_path / "store")
    assert asked("rollback", LONG) == (0, [ids[0]])
    assert asked("rollback", LONG)[0] == 2
    assert asked("activate", LONG, ids[2])[0] == 2
    assert asked("activate", LONG, ids[2], "--force") == (0, [ids[2]])
    assert str(store.current(LONG)).endswith(ids[2])
    assert asked("remove", LONG, ids[2])[0] == 2
    assert asked("remove", LONG)[0] == 2
    assert asked("gc", LONG, "--keep", "1") == (0, [ids[1]])
    assert asked("remove", LONG, "--all") == (0, [ids[2], ids[0]])
    assert store.names() == ()


@pytest.mark.parametrize("name", ["../x", "a b", "a\nb", "ä", "", "x" * 99])
def test_odd_names_are_a_usage_error(cli, tmp_path, name):
    for words in (
        ("list", name),
        ("rollback", name),
        ("gc", name),
        ("activate", name, "0" * 16),
        ("remove", name, "x"),
    ):
        code, out, err = cli("releases", *words, "--store", tmp_path / "store")
        assert (code, out) == (2, "")
        assert "Error: " in err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_each_has_an_example_that_parses(cli, verb):
    code, out, _ = cli("releases", verb, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    found = command.get_command(click.Context(command), verb)
    assert found is not None
    assert found.help
    for example in str(found.epilog).splitlines()[2:]:
        words = example.split()
        assert words[:3] == ["expertc", "releases", verb]
        with found.make_context(verb, words[3:]):
            pass


def test_the_group_has_these_commands():
    assert tuple(command.commands) == VERBS
