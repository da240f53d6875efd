"""The unit of an expert's service, with stand-ins for systemd's commands that write down how they were called."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from on_pipes import Talk

from expertc.serve.unit import unit


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho {name} \"$@\" >> '{folder}/calls'\n{script}\n")
    (folder / name).chmod(0o755)


def calls(folder: Path) -> list[str]:
    """Since the last look."""
    found = (folder / "calls").read_text().splitlines()
    (folder / "calls").unlink()
    return found


LOOK = (
    "systemctl --user show --property=ActiveState --property=SubState --property=Job --property=Result"
    " expertc-cam.service"
)
SOUND = 'case "$2" in show) echo Version=252; echo ActiveState=active; echo SubState=running;; esac'


def test_the_service_is_installed_and_restarted_only_if_it_changed(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    program(tools, "systemctl", SOUND)
    program(tools, "loginctl", "exit 1")
    with Talk(tmp_path, PATH=f"{tools}:/bin") as agent:
        found = agent.ask("service", name="cam", port=8080)
        place = tmp_path / ".config/systemd/user/expertc-cam.service"
        assert found == {"unit": str(place), "state": "active", "lingers": False}
        assert place.read_text() == unit("cam", ["--host", "127.0.0.1", "--port", "8080"])
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        assert calls(tools) == [
            "systemctl --user show --property=Version", "systemctl --user daemon-reload",
            "systemctl --user enable expertc-cam.service", "systemctl --user restart --no-block expertc-cam.service",
            "loginctl enable-linger", LOOK,
        ]  # fmt: skip
        agent.ask("service", name="cam", port=8080)
        assert "systemctl --user start --no-block expertc-cam.service" in calls(tools)
        agent.ask("service", name="cam", port=8081)
        assert "systemctl --user restart --no-block expertc-cam.service" in calls(tools)


def shows(*states: str) -> str:
    """A systemctl that shows one state after another, then the last one again."""
    lines = "".join(f"{at}) printf '{state}';;" for at, state in enumerate(states[:-1], 1))
    looks = 'echo x >> "$0.looks"; case $(wc -l < "$0.looks") in'
    return f"case \"$*\" in *ActiveState*) {looks} {lines} *) printf '{states[-1]}';; esac;; esac"


STARTS = r"ActiveState=activating\nSubState=start\nJob=7\n"
DIES = r"ActiveState=activating\nSubState=auto-restart\nResult=exit-code\n"
RUNS = r"ActiveState=active\nSubState=running\nJob=0\n"
ENDS = r"ActiveState=active\nSubState=running\nJob=8\n"  # the one before, which is to be stopped


def test_a_service_that_starts_is_waited_for(tmp_path: Path) -> None:
    program(tmp_path / "bin", "systemctl", shows(ENDS, STARTS, RUNS))
    with Talk(tmp_path, PATH=f"{tmp_path}/bin:/usr/bin:/bin") as agent:
        assert agent.ask("service", name="cam")["state"] == "active"


@pytest.mark.parametrize("states", [(STARTS, DIES), (ENDS, r"ActiveState=failed\nSubState=failed\nResult=timeout\n")])
def test_a_service_that_dies_is_told(tmp_path: Path, states: tuple[str, ...]) -> None:
    program(tmp_path / "bin", "systemctl", shows(*states))
    with Talk(tmp_path, PATH=f"{tmp_path}/bin:/usr/bin:/bin") as agent:
        failed = agent.try_to("service", name="cam")["failed"]
    assert failed["kind"] == "DeploymentError"
    assert states[-1].rpartition("Result=")[2].removesuffix(r"\n") in failed["message"]
    assert "journalctl --user --unit expertc-cam.service" in failed["hint"]


@pytest.mark.parametrize("host", ["...", "a..b", "-x", ":", "x-", "1", "a b"])
def test_what_nobody_can_listen_on(tmp_path: Path, host: str) -> None:
    with Talk(tmp_path) as agent:
        assert "no address to serve on" in agent.try_to("service", name="cam", host=host)["failed"]["message"]
    assert not (tmp_path / ".config").exists()


def test_the_service_goes_with_the_expert(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    program(tools, "systemctl", SOUND)
    with Talk(tmp_path, PATH=f"{tools}:/usr/bin:/bin") as agent:
        agent.ask("service", name="cam")
        place = tmp_path / ".config/systemd/user/expertc-cam.service"
        assert place.is_file()
        calls(tools)
        agent.try_to("remove", name="cam")  # there is no release of it
        assert "systemctl --user disable --now expertc-cam.service" in calls(tools)
        assert not place.exists()


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ("echo 'Failed to connect to bus: No medium found' >&2; exit 1", "UnsupportedError", "No medium found"),
        ('case "$2" in show) ;; *) printf "\\033[31mno way\\n"; exit 4;; esac', "DeploymentError", "[31mno way"),
        (None, "UnsupportedError", "no systemd"),
    ],
)
def test_without_a_systemd_of_the_user_it_says_so(tmp_path: Path, script: str | None, kind: str, said: str) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    if script is not None:
        program(tools, "systemctl", script)
    with Talk(tmp_path, PATH=f"{tools}") as agent:
        failed = agent.try_to("service", name="cam")["failed"]
        assert (failed["kind"], said in failed["message"]) == (kind, True)
        assert failed["message"].isprintable()
    assert (tmp_path / ".config").exists() == (kind == "DeploymentError")
