"""What is compared: experts in their forms and precisions, and k branches against one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.forms import CUT, FULL, FUSED, NETWORKS, Network

GROUPED, BATCHED = FUSED + "grouped", FUSED + "batched"
FP32, FP16, INT8 = "fp32", "fp16", "int8"
SEA = "sea animals, sharks and rays"
ONE = "HLFP-small, 1 of 1"
EXITS = "Gran-HBN, 20 of 100, a graph per exit"
STAGE = "stage "
"""Begins the form that is one stage of a network with early exits; its number follows."""
HIERNET = "HierNet-20, four groups of seven, all branches"


@dataclass(frozen=True)
class Entry:
    """An engine: a network's expert in a form (or the full model) and a precision."""

    network: str
    form: str
    precision: str = FP32


@dataclass(frozen=True)
class Contest:
    """Entries that are timed in turns; the others are compared with ``base``.

    ``budget`` is how many times as long as it the best fused form of the last entry's network may take.
    """

    id: str
    name: str
    entries: tuple[Entry, ...]
    base: Entry
    budget: float | None = None


EXTRA = {
    ONE: Network("hlfp_small", 1, "fused", "#0"),
    "HLFP-small, 10 of 10": Network("hlfp_small", 10, "separate", "#0-9"),
    HIERNET: Network("hiernet_resnet20", 100, "", "#0-57"),
    EXITS: Network("gran_hbn", 100, "plain", "#0-19"),
}
SIDES = {HIERNET: 32, EXITS: 32}
"""Pixels, of images that are not of 224."""
ALL = {**NETWORKS, **EXTRA}


def expert(name: str, network: str, *, full: bool = True, forms: Sequence[str] = (GROUPED, BATCHED)) -> Contest:
    """The full model and its expert, cut and fused, in single and half precision; int8 where it was trained."""
    entries = [Entry(network, FULL)] * full
    entries += [Entry(network, form, precision) for precision in (FP32, FP16) for form in (CUT, *forms)]
    entries += [Entry(network, CUT, INT8)] * (network == SEA)
    return Contest(name, network, tuple(entries), Entry(network, CUT))


CONTESTS = (
    expert("sea", SEA, forms=(GROUPED,)),  # trained weights are carried for each form
    Contest(
        "table4", "HLFP, Table 4: k branches against one",
        tuple(
            Entry(network, form, precision)
            for precision in (FP32, FP16)
            for network, form in (
                (ONE, CUT), ("HLFP-small, 10 of 10", CUT), ("HLFP-small, 10 of 10", GROUPED),
                ("HLFP-small, 10 of 10", BATCHED), ("HLFP-small, 100 of 100", CUT), ("HLFP-small, 100 of 100", GROUPED),
                ("HLFP-small, 100 of 100", BATCHED),
            )
        ),
        Entry(ONE, CUT),
        1.25,
    ),
    expert("hlfp5", "HLFP-small, 5 of 100"),
    expert("hlfp20", "HLFP-small, 20 of 100", full=False),
    expert("nhl", "ResNet50-NHL, 20 of 100"),
    expert("hlfp10", "HLFP-small, 10 of 100", full=False),
    expert("hiernet", HIERNET),
    expert("exits", EXITS, forms=tuple(f"{STAGE}{number}" for number in (1, 2, 3))),
    expert("convnext", "ConvNeXtV2-NHL, 5 of 1000", full=False),
    expert("nested", "HLFP nested, 20 of 100 (17 of 52)", full=False),
)  # fmt: skip
"""The most telling first: whoever has a GPU for minutes only gets these."""
