"""Devices for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import Host, Network, network, settle, wheelhouse, why_not

from expertc.cli import run
from expertc.deploy.wheel import make


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A network for devices; a skip with the reason where there can be none."""
    if why := why_not():
        pytest.skip(f"no devices to deploy to: {why}")
    with network(Path(tmp_path_factory.mktemp("net"))) as made:
        yield made


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse, so that devices install without a network."""
    return wheelhouse(Path(tmp_path_factory.mktemp("wheels")) / "house")


@pytest.fixture(scope="session")
def own_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the expertc that is tested."""
    return make(Path(tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="session")
def options(machines: Network, house: Path, own_wheel: Path) -> tuple[str, ...]:
    """Of every deployment here."""
    return (*machines.options, "--wheelhouse", str(house), "--wheel", str(own_wheel), "--seconds", "0.1")


@pytest.fixture(scope="session")
def settled(machines: Network, options: tuple[str, ...], bundle: Path) -> Host:
    """A device that expertc was installed on, and ``bundle`` deployed to, by a deployment."""
    host = machines.host()
    host.start()
    assert run(["deploy", str(bundle), host.login, "--name", "first", *options, "--quiet"]) == 0
    return host


@pytest.fixture
def device(machines: Network, settled: Host) -> Iterator[Callable[..., Host]]:
    """Makes devices that have expertc already."""
    made = []

    def one(*, known: bool = True, **how: Any) -> Host:
        host = machines.host(known=known)
        made.append(host)
        settle(host, settled)
        host.start(**how)
        return host

    yield one
    for host in made:
        host.stop()
