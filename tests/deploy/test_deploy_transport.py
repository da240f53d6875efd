"""SSH against real OpenSSH servers: what goes wrong is a clear sentence, and what broke off goes on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hosts import Host, Network

from expertc.deploy.address import Address
from expertc.deploy.protocol import MAX_LINE
from expertc.deploy.transport import BLOCK, Device, Ssh, connected
from expertc.errors import DeploymentError, UsageError, VerificationError

HELLO = '{"expertc": null, "protocol": 1}'


@pytest.fixture(scope="module")
def host(machines: Network) -> Host:
    made = machines.host()
    made.start()
    return made


def ssh(machines: Network, **changes: Any) -> Ssh:
    return Ssh(None, machines.known_hosts, machines.identity, **{"patience": 5.0, **changes})


def on(machines: Network, host: Host, work: Callable[[Device], Any], login: str | None = None, **changes: Any) -> Any:
    async def go() -> Any:
        async with connected(Address.parse(login or host.login), ssh(machines, **changes)) as device:
            return await work(device)

    return asyncio.run(go())


async def nothing(device: Device) -> None:
    """To connect is all."""


def asks(request: dict[str, Any], *command: str) -> Callable[[Device], Any]:
    async def work(device: Device) -> Any:
        async with device.program(*command) as peer:
            return await peer.ask(request)

    return work


def script(text: str) -> tuple[str, ...]:
    return "sh", "-c", text


# -- connecting --------------------------------------------------------------------------------------------------------


def test_a_key_that_is_not_known(machines: Network) -> None:
    """The sentence names the fingerprint that ssh-keygen shows, and commands that work."""
    stranger = machines.host(known=False)
    stranger.start()
    before = machines.known_hosts.read_text()
    with pytest.raises(DeploymentError) as caught:
        on(machines, stranger, nothing)
    listing = subprocess.run(
        ["ssh-keygen", "-lf", stranger.folder / "host_key.pub"], capture_output=True, text=True, check=True
    )
    assert listing.stdout.split()[1] in caught.value.message
    assert f"ssh-keyscan {stranger.address} >> {machines.known_hosts}" in caught.value.hint
    assert machines.known_hosts.read_text() == before
    advice = caught.value.hint.rpartition("or '")[2].rstrip("'.")
    subprocess.run(["sh", "-c", advice], check=True, capture_output=True)
    on(machines, stranger, nothing)


def test_a_key_that_is_another_one(machines: Network) -> None:
    impostor = machines.host(known=False)
    impostor.start()
    machines.know(impostor, machines.identity.with_suffix(".pub").read_text())
    with pytest.raises(DeploymentError, match="is not the one in") as caught:
        on(machines, impostor, nothing)
    assert f"ssh-keygen -R {impostor.address}" in caught.value.hint


def test_a_configuration_that_is_not_strict_changes_nothing(machines: Network, tmp_path) -> None:
    """Host keys are verified always."""
    stranger = machines.host(known=False)
    stranger.start()
    config = tmp_path / "config"
    config.write_text("Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n")
    lax = Ssh(config, None, machines.identity, patience=5)

    async def go() -> None:
        async with connected(Address.parse(stranger.login), lax):
            """Never here."""

    with pytest.raises(DeploymentError, match="The key of"):
        asyncio.run(go())


def test_names_ports_and_jumps_of_the_configuration(machines: Network, host: Host, tmp_path) -> None:
    """A device that only another one reaches, under a name of ``~/.ssh/config``."""
    far = machines.host()
    far.start()
    config = tmp_path / "config"
    config.write_text(
        f"Host camera\n  HostName {far.address}\n  User root\n  ProxyJump {host.login}\n"
        f"Host *\n  IdentityFile {machines.identity}\n  UserKnownHostsFile {machines.known_hosts}\n"
    )

    async def go() -> Any:
        async with connected(Address.parse("camera"), Ssh(config, patience=5)) as device:
            found = device._connection.get_extra_info("peername")
            await device.put("x/y", b"here")
            return found

    asyncio.run(go())
    assert (far.home / "x/y").read_bytes() == b"here"
    assert "Accepted publickey" in (host.folder / "sshd.log").read_text()


def test_another_key_behind_a_name_of_the_configuration(machines: Network, tmp_path) -> None:
    """What is looked up is what the name stands for; and the place, what the configuration says."""
    impostor = machines.host(known=False)
    impostor.start()
    known = tmp_path / "known"
    key = machines.identity.with_suffix(".pub").read_text()
    known.write_text(f"{impostor.address} {key}")
    config = tmp_path / "config"
    config.write_text(f"Host camera\n  HostName {impostor.address}\n  UserKnownHostsFile {known}\n")
    with pytest.raises(DeploymentError, match=f"is not the one in {known}") as caught:
        asyncio.run(_with_config(config, machines))
    assert f"ssh-keygen -R {impostor.address} -f {known}" in caught.value.hint
    known.write_text("")
    with pytest.raises(DeploymentError, match=f"is not in {known}") as caught:
        asyncio.run(_with_config(config, machines))
    assert f"ssh-keyscan {impostor.address} >> {known}" in caught.value.hint


def test_an_unknown_host_on_the_way(machines: Network, host: Host, tmp_path) -> None:
    """The device is not blamed for it."""
    jump = machines.host(known=False)
    jump.start()
    config = tmp_path / "config"
    config.write_text(
        f"Host camera\n  HostName {host.address}\n  User root\n  ProxyJump root@{jump.address}\n"
        f"Host *\n  IdentityFile {machines.identity}\n  UserKnownHostsFile {machines.known_hosts}\n"
    )
    with pytest.raises(DeploymentError, match="on the way to camera is not trusted"):
        asyncio.run(_with_config(config, machines))


@pytest.mark.parametrize("line", [b"garbage\n", b"@bogus host ssh-ed25519 AAAA\n", b"|1|bad|hash\n", b"\xe9\n"])
def test_known_hosts_that_cannot_be_read(machines: Network, host: Host, tmp_path, line: bytes) -> None:
    """It is no bug of ours, and the place is named."""
    known = tmp_path / "known"
    known.write_bytes(machines.known_hosts.read_bytes() + line)

    async def go() -> None:
        async with connected(Address.parse(host.login), Ssh(None, known, machines.identity, patience=5)):
            """Never here."""

    with pytest.raises(UsageError, match=f"^{known}, where the key of {host.login} is looked up, cannot be read"):
        asyncio.run(go())


async def _with_config(config: Path, machines: Network) -> None:
    async with connected(Address.parse("camera"), Ssh(config, None, machines.identity, patience=5)):
        """Never here."""


def test_a_login_that_is_refused(machines: Network, host: Host, tmp_path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    with pytest.raises(DeploymentError, match="does not let us log in") as caught:
        asyncio.run(_with_key(machines, host, tmp_path / "other"))
    assert f"ssh-copy-id {host.login}" in caught.value.hint


async def _with_key(machines: Network, host: Host, key: Any) -> None:
    async with connected(Address.parse(host.login), Ssh(None, machines.known_hosts, key, patience=5)):
        """That it is let in is all."""


def test_an_agent_has_the_key(machines: Network, host: Host, tmp_path, monkeypatch) -> None:
    """A key with a passphrase: alone it cannot be used, in the agent it can."""
    key = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", key], check=True)
    with open(machines.folder / "authorized", "a") as file:
        file.write(key.with_suffix(".pub").read_text())
    with pytest.raises(UsageError, match="cannot be used") as caught:
        asyncio.run(_with_key(machines, host, key))
    assert "ssh-add" in caught.value.hint
    (tmp_path / "ask").write_text("#!/bin/sh\necho secret\n")
    (tmp_path / "ask").chmod(0o700)
    socket = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL) as agent:
        try:
            while not socket.exists():
                time.sleep(0.01)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
            asking = {"SSH_ASKPASS": str(tmp_path / "ask"), "SSH_ASKPASS_REQUIRE": "force"}
            subprocess.run(["ssh-add", "-q", key], env={**os.environ, **asking}, check=True)
            asyncio.run(_with_key(machines, host, None))
        finally:
            agent.terminate()


@pytest.mark.parametrize(
    ("login", "problem"),
    [
        ("root@no-such-host.invalid", "There is no host 'no-such-host.invalid'"),
        ("root@{address}:2222", "cannot be reached"),
    ],
)
def test_nobody_there(machines: Network, host: Host, login: str, problem: str) -> None:
    with pytest.raises(DeploymentError, match=problem):
        on(machines, host, nothing, login.format(address=host.address))


def test_one_that_does_not_answer(machines: Network, host: Host) -> None:
    """An address of the network that nobody has, and a server that stands still."""
    silent = machines.host()
    with pytest.raises(DeploymentError, match=r"does not answer|cannot be reached"):
        on(machines, host, nothing, f"root@{machines.subnet}.250", patience=1.0)
    program = "import socket, time; s = socket.create_server(('', 22)); print(flush=True); time.sleep(60)"
    with subprocess.Popen([*silent.within, sys.executable, "-c", program], stdout=subprocess.PIPE) as listener:
        try:
            assert listener.stdout is not None
            listener.stdout.readline()
            with pytest.raises(DeploymentError, match="does not answer"):
                on(machines, silent, nothing, patience=1.0)
        finally:
            listener.kill()


# -- programs ----------------------------------------------------------------------------------------------------------


def test_a_program_answers(machines: Network, host: Host) -> None:
    heard: list[tuple[str, float | None]] = []

    async def work(device: Device) -> Any:
        lines = "\n".join([HELLO, '{"said": "one\\u001b[31m", "share": 0.5}', '{"done": {"x": 1}}'])
        async with device.program(*script(f"cat <<'E'\n{lines}\nE\ncat")) as peer:
            return await peer.ask({"do": "this"}, lambda stage, share: heard.append((stage, share)))

    assert on(machines, host, work) == {"x": 1}
    assert heard == [("one[31m", 0.5)]


def test_what_fails_there_fails_here_as_the_same_error(machines: Network, host: Host) -> None:
    failed = '{"failed": {"kind": "VerificationError", "message": "No.", "hint": "Yes.", "exit_code": 5}}'
    with pytest.raises(VerificationError, match=r"No\.") as caught:
        on(machines, host, asks({"do": "x"}, *script(f"printf '%s\\n%s\\n' '{HELLO}' '{failed}'; cat")))
    assert caught.value.hint == "Yes."


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("echo Welcome to Ubuntu!; cat", "is not a message of expertc: 'Welcome to Ubuntu!'"),
        ("head -c 100 /dev/urandom; echo; cat", "What .* says is"),
        (f"head -c {3 * MAX_LINE} /dev/zero; cat", "longer than 1 MiB"),
        ("echo '[]'; cat", "is not a message"),
        ("echo '{}'; cat", "does not greet"),
        ('echo \'{"expertc": "9", "protocol": 2}\'; cat', "speaks protocol 2"),
        (f"echo '{HELLO}'; echo garbage; cat", "is not a message"),
        ("exit 3", "ended: exit status 3"),
        (f"echo '{HELLO}'; echo 'No module named expertc' >&2; exit 1", "ended: No module named expertc"),
        ("exec no-such-python", "has no such program"),
    ],
)
def test_programs_that_answer_garbage(machines: Network, host: Host, text: str, problem: str) -> None:
    with pytest.raises(DeploymentError, match=problem) as caught:
        on(machines, host, asks({"do": "x"}, *script(text)))
    assert "\x00" not in caught.value.message
    assert len(caught.value.message) < 700
    assert caught.value.hint


def test_one_that_says_nothing(machines: Network, host: Host) -> None:
    with pytest.raises(DeploymentError, match="has said nothing for 1 s"):
        on(machines, host, asks({"do": "x"}, *script(f"echo '{HELLO}'; sleep 60")), silence=1.0)


def test_a_connection_that_breaks_off(machines: Network) -> None:
    """While a program works: the sentence says so, and that deploying again goes on."""
    device = machines.host()
    device.start()
    threading.Timer(0.7, device.stop).start()
    with pytest.raises(DeploymentError, match="broke off") as caught:
        on(machines, device, asks({"do": "x"}, *script(f"echo '{HELLO}'; sleep 60")))
    assert "goes on" in caught.value.hint


def test_no_words_of_ours_reach_a_shell(machines: Network, host: Host) -> None:
    """What is run is what is meant, whatever is in it."""
    odd = "$(touch hacked)`touch hacked`; touch hacked\n'\""
    done = '{"done": {}}'
    on(machines, host, asks({"do": odd}, "sh", "-c", f"echo '{HELLO}'; echo '{done}'; cat > got", odd))
    assert not (host.home / "hacked").exists()


# -- files -------------------------------------------------------------------------------------------------------------


def test_files_go_on_where_they_broke_off(machines: Network, host: Host, tmp_path) -> None:
    content = bytes(range(256)) * (3 * BLOCK // 256) + b"end"
    (tmp_path / "whole").write_bytes(content)
    sent: list[int] = []

    async def work(device: Device) -> None:
        await device.upload("a/b", {"whole": tmp_path / "whole"}, {"whole": 0}, sent.append)

    on(machines, host, work)
    place = host.home / "a/b/whole.part"
    assert place.read_bytes() == content
    assert sum(sent) == len(content)
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.parent.stat().st_mode & 0o777 == 0o700
    place.write_bytes(content[:1000])
    sent.clear()

    async def again(device: Device) -> None:
        await device.upload("a/b", {"whole": tmp_path / "whole"}, {"whole": 1000}, sent.append)

    on(machines, host, again)
    assert place.read_bytes() == content
    assert sum(sent) == len(content) - 1000


def test_a_full_disk(machines: Network, tmp_path) -> None:
    small = machines.host()
    small.start(tmpfs="256k")
    (tmp_path / "large").write_bytes(bytes(2**20))

    async def work(device: Device) -> None:
        await device.upload("a", {"large": tmp_path / "large"}, {"large": 0}, lambda size: None)

    with pytest.raises(DeploymentError, match="refuses, writing to ~/a") as caught:
        on(machines, small, work)
    assert "disk full" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["", "@", "user@", "-oProxyCommand=x", "user@-x", "a b", "host\n", "host:0", "host:65536", "host:x", "u:p@host",
     "$(x)@host", "user@ho/st", "user@[::1", "user@[zz]:1", "[::1]:0", "ü@host", "a" * 300],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="is not the address"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "user", "host", "port"),
    [
        ("cam1", None, "cam1", None),
        ("jetson@10.0.0.5", "jetson", "10.0.0.5", None),
        ("jetson@cam.local:2222", "jetson", "cam.local", 2222),
        ("a@[2001:db8::1]:22", "a", "2001:db8::1", 22),
        ("[fe80::1%eth0]", None, "fe80::1%eth0", None),
    ],
)
def test_addresses(text: str, user: str | None, host: str, port: int | None) -> None:
    found = Address.parse(text)
    assert (found.user, found.host, found.port, found.given) == (user, host, port, text)
