"""SSH to one device: programs that speak messages, and files that go on where they broke off.

Keys, agents, jump hosts, ports and names are OpenSSH's own (``~/.ssh/config``). The key of a host is always verified:
what ``known_hosts`` does not hold is refused, whatever the configuration says of strictness.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from ..errors import DeploymentError
from ..text import clean_text, shortened
from .address import Address
from .protocol import MAX_LINE, error_from, read, require_hello, said_from, write
from .trouble import Offered, broken, reported

BLOCK = 2**20  # bytes of a file per write, which is waited for: smaller ones stand still more, larger ones show less
PATIENCE = 15.0  # seconds to connect and to log in
SILENCE = 900.0  # seconds that a program may say nothing: TensorRT's builder is quiet for minutes
KEEPALIVE, MISSED = 10, 3  # seconds between signs of life, and how many may be missing
_COMPLAINT = 300  # characters of what a program that died had to say
_LAST_WORDS = 5.0  # seconds to wait for them
_NO_PROGRAM = 127  # of POSIX shells: command not found

Told = Callable[[str, "float | None"], None]
"""Hears what a device is doing, and what share of it is done if that is known."""

Sent = Callable[[int], None]
"""Hears how many bytes went."""


@dataclass(frozen=True)
class Ssh:
    """How to connect; by default as OpenSSH's configuration says."""

    config: Path | None = None
    known_hosts: Path | None = None
    identity: Path | None = None
    patience: float = PATIENCE
    silence: float = SILENCE


class Device:
    """A connection to a device; made by ``connected``."""

    def __init__(self, address: Address, connection: asyncssh.SSHClientConnection, silence: float) -> None:
        self.address = address
        self._connection, self._silence = connection, silence

    @asynccontextmanager
    async def program(self, *command: str, absent: DeploymentError | None = None) -> AsyncIterator[Peer]:
        """Start a program that speaks messages; it ends with the block. Raises ``DeploymentError``, ``absent`` if there
        is no such program."""
        with reported(self.address):
            process: asyncssh.SSHClientProcess[bytes] = await self._connection.create_process(
                shlex.join(command), encoding=None, stderr=asyncssh.PIPE
            )
            peer = Peer(self.address, process, self._silence, absent)
        try:
            await peer.greet()
            yield peer
        finally:
            process.close()

    async def upload(self, folder: str, files: Mapping[str, Path | bytes], at: Mapping[str, int], sent: Sent) -> None:
        """Write files to ``folder``, each from the byte that ``at`` says, under its name and ``.part``.

        ``folder`` is under the home directory of the device, and made private. Raises ``DeploymentError``.
        """
        with reported(self.address, f"writing to ~/{folder}"):
            async with self._connection.start_sftp_client() as sftp:
                await _make(sftp, folder)
                for name, start in at.items():
                    await _put(sftp, f"{folder}/{name}.part", files[name], start, sent)

    async def put(self, path: str, content: bytes) -> None:
        """Write a small file under the home directory, whole or not at all, if it is not there in that size."""
        with reported(self.address, f"writing to ~/{path}"):
            async with self._connection.start_sftp_client() as sftp:
                with suppress(asyncssh.SFTPNoSuchFile):
                    if (await sftp.stat(path)).size == len(content):
                        return
                await _make(sftp, path.rpartition("/")[0])
                await _put(sftp, f"{path}.part", content, 0, lambda _: None)
                await sftp.posix_rename(f"{path}.part", path)


