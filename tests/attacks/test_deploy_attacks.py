"""A host that means ill, or is not expertc at all: the agent refuses, touches nothing, and goes on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from on_pipes import Talk, about, deliver, identity, listed, upload, variant

SHA = "0" * 64
ID = "0" * 16
NAMES = ["", ".", "..", "../x", "/etc/x", "a/b", "a b", "a\nb", "a\0", "ä", "x" * 65, "-x", "$(id)", ".current"]
FILES = ["", ".", "..", "../x", "/etc/passwd", "a/b", "a b", "a\nb", "ä", ".x", "-x", "x" * 101, "manifest.json.part"]


def hostile(good: dict[str, Any]) -> list[dict[str, Any]]:
    """Requests that are no good, beside one that is."""
    asked: list[dict[str, Any]] = [
        {}, {"do": None}, {"do": 7}, {"do": "__class__"}, {"do": ["list"]}, {"do": "list", "x": 1}, {"do": "rollback"},
        {"do": "list", "name": 7}, {"do": "gc", "name": "cam", "keep": True}, {"do": "gc", "name": "cam", "keep": -1},
        {"do": "gc", "name": "cam", "keep": 1.5}, {"do": "accept", "name": "cam", "id": ID, "seconds": 1e9},
        {"do": "accept", "name": "cam", "id": ID, "verify": 1},
        {"do": "accept", "name": "cam", "id": ID, "threads": "2"},
        {"do": "accept", "name": "cam", "id": ID, "max_p90_ms": -1}, {"do": "service", "name": "cam", "port": 10**5},
        {"do": "service", "name": "cam", "host": "::\nExecStart=/bin/sh"}, {"do": "service", "name": "cam\n[Service]"},
        {"do": "service", "name": "cam", "host": "-x"}, {"do": "service", "name": "cam", "port": 0},
    ]  # fmt: skip
    for name in NAMES:
        asked += [{"do": verb, "name": name, "id": ID} for verb in ("accept", "activate")]
        asked += [{"do": verb, "name": name} for verb in ("rollback", "list", "remove", "gc", "service")]
        asked += [{"do": verb, **good, "name": name} for verb in ("receive", "commit")]
    for release in ("", "..", "../../../../tmp", "0" * 15, "0" * 17, "G" * 16, "0" * 15 + "\n"):
        asked += [{"do": verb, "name": "cam", "id": release} for verb in ("accept", "activate", "remove")]
        asked += [{"do": verb, **good, "id": release} for verb in ("receive", "commit")]
    odd: list[Any] = [{}, {"x": [1, SHA]}, {**good["files"], "manifest.json": [1, SHA]}, [], None, "x"]
    odd += [{**good["files"], name: [1, SHA]} for name in FILES]
    odd += [
        {**good["files"], "x": entry} for entry in ([1], [1, SHA, 1], [1, SHA.upper()[:63]], [True, SHA], ["1", SHA])
    ]
    odd += [{**good["files"], "x": entry} for entry in ([-1, SHA], [2**60, SHA], [1.0, SHA], [1, 7], {}, None)]
    odd += [{**good["files"], **{f"f{number}": [1, SHA] for number in range(99)}}]
    asked += [{"do": verb, **good, "files": files} for verb in ("receive", "commit") for files in odd]
    return asked


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".lock"}


def test_hostile_requests_are_refused_one_by_one(bundle: Path, tmp_path: Path) -> None:
    with Talk(tmp_path) as agent:
        deliver(agent, bundle)
        before = tree(tmp_path)
        for request in hostile(about(bundle)):
            agent.send(json.dumps(request).encode() + b"\n")
            failed = agent.reply().get("failed")
            assert failed is not None, request
            assert (failed["kind"], failed["exit_code"]) == ("UsageError", 2), (request, failed)
            assert (failed["message"] + failed["hint"]).isprintable()
            assert len(failed["message"]) < 400
        assert tree(tmp_path) == before
        assert [each["id"] for each in agent.ask("list")["releases"]] == [identity(bundle)]


def test_lines_that_are_no_requests(tmp_path: Path) -> None:
    draw = random.Random(0)
    lines = [b"", b"\0", b"null", b"[]", b'"x"', b"GET / HTTP/1.1\r", b"\xff\xfe", b"{" * 10**5, b'{"do":NaN}']
    lines += [b'{"do":"list","do":"list"}', b'{"do":"list","name":' + b"[" * 10**5, b'{"do": 1e999}', b"9" * 10**5]
    lines += [bytes(draw.choices(range(11, 256), k=40)) for _ in range(50)]
    with Talk(tmp_path) as agent:
        for line in lines:
            agent.send(line + b"\n")
            assert agent.reply()["failed"]["kind"] == "UsageError", line[:40]
        assert agent.ask("list") == {"releases": []}
        agent.send(b'{"do":"list"}\n{"do":"list"}\n')  # two at once are answered in turn
        assert [agent.reply(), agent.reply()] == [{"done": {"releases": []}}] * 2


def test_a_line_without_end_ends_the_agent(tmp_path: Path) -> None:
    with Talk(tmp_path) as agent:
        agent.send(b"x" * 2**20 + b"xx")
        assert "longer than 1 MiB" in agent.reply()["failed"]["message"]
        assert agent.process.wait(60) == 2


def test_a_line_that_breaks_off_is_no_request(bundle: Path, tmp_path: Path) -> None:
    with Talk(tmp_path) as agent:
        agent.send(json.dumps({"do": "receive", **about(bundle)}).encode()[:-1])
        agent.end()
        assert agent.process.wait(60) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_way_is_not_followed(bundle: Path, tmp_path: Path) -> None:
    """Whoever can write to the folder of uploads cannot make the agent read, change or install what lies elsewhere."""
    precious = tmp_path / "precious"
    precious.write_bytes((bundle / "labels.txt").read_bytes())
    precious.chmod(0o644)
    with Talk(tmp_path) as agent:
        agent.ask("receive", **about(bundle))
        folder = agent.share / "incoming" / identity(bundle)
        for name in listed(bundle):
            (folder / f"{name}.part").write_bytes((bundle / name).read_bytes())
        (folder / "labels.txt.part").unlink()
        (folder / "labels.txt.part").symlink_to(precious)
        (folder / "expert.onnx").mkdir()
        assert agent.ask("commit", **about(bundle)) == {"damaged": ["labels.txt"]}
        assert precious.stat().st_mode & 0o777 == 0o644
        assert precious.is_file()


@pytest.mark.parametrize("entry", ["../../evil.onnx", "/etc/passwd", "x/y"])
def test_a_manifest_that_names_what_lies_elsewhere_is_no_bundle(bundle: Path, tmp_path: Path, entry: str) -> None:
    evil = variant(bundle, tmp_path / "evil", "evil")
    manifest = json.loads((evil / "manifest.json").read_text())
    manifest["files"][entry] = {"bytes": 1, "sha256": SHA}
    (evil / "manifest.json").write_text(json.dumps(manifest))
    with Talk(tmp_path) as agent:
        upload(agent, evil, agent.ask("receive", **about(evil))["send"])
        failed = agent.try_to("commit", **about(evil))["failed"]
        assert (failed["kind"], failed["exit_code"]) == ("BundleError", 3)
        assert agent.ask("list") == {"releases": []}
