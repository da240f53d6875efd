"""One device: its whole road, from the first connection to the release that is active there."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bundle import GOLDEN, MANIFEST, REPORT, Bundle
from ..errors import DeploymentError, ExpertcError
from ..releases import KEEP, release_id, require_name
from .address import Address
from .protocol import bootstrap_file, sentence
from .transport import Device, Peer, Sent, Ssh, Told, connected
from .wheel import Wheels, facts_of

HOME = ".local/share/expertc"
"""All that is ours on a device, under the home directory of the login."""

RUNNING = "active"
"""What systemd says of a service that answers."""

ACTIVE, UNCHANGED, REFUSED, FAILED, NOT_TRIED = "active", "unchanged", "refused", "failed", "not tried"
"""How it ends: the release became the active one, was it already, did not pass its checks, or something broke."""

Counted = Callable[[str, int], Sent]
"""Is told what will be sent, and how many bytes that is; returns what hears of them as they go."""

TRIES = 2
"""How often a file is sent that arrives damaged."""


@dataclass(frozen=True)
class Limits:
    """What a release must keep to on its device, and how that is measured."""

    max_p90_ms: float | None = None
    seconds: float = 3.0
    threads: int | None = None
    verify: bool = True


@dataclass(frozen=True)
class Service:
    """The service that a device runs the expert as."""

    host: str = "127.0.0.1"
    port: int = 8000


@dataclass(frozen=True, eq=False)
class Job:
    """What one device gets: a bundle, under a name, with the Python that runs it."""

    address: Address
    name: str
    bundle: Bundle
    wheels: Wheels
    limits: Limits = field(default_factory=Limits)
    python: str = "python3"
    keep: int = KEEP
    service: Service | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        require_name(self.name)

    @property
    def files(self) -> dict[str, Path]:
        """The files of the bundle that travel."""
        names = [MANIFEST, *self.bundle.manifest["files"]]
        names += [name for name in (REPORT, GOLDEN) if (self.bundle.path / name).is_file()]
        return {name: self.bundle.path / name for name in names}

    @property
    def release(self) -> str:
        """The ID of the release that the bundle becomes."""
        return release_id(self.files[MANIFEST].read_bytes())


@dataclass(frozen=True)
class Outcome:
    """How a deployment to one device ended. ``why`` and ``hint`` are sentences, "" if all is well; ``report`` is what
    the device measured."""

    job: Job
    state: str
    why: str = ""
    hint: str = ""
    sent: int = 0
    seconds: float = 0.0
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether the device runs what it was to run."""
        return self.state in (ACTIVE, UNCHANGED)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        job = self.job
        return {
            "host": job.address.given,
            **({} if job.group is None else {"group": job.group}),
            "name": job.name,
            "release": job.release,
            "state": self.state,
            **({"why": self.why, "hint": self.hint} if self.why else {}),
            "sent_bytes": self.sent,
            "seconds": round(self.seconds, 3),
            **({"report": dict(self.report)} if self.report else {}),
        }


async def deploy(job: Job, ssh: Ssh, told: Told) -> Outcome:
    """Bring ``job`` to its device. What fails there is an outcome; only a bug of this program is raised."""
    start, road = time.monotonic(), Road(job, told)
    try:
        state, why, hint = await road.go(ssh)
    except ExpertcError as error:
        state, why, hint = FAILED, error.message, error.hint
        if road.active:
            why = f"The release is active, but: {why}"
    return Outcome(job, state, why, hint, road.sent, time.monotonic() - start, road.report)


@asynccontextmanager
async def agent(device: Device, wheels: Wheels, python: str, told: Told, counted: Counted) -> AsyncIterator[Peer]:
    """The agent on a device, installed first if it is not there yet."""
    name, script = bootstrap_file()
    path = f"{HOME}/{name}"
    environment, listed = wheels.environment, {name: list(facts) for name, facts in wheels.facts.items()}
    told("connect", None)
    await device.put(path, script)
    async with device.program(python, path) as bootstrap:
        facts = await bootstrap.ask({"do": "facts", "env": environment, "wheels": listed})
        if facts.get("ready") is not True:
            offsets = _offsets(facts.get("missing"), wheels.facts)
            sent = counted("send wheels", _left(offsets, wheels.facts))
            await device.upload(f"{HOME}/wheels/{environment}", wheels.files, offsets, sent)
            request = {"do": "install", "env": environment, "wheels": listed, "offline": wheels.offline}
            await bootstrap.ask({**request, "extras": list(wheels.extras)}, told)
    async with device.program(f"{HOME}/envs/{environment}/bin/python", "-I", "-m", "expertc.deploy.agent") as peer:
        yield peer


