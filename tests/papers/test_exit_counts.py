"""Gran-HBN's five networks: parameters to the digit, torchinfo's mult-adds to two decimals, MACs to each exit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchinfo

from expertc.zoo import import_timm
from expertc.zoo.count import count_arch
from expertc.zoo.exits import Plain

timm = import_timm()

# Parameters and millions of mult-adds as the authors' code prints them; millions of core MACs to each exit.
ROWS: dict[str, tuple[int, str, list[str]]] = {
    "hbn_alexnet": (8_752_036, "48.27", ["48.226"]),
    "b_alexnet": (12_066_540, "67.97", ["15.852", "37.814", "67.903"]),
    "sem_hbn": (11_738_700, "67.65", ["15.688", "37.487", "67.576"]),
    "gran_hbn": (12_189_480, "68.10", ["15.892", "37.896", "68.026"]),
    "ag_hbn": (12_193_578, "68.10", ["15.897", "37.900", "68.030"]),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_table(name: str) -> None:
    found = count_arch(name, 100)
    parameters, adds, to_exit = ROWS[name]
    assert (found["parameters"], found["classes"], found["size"]) == (parameters, 100, 32)
    assert f"{found['macs_torchinfo'] / 1e6:.2f}" == adds
    assert [f"{macs / 1e6:.3f}" for macs in found["macs_to_exit"]] == to_exit
    assert found["macs"] == found["macs_to_exit"][-1]


@pytest.mark.parametrize(("name", "size", "arguments"), [
    *((name, 32, {}) for name in ROWS), ("exits", 64, {"backbone": "resnet18"}),
])  # fmt: skip
def test_torchinfo_itself(name: str, size: int, arguments: dict[str, Any]) -> None:
    network = Plain(timm.create_model(name, num_classes=100, **arguments))
    theirs = torchinfo.summary(network, input_data=torch.zeros(1, 3, size, size), verbose=0)
    ours = count_arch(name, 100, size, arguments)
    assert (ours["macs_torchinfo"], ours["parameters"]) == (theirs.total_mult_adds, theirs.trainable_params)


def test_a_run_that_stops_early_costs_what_it_says() -> None:
    """The network that has no more than the first exits, counted whole."""
    whole = count_arch("exits", 10, 64, {"backbone": "resnet18", "at": [1, 3], "coarse": [False, True, True]})
    plain = count_arch("resnet18", 10, 64)["macs"]
    with torch.device("meta"):
        network = timm.create_model("exits", num_classes=10, backbone="resnet18", at=[1, 3], coarse=[False, True, True])
    necks = [branch.neck for _, branch in network.hanging()]
    first, second = (9 * neck[0].in_channels * neck[0].out_channels for neck in necks[:2])
    stem, layer1 = 49 * 3 * 64 * 32 * 32, 4 * 9 * 64 * 64 * 16 * 16
    assert whole["macs_to_exit"][0] == stem + layer1 + first * 8 * 8 + 256 * 10
    assert whole["macs_to_exit"][2] == plain + first * 8 * 8 + second * 2 * 2 + 256 * 10 + 256 * 12 + 512 * 2
