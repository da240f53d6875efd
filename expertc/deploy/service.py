"""The service of an expert on this device: a unit of the user's systemd, installed and started."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import atomic
from ..errors import DeploymentError, UnsupportedError, UsageError
from ..serve.unit import unit, unit_name
from ..text import clean_text, shown
from .address import can_listen

UNITS = Path("~/.config/systemd/user")
PATIENCE = 60.0  # seconds that systemctl may take; it waits for the service to be ready

SETTLE = 10.0
"""Seconds to see whether it starts: what cannot listen ends at once, and an engine that is compiled takes minutes."""

_STEP = 0.25  # seconds between looks


def serve(name: str, host: str, port: int) -> dict[str, Any]:
    """Install, enable and start the unit that serves ``name`` on ``host`` and ``port``, also when nobody is logged in.

    Returns the state it is in, "active" or what it is on the way to that. Raises ``UsageError``, ``UnsupportedError``
    where there is no systemd for this user, ``DeploymentError`` if it does not start, ``FileSystemError``.
    """
    if not can_listen(host) or not 0 < port < 2**16:
        raise UsageError(f"{shown(host)}, port {port}, is no address to serve on.", "Take such as 127.0.0.1 and 8000.")
    text, place = unit(name, ["--host", host, "--port", str(port)]), UNITS.expanduser() / unit_name(name)
    _require_systemd()
    with atomic.reported(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    changed = not place.is_file() or place.read_bytes() != text.encode("utf-8")
    atomic.save(place, text.encode("utf-8"), force=True)
    _systemctl("daemon-reload")
    _systemctl("enable", place.name)
    # It follows the active release by itself: only another unit must interrupt it. An engine may take minutes to start.
    _systemctl("restart" if changed else "start", "--no-block", place.name)
    return {"unit": str(place), "lingers": _lingers(), "state": _settled(place.name)}


def forget(name: str) -> bool:
    """Stop the service of ``name`` and remove its unit; whether there was one. Raises ``DeploymentError``."""
    place = UNITS.expanduser() / unit_name(name)
    if not place.is_file():
        return False
    _require_systemd()
    _systemctl("disable", "--now", place.name)
    with atomic.reported(place):
        place.unlink(missing_ok=True)
    _systemctl("daemon-reload")
    _run(["systemctl", "--user", "reset-failed", place.name])  # what has failed is listed until somebody has seen it
    return True


def _settled(unit: str) -> str:
    """What became of a start that systemd was asked for, or how far it is. Raises ``DeploymentError`` if it failed."""
    end = time.monotonic() + SETTLE
    while True:
        state = _properties(unit, "ActiveState", "SubState", "Job", "Result")
        active, waits = state.get("ActiveState", ""), state.get("Job", "0") not in ("", "0")
        if active == "failed" or state.get("SubState") == "auto-restart":
            raise DeploymentError(
                f"The service does not start ({clean_text(state.get('Result', '')) or 'systemd does not say why'}).",
                f"Is its port taken? See on the device: journalctl --user --unit {unit}",
            )
        if (active == "active" and not waits) or time.monotonic() > end:
            return active
        time.sleep(_STEP)


def _properties(unit: str, *names: str) -> dict[str, str]:
    done = _done(["systemctl", "--user", "show", *(f"--property={name}" for name in names), unit])
    return dict(line.split("=", 1) for line in done[1].splitlines() if "=" in line)


def _require_systemd() -> None:
    hint = "Log in once as this user, or let an administrator run: loginctl enable-linger USER"
    if shutil.which("systemctl") is None:
        raise UnsupportedError("The device has no systemd.", "Start 'expertc serve' there by other means.")
    os.environ.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    status, said = _run(["systemctl", "--user", "show", "--property=Version"])
    if status != 0:
        raise UnsupportedError(f"systemd does not run for this user of the device ({said or 'no answer'}).", hint)


def _lingers() -> bool:
    """Let the user's services run while nobody is logged in; False if that is not granted."""
    return shutil.which("loginctl") is not None and _run(["loginctl", "enable-linger"])[0] == 0


def _systemctl(*words: str) -> None:
    status, said = _run(["systemctl", "--user", *words])
    if status != 0:
        raise DeploymentError(
            f"systemctl --user {words[0]} failed on the device: {said or f'status {status}'}.",
            f"See there: journalctl --user --unit {words[-1]}",
        )


def _run(command: Sequence[str]) -> tuple[int, str]:
    """The exit status of a program, and the last line that it says."""
    status, said = _done(command)
    return status, clean_text(said.strip().rpartition("\n")[2])[:300]


def _done(command: Sequence[str]) -> tuple[int, str]:
    """The exit status of a program, and what it says."""
    try:
        done = subprocess.run(  # noqa: S603 (an argument list; names in it were checked)
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 1, f"no answer in {PATIENCE:g} s"
    return done.returncode, done.stdout.decode("utf-8", "replace")
