"""The systemd user unit that runs the service: what ``expertc serve NAME --unit`` prints and a deployment installs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from ..releases import require_name
from ..text import shown

START_SECONDS = 1800
"""Until it must be ready: an engine that has to be compiled first takes minutes."""

STOP_SECONDS = 45
"""Until it is killed: ``server.GRACE`` for the requests, and some to end."""


def unit_name(name: str) -> str:
    """The file name of the unit of the expert ``name``; ``UsageError`` for a bad name."""
    return f"expertc-{require_name(name)}.service"


def unit(name: str, arguments: Sequence[str] = (), program: Sequence[str] | None = None) -> str:
    """The text of the unit that serves the expert ``name`` with further ``arguments`` of ``expertc serve``.

    ``program`` starts expertc (default: the one of this environment, by its absolute path). Only what works without
    privileges restricts it: name spaces, as for ``ProtectSystem=``, are not to be had in every user's systemd. Sources
    are systemd.service(5), systemd.exec(5) and, for the quotes, systemd.syntax(7). Raises ``UsageError`` for a bad
    name, or an argument that no line can hold.
    """
    words = [*(program or here()), "serve", require_name(name), *arguments]
    return f"""\
[Unit]
Description=expertc serve {name}
StartLimitIntervalSec=300
StartLimitBurst=10

[Service]
Type=notify
ExecStart={" ".join(map(quoted, words))}
Restart=on-failure
RestartSec=2
TimeoutStartSec={START_SECONDS}
TimeoutStopSec={STOP_SECONDS}
UMask=0077
LimitCORE=0
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""


def here() -> list[str]:
    """The words that start this expertc from anywhere."""
    script = Path(sys.executable).with_name("expertc")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "expertc"]


def quoted(word: str) -> str:
    """A word of ``ExecStart=``: in quotes, without variables and specifiers. ``UsageError`` for a control character."""
    if not word.isprintable():
        raise UsageError(f"A unit cannot hold {shown(word)}.", "Leave out what cannot be printed.")
    plain = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{plain}"'
