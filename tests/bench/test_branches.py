"""Leave-one-out: what is predicted against a cut by hand, and names that cannot be left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from networks import Net, card

from expertc.bench.branches import LARGEST, by_branch
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
    found = by_branch(full, seconds=0.2, threads=1)
    # trunk 3 * 4 * 64; a branch 4 * 9 * 8 * 64 + 8, twice that for clams
    narrow, trunk = 4 * 9 * 8 * 64 + 8, 3 * 4 * 64
    assert full.cost.macs == trunk + 4 * narrow
    assert {each.name: (each.classes, each.predicted) for each in found} == {
        "fishes": (2, pytest.approx(2 * narrow / full.cost.macs)),
        "clams": (1, pytest.approx(2 * narrow / full.cost.macs)),
    }
    for each in found:
        assert each.measured == 1 - each.time.value
        assert each.time.value > 0


def test_named_branches_the_largest_first(tmp_path: Path) -> None:
    found = by_branch(source(tmp_path), ["rays", "clams"], seconds=0.1)
    assert [each.name for each in found] == ["clams", "rays"]


def test_what_cannot_be_left_out(tmp_path: Path) -> None:
    full = source(tmp_path)
    with pytest.raises(SelectionError, match="shraks"):
        by_branch(full, ["shraks"], seconds=0.1)
    with pytest.raises(UsageError, match="nothing is left"):
        by_branch(full, ["rays,sharks,clams"], seconds=0.1)
    many = Taxonomy.flat([f"c{i}" for i in range(LARGEST + 1)])
    with pytest.raises(UsageError, match="too many"):
        by_branch(source(tmp_path, many), seconds=0.1)
    with pytest.raises(UsageError, match="fixed input"):
        by_branch(source(tmp_path, side="side"), seconds=0.1)