class Peer:
    """A program on a device that answers requests, one at a time."""

    def __init__(
        self,
        address: Address,
        process: asyncssh.SSHClientProcess[bytes],
        silence: float,
        absent: DeploymentError | None = None,
    ) -> None:
        self._address, self._process, self._silence, self._absent = address, process, silence, absent

    async def greet(self) -> None:
        """Read the greeting. Raises ``DeploymentError`` if this is no program of ours, or of another release."""
        require_hello(await self._heard())

    async def ask(self, request: Mapping[str, Any], told: Told = lambda what, share: None) -> dict[str, Any]:
        """The answer to a request. Raises what the device says has failed, and ``DeploymentError``."""
        with reported(self._address):
            with suppress(OSError):  # it may have ended: what it says last tells why
                self._process.stdin.write(write(request))
                await self._process.stdin.drain()
            while True:
                heard = await self._heard()
                if isinstance(heard.get("done"), dict):
                    return dict(heard["done"])
                if "failed" in heard:
                    raise error_from(heard["failed"])
                told(*said_from(heard))

    async def _heard(self) -> dict[str, Any]:
        with reported(self._address):
            try:
                text = await asyncio.wait_for(self._process.stdout.readline(), self._silence)
            except asyncio.TimeoutError as error:
                raise DeploymentError(
                    f"{self._address.given} has said nothing for {self._silence:.0f} s.", "Look at the device."
                ) from error
            if not text.endswith(b"\n") and len(text) <= MAX_LINE:
                raise await self._gone(text)
            return read(text, DeploymentError, self._address.given)

    async def _gone(self, rest: bytes) -> DeploymentError:
        """Why there is no more to read."""
        complaint = b""
        with suppress(asyncio.TimeoutError, asyncssh.Error):
            complaint = await asyncio.wait_for(self._process.stderr.read(MAX_LINE), _LAST_WORDS)
            await asyncio.wait_for(self._process.wait_closed(), _LAST_WORDS)
        status = self._process.exit_status
        if status is None and self._process.exit_signal is None:
            return broken(self._address)
        last = (complaint or rest).decode("utf-8", "replace").strip().rpartition("\n")[2]
        why = shortened(clean_text(last), _COMPLAINT).rstrip(".") or f"exit status {status}"
        where = self._address.given
        if status == _NO_PROGRAM and self._absent is not None:
            return self._absent
        if status == _NO_PROGRAM:
            hint = "Install python3 there, or name it: --python; what else is missing, a deployment brings."
            return DeploymentError(f"{where} has no such program: {why}.", hint)
        return DeploymentError(f"The program on {where} ended: {why}.", "Look at the device.")


@asynccontextmanager
async def connected(address: Address, ssh: Ssh) -> AsyncIterator[Device]:
    """Connect to a device and log in. Raises ``DeploymentError`` with what to do about it."""
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)  # what goes wrong is said once, by us
    options: dict[str, Any] = {
        key: str(value)
        for key, value in (("known_hosts", ssh.known_hosts), ("client_keys", ssh.identity))
        if value is not None
    }
    options |= {key: value for key, value in (("username", address.user), ("port", address.port)) if value is not None}
    if ssh.config is not None:
        options["config"] = [str(ssh.config)]
    offered = Offered()
    with reported(address, "", offered):
        places = asyncssh.SSHClientConnectionOptions(host=address.host, **options).known_hosts
        first = next(iter(places), None) if isinstance(places, list) else places
        if isinstance(first, str):  # else OpenSSH's own
            offered.place = Path(first)
        connection = await asyncssh.connect(
            address.host, connect_timeout=ssh.patience, login_timeout=ssh.patience,
            keepalive_interval=KEEPALIVE, keepalive_count_max=MISSED, client_factory=lambda: offered, **options,
        )  # fmt: skip
    try:
        yield Device(address, connection, ssh.silence)
    finally:
        connection.close()
        with suppress(asyncssh.Error, OSError, TimeoutError):
            await asyncio.wait_for(connection.wait_closed(), 5)


async def _make(sftp: asyncssh.SFTPClient, folder: str) -> None:
    """A folder under the home directory, which nobody else can look into."""
    parts = folder.split("/")
    for depth in range(1, len(parts) + 1):
        path = "/".join(parts[:depth])
        if not await sftp.isdir(path):
            with suppress(asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):  # another deployment was quicker
                await sftp.mkdir(path, asyncssh.SFTPAttrs(permissions=0o700))
            if not await sftp.isdir(path):
                await sftp.mkdir(path)  # once more, to hear why


async def _put(sftp: asyncssh.SFTPClient, path: str, content: Path | bytes, start: int, sent: Sent) -> None:
    """Write ``content`` to ``path`` from the byte ``start`` on."""
    flags = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | (0 if start else asyncssh.FXF_TRUNC)
    private = asyncssh.SFTPAttrs(permissions=0o600)
    async with sftp.open(path, flags, private, encoding=None) as remote:
        at = start
        for block in _blocks(content, start):
            await remote.write(block, at)
            at += len(block)
            sent(len(block))


def _blocks(content: Path | bytes, start: int) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content[start:]
        return
    with open(content, "rb") as file:
        file.seek(start)
        while block := file.read(BLOCK):
            yield block
