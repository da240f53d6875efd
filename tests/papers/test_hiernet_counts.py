"""HierNet's counts: params = a + b G and MACs = c + d G for a hundred classes, as its authors' builder makes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from expertc.zoo import build, import_timm
from expertc.zoo.count import count, count_arch, route_macs
from expertc.zoo.trees import even, two_levels

import_timm()

# By the backbone's name: a, b, c, d; then for G = 7 parameters, MMACs of all leaves and of one; then the backbone's.
ROWS: dict[str, tuple[Any, ...]] = {
    "resnet20": (130_356, 224_321, 31_381_760, 17_825_856, 1_700_603, "156.163", "49.203", 278_324, "40.819"),
    "resnet32": (250_804, 372_289, 54_974_720, 27_263_040, 2_856_827, "245.816", "82.233", 472_756, "69.130"),
    "resnet44": (297_268, 538_817, 73_849_088, 41_418_816, 4_068_987, "363.781", "115.263", 667_188, "97.442"),
    "resnet56": (417_716, 686_785, 97_442_048, 50_856_000, 5_225_211, "453.434", "148.293", 861_620, "125.754"),
    "resnet110": (848_756, 1_183_809, 196_532_480, 75_497_536, 9_135_419, "725.015", "272.025", 1_736_564, "253.156"),
    "elu_resnet20": (203_796, 205_377, 36_100_352, 13_107_264, 1_641_435, "127.851", "49.203", 277_652, "40.819"),
    "elu_resnet32": (250_068, 371_585, 54_974_720, 27_263_040, 2_851_163, "245.816", "82.233", 471_636, "69.130"),
    "elu_resnet44": (370_196, 443_201, 78_567_680, 28_311_616, 3_472_603, "276.749", "106.874", 665_620, "97.442"),
    "elu_resnet56": (638_036, 590_913, 111_597_824, 37_748_800, 4_774_427, "375.839", "149.342", 859_604, "125.754"),
    "elu_resnet110": (846_260, 1_181_761, 196_532_480, 75_497_536,
                      9_118_587, "725.015", "272.025", 1_732_532, "253.156"),
}  # fmt: skip


def mega(macs: int) -> str:
    return f"{macs / 1e6:.3f}"


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("groups", [6, 8])
def test_the_formula(kind: str, groups: int) -> None:
    a, b, c, d = ROWS[kind][:4]
    found = count_arch(f"hiernet_{kind}", two_levels(even(100, groups)))
    assert (found["groups"], found["size"]) == (groups, 32)
    assert found["parameters"] == a + b * groups
    assert found["macs"] == c + d * groups


@pytest.mark.parametrize("kind", ROWS)
def test_the_table_for_seven_groups(kind: str) -> None:
    found, backbone = count_arch(f"hiernet_{kind}", 100), count_arch(f"cifar_{kind}", 100)
    a, b, c, d = ROWS[kind][:4]
    assert (found["parameters"], found["macs"]) == (a + 7 * b, c + 7 * d)
    shown = (found["parameters"], mega(found["macs"]), mega(found["macs_routed"]))
    assert (*shown, backbone["parameters"], mega(backbone["macs"])) == ROWS[kind][4:]


def test_what_a_route_costs_depends_on_its_group() -> None:
    """64 MACs and 65 parameters for each class of the leaf, whatever the others are."""
    sizes = [50, 2, 8, 10, 20, 4, 6]
    with torch.device("meta"):
        network = build("hiernet_resnet20", two_levels(sizes), {})
    routes = route_macs(network, 32)  # type: ignore[arg-type]
    one = 31_381_760 + 17_825_856 - 64 * 100 + 64 * 6  # c + d, but for the classes' rows and the other groups'
    assert list(routes.values()) == [one + 64 * size for size in sizes]
    leaves = [sum(p.numel() for p in group.parameters()) for group in network.groups.children()]  # type: ignore[union-attr]
    assert [found - leaves[0] for found in leaves] == [65 * (size - 50) for size in sizes]
    with torch.device("meta"):
        assert count(network, 32)["parameters"] == 130_356 + 7 * 224_321
