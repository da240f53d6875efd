"""Devices to deploy to: real OpenSSH servers, each in a network namespace with an address and a home of its own."""

from __future__ import annotations

import base64
import csv
import io
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import metadata
from pathlib import Path

TOOLS = {"sshd": "openssh-server", "ip": "iproute2", "unshare": "util-linux", "ssh-keygen": "openssh-client"}
SYSTEMD = "/lib/systemd/systemd"
SHIMS = (
    "numpy",
    "onnx",
    "onnxruntime",
    "click",
    "rich",
    "pillow",
    "pyyaml",
    "tomli",
    "uvicorn",
    "starlette",
    "anyio",
    "prometheus-client",
    "orjson",
)


def why_not() -> str:
    """Why there can be no such devices here; "" if there can."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool, path=path) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True)
    return "" if probe.returncode == 0 else "this machine allows no namespaces"


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@dataclass(eq=False)
class Host:
    """One device. ``home`` is that of its login, seen from here."""

    net: Network
    name: str
    address: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    binds: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def data(self) -> Path:
        return self.home / ".local/share/expertc"

    @property
    def within(self) -> tuple[str, ...]:
        """What runs a program in its network; ``ip netns exec`` would hide /sys, where systemd looks for its groups."""
        return "nsenter", f"--net=/run/netns/{self.name}"

    @property
    def login(self) -> str:
        return f"root@{self.address}"

    def start(self, *, tmpfs: str = "", path: Mapping[str, str] | None = None, systemd: bool = False) -> None:
        """Run its sshd. ``tmpfs``: its home is that large; ``path``: scripts that stand in for programs there;
        ``systemd``: the user's runs there."""
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        for program, text in {"python3": f'#!/bin/sh\nexec {BASE_PYTHON} "$@"\n', **(path or {})}.items():
            (programs / program).write_text(text)
            (programs / program).chmod(0o755)
        config = self.folder / "sshd_config"
        config.write_text(
            f"ListenAddress {self.address}:22\nHostKey {self.folder}/host_key\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.net.folder}/authorized\nStrictModes no\nPermitRootLogin prohibit-password\n"
            f"Subsystem sftp internal-sftp\nSetEnv PATH={programs}:/usr/bin:/bin\nMaxStartups 100\n"
        )
        passwd = self.folder / "passwd"
        passwd.write_text(f"root:x:0:0::{self.net.home}:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n")
        inside = f"mount -t tmpfs -o size={tmpfs} none {self.home} && " if tmpfs else ""
        inside += f"mount --bind {self.home} {self.net.home} && mount --bind {passwd} /etc/passwd && "
        if systemd:
            inside += "mount -t tmpfs none /run && mkdir -p /run/systemd/system && mkdir -p -m 700 /run/user/0 && "
            inside += f"(HOME={self.net.home} XDG_RUNTIME_DIR=/run/user/0 {SYSTEMD} --user >/dev/null 2>&1 &) && "
        inside += f"mkdir -p /run/sshd && exec {shutil.which('sshd', path='/usr/sbin:/sbin')} -D -e -f {config}"
        with open(self.folder / "sshd.log", "ab") as log:
            self.process = subprocess.Popen(
                [*self.within, "unshare", "--mount", "--propagation", "private", "sh", "-c", inside],
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 20
        while b"listening" not in (self.folder / "sshd.log").read_bytes():
            alive = self.process.poll() is None and time.monotonic() < deadline
            assert alive, (self.folder / "sshd.log").read_text()
            time.sleep(0.02)

    def has_systemd(self) -> bool:
        """Whether its user's systemd answers, which needs control groups that it may write to."""
        assert self.process is not None
        inside = ["nsenter", f"--target={self.process.pid}", "--mount", "test", "-S", "/run/user/0/systemd/private"]
        deadline = time.monotonic() + 20
        while subprocess.run(inside, check=False).returncode:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def stop(self) -> None:
        """End its sshd, and every connection with it."""
        if self.process is not None:
            for pid in run("ip", "netns", "pids", self.name).split():
                kill(int(pid))
            self.process.wait()
            self.process = None

    def cut_off(self) -> None:
        """End every connection, and leave the server running."""
        assert self.process is not None
        for pid in run("ip", "netns", "pids", self.name).split():
            if int(pid) != self.process.pid:
                kill(int(pid))


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it was quicker
        os.kill(pid, signal.SIGKILL)


@dataclass
class Network:
    """Devices on a bridge of their own; this machine is on it too."""

    folder: Path
    bridge: str
    subnet: str
    hosts: list[Host] = field(default_factory=list)

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def home(self) -> Path:
        """Where every device has its own: the same path, as it would be on devices that are set up alike."""
        return self.folder / "home"

    @property
    def identity(self) -> Path:
        return self.folder / "key"

    @property
    def options(self) -> tuple[str, ...]:
        """For the command line."""
        return "--known-hosts", str(self.known_hosts), "--identity", str(self.identity)

    def host(self, *, known: bool = True, delay: str = "") -> Host:
        """A new device; ``known``: its key is in known_hosts. ``delay`` and more for its network: netem's words."""
        number = len(self.hosts) + 2
        host = Host(self, f"{self.bridge}h{number}", f"{self.subnet}.{number}", self.folder / f"host{number}")
        host.home.mkdir(parents=True)
        self.hosts.append(host)
        outside, inside = f"{self.bridge}o{number}", f"{self.bridge}i{number}"
        run("ip", "netns", "add", host.name)
        run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside)
        run("ip", "link", "set", outside, "master", self.bridge, "up")
        run("ip", "link", "set", inside, "netns", host.name)
        run(*host.within, "ip", "addr", "add", f"{host.address}/24", "dev", inside)
        run(*host.within, "ip", "link", "set", inside, "up")
        run(*host.within, "ip", "link", "set", "lo", "up")
        if delay:
            run(*host.within, "tc", "qdisc", "add", "dev", inside, "root", *delay.split())
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host.folder / "host_key")
        if known:
            self.know(host, (host.folder / "host_key.pub").read_text())
        return host

    def know(self, host: Host, key: str) -> None:
        with open(self.known_hosts, "a") as file:
            file.write(f"{host.address} {' '.join(key.split()[:2])}\n")