class Road:
    """The stages of one deployment; ``sent`` counts bytes, ``report`` is what the device said of the release, and
    ``active`` whether that is active now."""

    def __init__(self, job: Job, told: Told) -> None:
        self.job, self.told = job, told
        self.sent, self.report = 0, dict[str, Any]()
        self.active = False
        self._base = {"name": job.name, "id": job.release}

    async def go(self, ssh: Ssh) -> tuple[str, str, str]:
        """State, reason and hint."""
        job = self.job
        self.told("connect", None)
        async with (
            connected(job.address, ssh) as device,
            agent(device, job.wheels, job.python, self.told, self._counted) as peer,
        ):
            active = _active(await peer.ask({"do": "list", "name": job.name}))
            if active.get("id") == job.release and active.get("accepted") is True and await self._is_whole(peer):
                self.active = True
                await self._serve(peer)
                return self._still(active)
            await self._bring(device, peer)
            asked = {"max_p90_ms": job.limits.max_p90_ms, "seconds": job.limits.seconds}
            asked |= {"threads": job.limits.threads, "verify": job.limits.verify}
            self.report = await peer.ask({"do": "accept", **self._base, **asked}, self.told)
            if self.report.get("accepted") is not True:
                why = sentence(self.report.get("why")) or "The device does not say why."
                return REFUSED, why, "What was active before still is." if active else "Nothing is active there."
            self.told("activate", None)
            await peer.ask({"do": "activate", **self._base})
            self.active = True
            await self._serve(peer)
            await peer.ask({"do": "gc", "name": job.name, "keep": job.keep})
        return ACTIVE, "", ""

    async def _is_whole(self, peer: Peer) -> bool:
        """Whether the device finds nothing wrong with the release."""
        facts = {name: facts_of(path) for name, path in self.job.files.items()}
        return (await peer.ask({"do": "receive", **self._base, "files": facts}, self.told)).get("present") is True

    def _still(self, active: Mapping[str, Any]) -> tuple[str, str, str]:
        """How it ends for what is active already: it was measured when it came, maybe against another limit."""
        bench, most = active.get("bench"), self.job.limits.max_p90_ms
        took = bench.get("p90_ms") if isinstance(bench, dict) else None
        if most is None or not isinstance(took, float) or took <= most:
            return UNCHANGED, "", ""
        why = f"It took {took:.2f} ms (p90) when it was deployed, more than {most:g} ms, and is active since."
        back = f"expertc releases rollback {self.job.name} --host {self.job.address.given}"
        return REFUSED, why, f"Go back ('{back}'), or allow it more."

    async def _bring(self, device: Device, peer: Peer) -> None:
        """Send what the device has not, and have it put together."""
        files = self.job.files
        facts = {name: facts_of(path) for name, path in files.items()}
        for _ in range(TRIES):
            answer = await peer.ask({"do": "receive", **self._base, "files": facts}, self.told)
            if answer.get("present") is True:
                return
            offsets = _offsets(answer.get("send"), facts)
            sent = self._counted("send", _left(offsets, facts))
            await device.upload(f"{HOME}/incoming/{self.job.release}", files, offsets, sent)
            self.told("install", None)
            answer = await peer.ask({"do": "commit", **self._base, "files": facts}, self.told)
            if not answer.get("damaged"):
                return
        raise DeploymentError(
            f"What {self.job.address.given} receives is not what is sent.", "Check its disk and the connection."
        )

    async def _serve(self, peer: Peer) -> None:
        service = self.job.service
        if service is not None:
            self.told("service", None)
            place = {"host": service.host, "port": service.port}
            said = await peer.ask({"do": "service", "name": self.job.name, **place}, self.told)
            state, lingers = sentence(said.get("state")) or "starting", said.get("lingers") is True
            before = self.report.get("notes")
            notes = list(before) if isinstance(before, list) else []
            if state != RUNNING:
                notes.append(f"The service is still {state}: an engine that is compiled takes minutes.")
            if not lingers:
                notes.append("The service ends when its user logs out: 'sudo loginctl enable-linger' there.")
            about = {"state": state, "lingers": lingers, **place}
            self.report = {**self.report, "service": about, "notes": notes}

    def _counted(self, stage: str, total: int) -> Sent:
        """What counts the bytes that go now, ``total`` in all."""
        self.told(stage, 0.0)
        before = self.sent

        def sent(size: int) -> None:
            self.sent += size
            self.told(stage, (self.sent - before) / total)

        return sent


def _offsets(told: object, facts: Mapping[str, Any]) -> dict[str, int]:
    """Where to go on in the files that a device wants, which is not trusted to ask for others."""
    asked = told if isinstance(told, dict) else {}
    return {
        name: at
        for name, at in asked.items()
        if name in facts and type(at) is int and 0 <= at <= facts[name][0]
    }  # fmt: skip


def _left(offsets: Mapping[str, int], facts: Mapping[str, tuple[int, str]]) -> int:
    """Bytes that are still to be sent; at least 1."""
    return max(1, sum(facts[name][0] - at for name, at in offsets.items()))


def _active(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the device says of its active release, {} if it has none."""
    listed = found.get("releases")
    every = [each for each in (listed if isinstance(listed, list) else ()) if isinstance(each, dict)]
    return next((each for each in every if each.get("active") is True), {})
