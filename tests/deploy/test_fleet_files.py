"""Fleets in TOML, and the rollout's order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from expertc.deploy import rollout
from expertc.deploy.address import Address
from expertc.deploy.fleet import Fleet, Group, read_fleet
from expertc.deploy.host import ACTIVE, FAILED, NOT_TRIED, Outcome
from expertc.deploy.transport import Ssh
from expertc.errors import UsageError

WHOLE = """
model = "full.onnx"
canary = 1
stop_after = 3
at_once = 2
max_p90_ms = 20
keep = 5

[groups.reef]
hosts = ["jetson@10.0.0.5", "cam2:2222"]
classes = ["sharks", "rays"]
target = "orin-nano-8gb"
precision = "fp16"

[groups.Beach]
hosts = ["cam3"]
name = "beach-2"
bundle = "beach.expert"
max_p90_ms = 7.5
python = "/opt/python3.11/bin/python3"
service = true
listen = "0.0.0.0"
port = 9000
"""


def read(folder: Path, text: str) -> Fleet:
    (folder / "fleet.toml").write_text(text)
    return read_fleet(folder / "fleet.toml")


def test_all_of_it(tmp_path) -> None:
    fleet = read(tmp_path, WHOLE)
    reef, beach = fleet.groups
    assert (fleet.at_once, fleet.canary, fleet.stop_after) == (2, 1, 3)
    assert reef == Group(
        "reef", "reef", (Address.parse("jetson@10.0.0.5"), Address.parse("cam2:2222")), None, "sharks,rays",
        tmp_path / "full.onnx", "orin-nano-8gb", "fp16", max_p90_ms=20, keep=5,
    )  # fmt: skip
    assert beach == Group(
        "Beach", "beach-2", (Address.parse("cam3"),), tmp_path / "beach.expert", None, tmp_path / "full.onnx",
        max_p90_ms=7.5, keep=5, python="/opt/python3.11/bin/python3", service=True, listen="0.0.0.0", port=9000,
    )  # fmt: skip


def test_the_command_line_has_the_last_word(tmp_path) -> None:
    fleet = read(tmp_path, WHOLE).changed({"canary": 0, "at_once": None}, {"max_p90_ms": 3.0, "port": None})
    assert (fleet.canary, fleet.at_once) == (0, 2)
    assert [group.max_p90_ms for group in fleet.groups] == [3.0, 3.0]
    assert [group.port for group in fleet.groups] == [8000, 9000]
    for rolling, every in (({"at_once": 0}, {}), ({}, {"port": 80}), ({}, {"max_p90_ms": -1.0}), ({}, {"keep": -1})):
        with pytest.raises(UsageError):
            fleet.changed(rolling, every)


GROUP = '[groups.g]\nhosts = ["cam"]\nclasses = "sharks"\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no groups"),
        ("[groups]\n", "has no groups"),
        ("x = ", "is not TOML"),
        ("colour = 1\n" + GROUP, "'colour'"),
        (GROUP + "colour = 1\n", "'colour'"),
        ("at_once = true\n" + GROUP, "wrong value for at_once"),
        ("at_once = 0\n" + GROUP, "at_once is 0"),
        ("canary = -1\n" + GROUP, "canary is -1"),
        ('keep = "3"\n' + GROUP, "wrong value for keep"),
        (GROUP + "max_p90_ms = nan\n", "limit of nan"),
        (GROUP + "max_p90_ms = 0\n", "limit of 0"),
        (GROUP + "port = 80\n", "80 is not a port"),
        (GROUP + 'python = "python3; rm -rf /"\n', "is not the name of a Python"),
        (GROUP + 'python = "-c"\n', "is not the name of a Python"),
        (GROUP + 'listen = "0.0.0.0 --x"\n', "not an address to listen on"),
        (GROUP + 'name = "../x"\n', "is not a name for an expert"),
        (GROUP + 'name = "a b"\n', "is not a name for an expert"),
        (GROUP + 'bundle = "x.expert"\n', "what to deploy"),
        ('[groups.g]\nhosts = ["cam"]\n', "what to deploy"),
        ('[groups.g]\nhosts = []\nclasses = "a"\n', "has no hosts"),
        ('[groups.g]\nhosts = [1]\nclasses = "a"\n', "has no hosts"),
        ('[groups.g]\nhosts = "cam"\nclasses = "a"\n', "wrong value for hosts"),
        ('[groups.g]\nhosts = ["-oProxyCommand=x"]\nclasses = "a"\n', "is not the address"),
        ('[groups.g]\nhosts = ["cam"]\nclasses = [1]\n', "classes that are no text"),
        ('[groups."a\\nb"]\nhosts = ["cam"]\nclasses = "a"\n', "plain name"),
        ('groups = {g = 1}\n', "plain name"),
        (GROUP + '[groups.h]\nname = "g"\nhosts = ["cam"]\nclasses = "b"\n', "names cam twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        read(tmp_path, text)
    assert "\n" not in caught.value.message
    assert caught.value.hint


# -- the order ---------------------------------------------------------------------------------------------------------


class Devices:
    """Stand-ins for devices: those in ``bad`` fail; who was tried, and how many at a time."""

    def __init__(self, bad: Sequence[str]) -> None:
        self.bad, self.tried = bad, list[str]()
        self.now = self.most = 0

    async def deploy(self, job: Any, ssh: Ssh, told: Any) -> Outcome:
        name = job.address.given
        self.tried.append(name)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.002)
        self.now -= 1
        return Outcome(job, FAILED if name in self.bad else ACTIVE, "Why." if name in self.bad else "")


def rolled(monkeypatch: pytest.MonkeyPatch, names: str, bad: str = "", **how: Any) -> tuple[Devices, list[str]]:
    """``names``: "a1 a2 b1", the letter is the group. How each ended."""
    devices = Devices(bad.split())
    monkeypatch.setattr(rollout, "deploy", devices.deploy)
    jobs = [SimpleNamespace(address=Address.parse(name), group=name[0], release="0" * 16) for name in names.split()]
    found = asyncio.run(rollout.roll_out(jobs, Ssh(), lambda job, stage, share: None, **how))  # type: ignore[arg-type]
    assert [outcome.job for outcome in found] == jobs
    devices.why = [outcome.why for outcome in found]
    return devices, [outcome.state for outcome in found]


def test_some_at_a_time(monkeypatch) -> None:
    devices, states = rolled(monkeypatch, "a1 a2 a3 a4 a5 b1 b2", at_once=3)
    assert devices.most == 3
    assert states == [ACTIVE] * 7


def test_one_that_fails_does_not_stop_the_others(monkeypatch) -> None:
    _, states = rolled(monkeypatch, "a1 a2 a3", "a2")
    assert states == [ACTIVE, FAILED, ACTIVE]


def test_canaries_of_every_group_go_first(monkeypatch) -> None:
    devices, states = rolled(monkeypatch, "a1 a2 a3 b1 b2", canary=1, at_once=9)
    assert set(devices.tried[:2]) == {"a1", "b1"}
    assert states == [ACTIVE] * 5


def test_a_canary_that_fails_is_the_last(monkeypatch) -> None:
    devices, states = rolled(monkeypatch, "a1 a2 b1 b2", "b1", canary=1)
    assert set(devices.tried) == {"a1", "b1"}
    assert states == [ACTIVE, NOT_TRIED, FAILED, NOT_TRIED]


def test_too_many_failures_end_it(monkeypatch) -> None:
    devices, states = rolled(monkeypatch, "a1 a2 a3 a4 a5 a6", "a2 a3", at_once=1, stop_after=2)
    assert devices.tried == ["a1", "a2", "a3"]
    assert states == [ACTIVE, FAILED, FAILED, NOT_TRIED, NOT_TRIED, NOT_TRIED]


def test_what_was_not_tried_has_not_failed(monkeypatch) -> None:
    devices, _ = rolled(monkeypatch, "a1 a2 a3 a4", "a1", at_once=1, stop_after=1)
    assert devices.why[1:] == ["Another one failed before it."] * 3


def test_two_services_on_one_port(tmp_path) -> None:
    text = (
        '[groups.a]\nhosts = ["cam"]\nbundle = "a"\n[groups.b]\nhosts = ["cam"]\nbundle = "b"\n'
        '[groups.c]\nhosts = ["other"]\nbundle = "c"\n'
    )
    with pytest.raises(UsageError, match="a and b would both serve on port 8000 of cam"):
        read(tmp_path, "service = true\n" + text)
    fleet = read(tmp_path, text)
    with pytest.raises(UsageError, match="a and b would both serve on port 9000 of cam"):
        fleet.changed({}, {"service": True, "port": 9000})
    assert fleet.changed({}, {"port": 9000}).groups[0].port == 9000


@pytest.mark.parametrize("host", ["...", "a..b", "-x", ":", "1"])
def test_no_address_to_listen_on(tmp_path, host: str) -> None:
    with pytest.raises(UsageError, match="not an address to listen on"):
        read(tmp_path, f'listen = "{host}"\n[groups.a]\nhosts = ["cam"]\nbundle = "a"\n')
