"""Strangers' graphs in this process: what they may take, and that the process has its own limits again afterwards."""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest
from networks import Net
from strangers import bomb, endless

from expertc.errors import ModelError, OutOfMemoryError
from expertc.graph import read_model
from expertc.limits import has_loops, memory_for
from expertc.observe import observe

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")


def small() -> bytes:
    net = Net()
    net.result(net.head(net.image(), 3, 4, name="scores"), 4)
    return net.bytes()


@linux
def test_an_allocation_beyond_the_limit_is_an_error_and_the_limit_is_lifted_again() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with memory_for(read_model(small())):
        held = resource.getrlimit(resource.RLIMIT_AS)[0]
    with pytest.raises(OutOfMemoryError), memory_for(read_model(small())):
        np.empty(held, np.uint8)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


@linux
def test_a_lower_limit_of_the_users_stays() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**46, before[1]))
    try:
        with memory_for(read_model(small())), memory_for(read_model(small())):
            assert resource.getrlimit(resource.RLIMIT_AS)[0] < 2**46
        assert resource.getrlimit(resource.RLIMIT_AS)[0] == 2**46
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@linux
def test_a_graph_that_asks_for_gigabytes_is_not_given_them() -> None:
    model = read_model(bomb())
    with pytest.raises((ModelError, OutOfMemoryError), match="memory"), memory_for(model):
        observe(model, [np.zeros((1, 3, 8, 8), np.float32)])


def test_loops_are_found_wherever_they_are() -> None:
    loop = read_model(endless())
    assert has_loops(loop.nodes)
    assert not has_loops(read_model(bomb()).nodes)
