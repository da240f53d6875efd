"""Devices for the tests of this room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Network, network, why_not


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A network for devices; a skip with the reason where there can be none."""
    if why := why_not():
        pytest.skip(f"no devices to deploy to: {why}")
    with network(Path(tmp_path_factory.mktemp("net"))) as made:
        yield made
