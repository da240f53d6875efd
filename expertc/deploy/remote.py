"""The releases of a device, looked at and switched from here: what ``expertc releases`` does there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DeploymentError
from ..releases import ACCEPTED, KEEP, Release
from .address import Address
from .host import HOME
from .transport import Ssh, connected

AGENT = (f"{HOME}/envs/current/bin/python", "-I", "-m", "expertc.deploy.agent")
"""The agent of the expertc that brought the release which was activated last."""

_SHOWN = (ACCEPTED, "installed", "bench")  # of what a record holds


class RemoteStore:
    """The releases of one device, by the names that ``releases.Store`` has for it.

    Each call connects anew, and raises what the device says has failed, and ``DeploymentError``.
    """

    def __init__(self, address: Address, ssh: Ssh) -> None:
        self.address, self.ssh = address, ssh

    def every(self, name: str | None) -> tuple[Release, ...]:
        """Of one expert, or of all."""
        return self._releases({"do": "list", "name": name})

    def activate(self, name: str, release: str) -> Release:
        """Make a release the active one."""
        return self._release({"do": "activate", "name": name, "id": release})

    def rollback(self, name: str) -> Release:
        """Activate what was active before."""
        return self._release({"do": "rollback", "name": name})

    def remove(self, name: str, release: str | None = None) -> tuple[Release, ...]:
        """Remove a release that is not active, or the whole expert."""
        return self._releases({"do": "remove", "name": name, "id": release})

    def gc(self, name: str, keep: int = KEEP) -> tuple[Release, ...]:
        """Remove what is neither active nor among the last ``keep``."""
        return self._releases({"do": "gc", "name": name, "keep": keep})

    def facts(self) -> dict[str, Any]:
        """What ``expertc doctor`` knows there."""
        return self._ask({"do": "facts"})

    def _release(self, request: Mapping[str, Any]) -> Release:
        return _read(self._ask(request).get("release"))

    def _releases(self, request: Mapping[str, Any]) -> tuple[Release, ...]:
        found = self._ask(request).get("releases")
        return tuple(map(_read, found if isinstance(found, list) else ()))

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        place = self.address.given
        absent = DeploymentError(
            f"Nothing was deployed to {place} yet.", f"Bring an expert there: expertc deploy BUNDLE {place}"
        )

        async def go() -> dict[str, Any]:
            async with connected(self.address, self.ssh) as device, device.program(*AGENT, absent=absent) as agent:
                return await agent.ask(request)

        return asyncio.run(go())


def _read(told: Any) -> Release:
    """A release as a device describes it. ``DeploymentError`` if that makes no sense."""
    about = told if isinstance(told, dict) else {}
    texts = [about.get(key) for key in ("name", "id", "path")]
    if not all(isinstance(text, str) for text in texts):
        raise DeploymentError("The device describes its releases oddly.", "Use the same expertc on both sides.")
    name, release, path = map(str, texts)
    facts = {key: about[key] for key in _SHOWN if key in about}
    return Release(name, release, Path(path), about.get("active") is True, facts)
