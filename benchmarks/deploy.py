"""Deployments: how fast files travel, and what is active on a device when the deploying process is killed.

    pip install '.[deploy]'
    python -m benchmarks.deploy [--megabytes 200] [--rounds 5] [--kills 40]

As root on Linux with OpenSSH's server: devices are those of ``tests/deploy``, servers in network namespaces with homes
of their own; the link between is as fast as the processor encrypts. A file of random bytes is sent by ``expertc
deploy``'s transport, by ``scp`` and, where it is installed, by ``rsync``, in turns. ``--kills``: that many deployments
of two experts in turn, each killed by SIGKILL at a random moment of its time; after each it is looked at whether the
active release of the device is whole, and gives the scores that it gives here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from expertc.bundle import open_bundle
from expertc.compiler import build
from expertc.deploy.address import Address
from expertc.deploy.transport import Ssh, connected
from expertc.deploy.wheel import make
from expertc.errors import ExpertcError
from expertc.releases import Store
from expertc.runtime import Expert

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results"
sys.path[:0] = [str(ROOT / "tests" / "deploy")]

from hosts import Host, Network, network, wheelhouse, why_not  # noqa: E402


def main() -> None:
    """Send, kill, and write results/deploy.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=40)
    given = parser.parse_args()
    if why := why_not():
        raise SystemExit(f"There can be no devices here: {why}.")
    with tempfile.TemporaryDirectory() as scratch, network(Path(scratch)) as net:
        table = {
            "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
            "transfer": transfer(net, given.megabytes, given.rounds),
            "kills": kills(net, given.kills),
        }
    (RESULTS / "deploy.json").write_text(json.dumps(table, indent=2) + "\n")
    print(json.dumps(table, indent=2))


def transfer(net: Network, megabytes: int, rounds: int) -> dict[str, Any]:
    """Medians of megabytes per second, in turns."""
    host = net.host()
    host.start()
    file = net.folder / "ballast"
    file.write_bytes(np.random.default_rng(0).bytes(megabytes * 10**6))
    ssh = Ssh(None, net.known_hosts, net.identity)
    plain = ("-i", str(net.identity), "-o", f"UserKnownHostsFile={net.known_hosts}")

    async def upload() -> None:
        async with connected(Address.parse(host.login), ssh) as device:
            await device.upload("up", {"ballast": file}, {"ballast": 0}, lambda size: None)

    ways: dict[str, Callable[[], object]] = {
        "expertc": lambda: asyncio.run(upload()),
        "scp": lambda: subprocess.run(["scp", "-q", *plain, file, f"{host.login}:scp"], check=True),
    }
    if shutil.which("rsync"):
        words = ["rsync", "-e", " ".join(("ssh", *plain)), "--inplace", "--ignore-times", "--whole-file"]
        ways["rsync"] = lambda: subprocess.run([*words, file, f"{host.login}:rsync"], check=True)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    host.stop()
    speeds = {name: round(megabytes / statistics.median(each), 1) for name, each in seconds.items()}
    return {"megabytes": megabytes, "rounds": rounds, "megabytes_per_second": speeds}


def kills(net: Network, number: int) -> dict[str, Any]:
    """What was active after each kill."""
    host = net.host()
    host.start()
    bundles = [
        build(classes=classes, output=net.folder / f"{classes}.expert", measure_seconds=0).path
        for classes in ("sharks", "rays")
    ]
    house, wheel = wheelhouse(net.folder / "house"), make(net.folder)
    command = [
        sys.executable, "-m", "expertc", "deploy", "--name", "cam", "--quiet", "--seconds", "0.1", "--keep", "1",
        "--wheelhouse", house, "--wheel", wheel, *net.options,
    ]  # fmt: skip
    lasting = []
    for bundle in (*bundles, *bundles):
        start = time.perf_counter()
        subprocess.run([*command, bundle, host.login], check=True)
        lasting.append(time.perf_counter() - start)
    whole = statistics.median(lasting[1:])  # the first installs expertc
    draw, outcomes = random.Random(0), Counter[str]()
    for each in range(number):
        bundle, before = bundles[each % 2], active(host)
        with subprocess.Popen([*map(str, command), str(bundle), host.login]) as process:
            try:
                process.wait(draw.uniform(0, 1.5 * whole))  # beyond it too: the last steps are what matters
            except subprocess.TimeoutExpired:
                process.kill()
        try:
            after = active(host)
            same_scores(host, bundles)
            outcomes["as before" if after == before else "the new one"] += 1
        except (AssertionError, ExpertcError, OSError, StopIteration) as error:
            print(f"broken: {error!r}", file=sys.stderr)
            outcomes["broken"] += 1
    subprocess.run([*command, bundles[0], host.login], check=True)
    same_scores(host, bundles)
    host.stop()
    return {"kills": number, "seconds_of_a_deployment": round(whole, 2), "active_after": {"broken": 0, **outcomes}}


def active(host: Host) -> str:
    """The labels of what a device would run, every file of which is what its manifest says."""
    path = Store(host.data / "experts").current("cam")
    assert path is not None
    return " ".join(open_bundle(path).labels)


def same_scores(host: Host, bundles: list[Path]) -> None:
    """The active release gives what the bundle that it came from gives here."""
    path = Store(host.data / "experts").current("cam")
    assert path is not None
    own = next(
        each for each in bundles if (each / "manifest.json").read_bytes() == (path / "manifest.json").read_bytes()
    )
    with Expert.open(path, threads=1) as there, Expert.open(own, threads=1) as here:
        shape = [size or 1 for size in here.session.input_shape]
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        np.testing.assert_array_equal(there.scores(x), here.scores(x))


if __name__ == "__main__":
    main()