BASE_PYTHON = os.path.realpath(sys.executable)


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A bridge with an address in a subnet that nobody else here has."""
    tag = secrets.token_hex(2)
    made = Network(folder, f"x{tag}", f"10.{secrets.randbelow(256)}.{secrets.randbelow(256)}")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", made.identity)
    shutil.copy(made.identity.with_suffix(".pub"), folder / "authorized")
    made.known_hosts.touch()
    made.home.mkdir()
    with ExitStack() as stack:
        run("ip", "link", "add", made.bridge, "type", "bridge")
        stack.callback(run, "ip", "link", "del", made.bridge)
        run("ip", "addr", "add", f"{made.subnet}.1/24", "dev", made.bridge)
        run("ip", "link", "set", made.bridge, "up")
        try:
            yield made
        finally:
            for host in made.hosts:
                host.stop()
                run("ip", "netns", "del", host.name)


def wheelhouse(folder: Path, names: Sequence[str] = SHIMS) -> Path:
    """Wheels that stand in for what is installed here: with pip they give a device this environment's packages."""
    folder.mkdir()
    site = Path(metadata.distribution("numpy").locate_file(""))
    for name in names:
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        plain = name.replace("-", "_")
        about = f"{plain}-{found.version}.dist-info"
        files = {
            f"{plain}_shim.pth": f"{site}\n",
            f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {found.version}\n",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = io.StringIO()
        rows = csv.writer(record, lineterminator="\n")
        for path, text in files.items():
            digest = base64.urlsafe_b64encode(sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.writerow((path, f"sha256={digest}", len(text)))
        rows.writerow((f"{about}/RECORD", "", ""))
        with zipfile.ZipFile(folder / f"{plain}-{found.version}-py3-none-any.whl", "w") as archive:
            for path, text in {**files, f"{about}/RECORD": record.getvalue()}.items():
                archive.writestr(path, text)
    return folder


def settle(host: Host, other: Host) -> None:
    """Give ``host`` the installed expertc of ``other``: an environment takes a quarter of a minute to make."""
    for name in ("envs", "wheels"):
        shutil.copytree(other.data / name, host.data / name, symlinks=True, dirs_exist_ok=True)
