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


def test_the_service_is_installed_and_restarted_only_if_it_changed(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    program(tools, "systemctl", 'case "$2" in is-active) echo active;; show) echo Version=252;; esac')
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
            "loginctl enable-linger", "systemctl --user is-active expertc-cam.service",
        ]  # fmt: skip
        agent.ask("service", name="cam", port=8080)
        assert "systemctl --user start --no-block expertc-cam.service" in calls(tools)
        agent.ask("service", name="cam", port=8081)
        assert "systemctl --user restart --no-block expertc-cam.service" in calls(tools)


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
