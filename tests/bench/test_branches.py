"""Leave-one-out: what is predicted against a cut by hand, and names that cannot be left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from networks import Net, card

from expertc.bench import bench
from expertc.bench.branches import LARGEST
from expertc.card import CARD_KEY
from expertc.errors import SelectionError, UsageError
from expertc.source import Source, open_source
from expertc.taxonomy import Taxonomy

TREE = Taxonomy.parse("""
name: animals
tree:
  fishes: {rays: {index: 0}, sharks: {index: 1}}
  clams: {index: 2}
""")


def source(folder: Path, tree: Taxonomy = TREE, side: int | str = 8) -> Source:
    """A branch of 3 x 3 convolutions per class, the last class's twice as wide."""
    net = Net()
    x = net.conv(net.image(3, side, side), 3, 4, name="trunk")
    wide = [8] * (len(tree) - 1) + [16]
    heads = [net.head(net.conv(x, 4, n, kernel=3, name=f"b{i}"), n, 1, name=f"h{i}") for i, n in enumerate(wide)]
    net.result(net.node("Concat", *heads, axis=1, out="scores"), len(tree))
    net.metadata[CARD_KEY] = card(tree).to_json()
    path = folder / "full.onnx"
    path.write_bytes(net.bytes())
    return open_source(path)


def test_each_root_is_left_out(tmp_path: Path) -> None:
    full = source(tmp_path)
    found = bench([full.path], without=(), seconds=0.2, threads=1, seed=3)
    # trunk 3 * 4 * 64; a branch 4 * 9 * 8 * 64 + 8, twice that for clams
    narrow, trunk = 4 * 9 * 8 * 64 + 8, 3 * 4 * 64
    assert full.cost.macs == trunk + 4 * narrow
    half = pytest.approx(2 * narrow / full.cost.macs)
    assert {name: (each.name, each.classes, each.predicted) for name, each in found.branches.items()} == {
        "without fishes": ("fishes", 2, half), "without clams": ("clams", 1, half),
    }  # fmt: skip
    first, *rest = found.entries
    assert (first.name, first.classes, found.seed) == ("full.onnx", ("rays", "sharks", "clams"), 3)
    assert [entry.classes for entry in rest] == [("clams",), ("rays", "sharks")]
    assert len({entry.sha256 for entry in found.entries}) == 3
    told = found.to_mapping()["branches"]
    for entry in rest:
        assert told[entry.name]["measured"] == 1 - entry.ratio.value
        assert told[entry.name]["low"] <= told[entry.name]["measured"] <= told[entry.name]["high"]


def test_named_branches_the_largest_first(tmp_path: Path) -> None:
    found = bench([source(tmp_path).path], without=["rays", "clams"], seconds=0.1)
    assert [each.name for each in found.branches.values()] == ["clams", "rays"]


def test_what_cannot_be_left_out(tmp_path: Path) -> None:
    full = source(tmp_path).path
    with pytest.raises(SelectionError, match="shraks"):
        bench([full], without=["shraks"], seconds=0.1)
    with pytest.raises(UsageError, match="nothing is left"):
        bench([full], without=["rays,sharks,clams"], seconds=0.1)
    for options in ({"scenario": "camera"}, {"cold": True}, {"phases": True}):
        with pytest.raises(UsageError, match="takes one model apart"):
            bench([full], without=(), seconds=0.1, **options)
    many = Taxonomy.flat([f"c{i}" for i in range(LARGEST + 1)])
    with pytest.raises(UsageError, match="too many"):
        bench([source(tmp_path, many).path], without=(), seconds=0.1)
    with pytest.raises(UsageError, match="no fixed size"):
        bench([source(tmp_path, side="side").path], without=(), seconds=0.1)
