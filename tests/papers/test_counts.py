"""The published numbers, to the digit where they are integers; two decimals where the papers print two."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from expertc.zoo import import_timm
from expertc.zoo.blocks import Bottleneck, ConvNeXtLevel
from expertc.zoo.count import count, count_arch

timm = import_timm()


@cache
def counted(name: str, classes: int) -> dict[str, Any]:
    return count_arch(name, classes)


@cache
def cutout(name: str, classes: int, first: int, last: int) -> dict[str, int]:
    """The same network built for the classes ``first`` to ``last`` alone: what a cut must come to."""
    with torch.device("meta"):
        full = timm.create_model(name, num_classes=classes)
        return count(timm.create_model(name, taxonomy=full.taxonomy.restrict(range(first, last))), 224)


# HLFP, Tables 1 to 3; 818,213,928 (small, 1000) is not reproduced by what the paper describes.
PARAMETERS = {
    ("hlfp_big", 10): 27_464_778, ("hlfp_big", 100): 261_643_428, ("hlfp_big", 1000): 2_603_429_928,
    ("hlfp_small", 10): 9_611_338, ("hlfp_small", 100): 83_109_028,
    ("hlfp_nested", 100): 65_725_604, ("hlfp_nested", 1000): 577_977_384,
    ("hlfp_late_sp", 10): 19_986_506, ("hlfp_late_sp", 100): 122_975_396, ("hlfp_late_sp", 1000): 1_152_864_296,
    ("hlfp_1b_late_sp", 10): 9_688_778, ("hlfp_1b_late_sp", 100): 9_700_388, ("hlfp_1b_late_sp", 1000): 9_816_488,
    **{("resnet50", k): 23_508_032 + 2_049 * k for k in (5, 10, 20, 80, 100, 1000)},
}  # fmt: skip


@pytest.mark.parametrize(("name", "classes"), PARAMETERS)
def test_parameters(name: str, classes: int) -> None:
    assert counted(name, classes)["parameters"] == PARAMETERS[name, classes]


CUTOUTS = {
    ("hlfp_small", 10, 0, 5): 5_528_133, ("hlfp_small", 10, 5, 10): 5_528_133,
    ("hlfp_small", 100, 0, 80): 66_776_208, ("hlfp_small", 100, 80, 100): 17_777_748,
    ("hlfp_nested", 100, 0, 80): 51_565_712, ("hlfp_nested", 100, 80, 100): 16_148_052,
}  # fmt: skip


@pytest.mark.parametrize("which", CUTOUTS)
def test_parameters_of_cutouts(which: tuple[str, int, int, int]) -> None:
    assert cutout(*which)["parameters"] == CUTOUTS[which]


def test_macs_as_thop_counts_them() -> None:
    """What pytorch-OpCounter itself gives, to the integer, and what the papers print."""
    assert counted("resnet50", 10)["macs_thop"] == 4_131_715_072
    assert cutout("hlfp_small", 10, 0, 5)["macs_thop"] == 2_659_850_368
    assert cutout("hlfp_nested", 100, 80, 100)["macs_thop"] == 4_661_332_480
    assert f"{cutout('hlfp_small', 100, 0, 80)['macs_thop'] / 1e9:.2f}" == "14.85"
    assert f"{counted('convnextv2_tiny', 1000)['macs_thop'] / 1e9:.2f}" == "4.46"


def test_the_trunks() -> None:
    with torch.device("meta"):
        small, late = (timm.create_model(name, num_classes=2).trunk for name in ("hlfp_small", "hlfp_late_sp"))
    expected = [(1_444_928, 1_813_561_344, 1_846_878_208), (8_543_296, 3_277_897_728, 3_319_844_864)]
    assert [tuple(count(trunk, 224).values()) for trunk in (small, late)] == expected


@pytest.mark.parametrize(("block", "side", "thop"), [
    (Bottleneck(512, 128, 512, 2), 28, 145_811_456), (Bottleneck(512, 64, 256, 2), 14, 15_617_280),
    (Bottleneck(256, 32, 128, 2), 7, 1_163_392), (Bottleneck(1024, 128, 512, 1), 14, 171_200_512),
    (Bottleneck(512, 64, 256, 1), 14, 43_051_008), (Bottleneck(256, 32, 128, 2), 14, 3_945_088),
])  # fmt: skip
def test_blocks_as_thop_counts_them(block: Bottleneck, side: int, thop: int) -> None:
    channels = nn.Conv2d(3, block.conv1.in_channels, 1, bias=False)
    whole = count(nn.Sequential(channels, block).to("meta"), side)["macs_thop"]
    assert whole - 3 * block.conv1.in_channels * side * side == thop


@pytest.mark.parametrize(("level", "parameters"), [
    ((384, 128, 1, 3), 861_440), ((128, 64, 2, 3), 143_872), ((64, 32, 2, 1), 18_624),
])  # fmt: skip
def test_levels_of_convnext(level: tuple[int, int, int, int], parameters: int) -> None:
    assert sum(p.numel() for p in ConvNeXtLevel(*level).parameters()) == parameters


def test_nhl_on_resnet50() -> None:
    """25 M and 5.86 G for 100 classes, 13.8 M and 4.22 G for 20 of them: the tree is ours, chosen to fit."""
    full, expert = counted("nhl_resnet50", 100), cutout("nhl_resnet50", 100, 0, 20)
    assert (full["parameters"], expert["parameters"]) == (24_955_556, 13_790_548)
    assert [f"{found['macs_thop'] / 1e9:.2f}" for found in (full, expert)] == ["5.86", "4.22"]


def test_nhl_on_convnextv2_tiny() -> None:
    """119.9 M and 14.55 G for 1000 classes, 13.5 M and 3.87 G for five of them: blocks and tree are ours, to fit."""
    full, expert = counted("nhl_convnextv2_tiny", 1000), cutout("nhl_convnextv2_tiny", 1000, 0, 5)
    assert (full["parameters"], expert["parameters"]) == (119_856_744, 13_476_837)
    assert [f"{found['macs_thop'] / 1e9:.2f}" for found in (full, expert)] == ["14.55", "3.87"]


def test_the_published_trees() -> None:
    def levels(name: str, classes: int) -> list[int]:
        with torch.device("meta"):
            taxonomy = timm.create_model(name, num_classes=classes).taxonomy
        depths = [len(taxonomy.path(node.name)) for node in taxonomy.nodes()]
        return [depths.count(depth) for depth in range(1, max(depths) + 1)]

    assert levels("hlfp_nested", 100) == [68, 100]
    assert levels("hlfp_nested", 1000) == [558, 1000]
    assert levels("nhl_resnet50", 100) == [4, 34, 100]
