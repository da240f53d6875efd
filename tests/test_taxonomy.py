"""The class tree: reading, asking, cutting. PyYAML's own reading of the shipped files is the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from expertc.errors import ExitCode, TaxonomyError
from expertc.taxonomy import MAX_DEPTH, MAX_NAME, Node, Taxonomy

SEA = """
name: sea
levels: [domain, group, class]
tree:
  fishes:
    cartilaginous: {rays: {index: 1, label: Sea Rays}, sharks: {index: 3, synset: n01482330, imagenet1k: 2}}
    eels: {index: 0}
  crabs: {index: 2}
"""


@pytest.fixture
def sea() -> Taxonomy:
    return Taxonomy.parse(SEA)


def leaves_of(tree: dict[str, Any], above: tuple[str, ...] = ()) -> dict[int, tuple[str, ...]]:
    """Index to path, by walking what PyYAML read."""
    found = {}
    for name, value in tree.items():
        if "index" in value:
            found[value["index"]] = (*above, name)
        else:
            found |= leaves_of(value, (*above, name))
    return found


SHIPPED = {"sea-animals": 23, "cifar10": 10, "imagenette": 10, "imagewoof": 10, "cifar100": 100, "tiny-imagenet": 200}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_equals_what_pyyaml_reads(name: str) -> None:
    file = Path(__file__).parent.parent / "expertc" / "taxonomies" / f"{name}.yaml"
    expected = leaves_of(yaml.safe_load(file.read_text(encoding="utf-8"))["tree"])
    taxonomy = Taxonomy.shipped(name)
    assert len(taxonomy) == SHIPPED[name]
    assert (taxonomy.name, taxonomy.depth) == (name, 3)
    assert {leaf.index: taxonomy.path(leaf.name) for leaf in taxonomy.leaves} == expected
    assert Taxonomy.load(file) == taxonomy


def test_every_taxonomy_of_the_data_equals_what_pyyaml_reads(data_dir: Path) -> None:
    counts = {}
    for file in sorted((data_dir / "taxonomies").glob("*.yaml")):
        if file.stem == "imagenet1k":  # 2 s twice over; its size is nothing new
            continue
        taxonomy = Taxonomy.load(file)
        expected = leaves_of(yaml.safe_load(file.read_text(encoding="utf-8"))["tree"])
        assert {leaf.index: taxonomy.path(leaf.name) for leaf in taxonomy.leaves} == expected
        assert Taxonomy.from_mapping(taxonomy.to_mapping()) == taxonomy
        counts[file.stem] = (len(taxonomy), taxonomy.depth)
    assert counts["sea-animals"] == (23, 3)
    assert counts["cifar100"] == (100, 3)


@pytest.mark.parametrize("name", ["sharks", "", "../taxonomies/sea-animals", "sea-animals.yaml", "\x1b[31m"])
def test_unknown_shipped_name_lists_the_known(name: str) -> None:
    with pytest.raises(TaxonomyError) as caught:
        Taxonomy.shipped(name)
    assert "sea-animals" in caught.value.hint
    assert "\x1b" not in caught.value.message
    assert caught.value.exit_code == ExitCode.INVALID


def test_questions(sea: Taxonomy) -> None:
    assert sea.classes == ("eels", "rays", "crabs", "sharks")
    assert sea.path("sharks") == ("fishes", "cartilaginous", "sharks")
    assert sea.by_name["fishes"].leaves == (0, 1, 3)
    assert [node.name for node in sea.nodes()] == ["fishes", "cartilaginous", "rays", "sharks", "eels", "crabs"]
    assert (sea.depth, len(sea)) == (3, 4)
    assert [leaf.display for leaf in sea.leaves] == ["eels", "Sea Rays", "crabs", "sharks"]
    assert dict(sea.by_name["sharks"].attributes) == {"imagenet1k": 2}


def test_owner_is_the_lowest_node(sea: Taxonomy) -> None:
    assert sea.owner([3, 1]) is sea.by_name["cartilaginous"]
    assert sea.owner([0]) is sea.by_name["eels"]
    assert sea.owner([0, 1]) is None
    chain = Taxonomy.parse("tree: {a: {b: {c: {index: 0}}}}")
    assert chain.owner([0]) is chain.by_name["c"]


def test_restrict(sea: Taxonomy) -> None:
    cut = sea.restrict([3, 1])
    assert cut.classes == ("rays", "sharks")
    assert [node.name for node in cut.nodes()] == ["fishes", "cartilaginous", "rays", "sharks"]
    assert cut.by_name["sharks"].synset == "n01482330"
    assert sea.restrict([0, 1, 3]).restrict([1, 2]) == cut  # rows of the cut: 1 and 2 are rays and sharks
    assert sea.restrict(range(4)) == sea


def test_restrict_refuses_what_is_not_there(sea: Taxonomy) -> None:
    with pytest.raises(IndexError):
        sea.restrict([1, 4])
    with pytest.raises(TaxonomyError):
        sea.restrict([])


def test_flat() -> None:
    taxonomy = Taxonomy.flat(["a", "b c", "d/e"])
    assert taxonomy.classes == ("a", "b c", "d/e")
    assert taxonomy.depth == 1
    with pytest.raises(TaxonomyError, match="twice"):
        Taxonomy.flat(["a", "a\x07"])
    with pytest.raises(TaxonomyError, match="empty"):
        Taxonomy.flat(["a", "\u202e"])


def test_names_are_what_is_written() -> None:
    taxonomy = Taxonomy.parse("tree: {no: {index: 0, label: off}, 010: {index: 1, label: 007}, 12:30: {index: 2}}")
    assert taxonomy.classes == ("no", "010", "12:30")
    assert [leaf.label for leaf in taxonomy.leaves] == ["off", "007", ""]


def test_a_class_may_be_called_index() -> None:
    taxonomy = Taxonomy.parse("tree: {things: {index: {index: 0}, label: {index: 1}}}")
    assert taxonomy.classes == ("index", "label")
    assert Taxonomy.from_mapping(taxonomy.to_mapping()) == taxonomy


def test_byte_order_mark_and_line_ends(tmp_path: Path, sea: Taxonomy) -> None:
    file = tmp_path / "sea.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + SEA.replace("\n", "\r\n").encode())
    assert Taxonomy.load(file) == sea


def test_bounds_are_inclusive() -> None:
    deepest: Any = {"index": 0}
    for level in range(MAX_DEPTH):
        deepest = {f"level-{level}": deepest}
    assert Taxonomy.from_mapping({"tree": deepest}).depth == MAX_DEPTH
    assert Taxonomy.flat(["x" * MAX_NAME]).classes == ("x" * MAX_NAME,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no 'tree'"),
        ("- a", "no 'tree'"),
        ("tree: 3", "no 'tree'"),
        ("tree: {}", "no classes"),
        ("tree: {a: {}}", "'a' is empty"),
        ("tree: {a: 3}", "'a' is neither"),
        ("tree: {a: {index: 0}, b: {a: {index: 1}}}", "'a' twice"),
        ("tree: {a: {index: 0}, a: {index: 1}}", "'a' stands twice"),
        ("tree: {a: {index: 0}, b: {index: 0}}", "look at 0"),
        ("tree: {a: {index: 0}, b: {index: 2}}", "look at 2"),
        ("tree: {a: {index: 1}}", "look at 1"),
        ("tree: {a: {index: -1}}", "index of 'a'"),
        ("tree: {a: {index: true}}", "index of 'a'"),
        ("tree: {a: {index: one}}", "index of 'a'"),
        ("tree: {a: {index: 0, b: {index: 1}}}", "'b' looks like a child"),
        ("tree: {a: {index: 0, label: [x]}}", "'label'"),
        ("levels: x\ntree: {a: {index: 0}}", "'levels'"),
        ("levels: [[x]]\ntree: {a: {index: 0}}", "'levels'"),
        ("classes: 2\ntree: {a: {index: 0}}", "'classes: 2' but has 1"),
        ("tree: {a: {index: 0}}\n---\ntree: {}", "line 2"),
        ("tree: {a: {index: 0}", "not valid YAML"),
        ("tree:\n\t a: b", "line 2"),
    ],
)
def test_malformed_files_are_refused_in_words(text: str, says: str) -> None:
    with pytest.raises(TaxonomyError) as caught:
        Taxonomy.parse(text)
    assert says in caught.value.message
    assert caught.value.hint


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TaxonomyError, match="No such file"):
        Taxonomy.load(tmp_path / "none.yaml")
    with pytest.raises(TaxonomyError, match="directory"):
        Taxonomy.load(tmp_path)


def test_the_classes_of_imagenet_are_timms() -> None:
    pytest.importorskip("torch", reason="needs the train extra")
    from expertc.zoo import import_timm

    known = import_timm().data.ImageNetInfo()
    shipped = Taxonomy.shipped("imagenet1k")
    assert len(shipped) == 1000
    assert [leaf.synset for leaf in shipped.leaves] == [known.index_to_label_name(i) for i in range(1000)]
    for name in ("imagenette", "imagewoof", "tiny-imagenet"):
        for leaf in Taxonomy.shipped(name).leaves:
            assert shipped.leaves[dict(leaf.attributes)["imagenet1k"]].synset == leaf.synset


def test_the_lowest_levels() -> None:
    """Each class with what is right above it, wherever it stood; its index, label and synset stay."""
    tree = Taxonomy.shipped("tiny-imagenet")
    two = tree.lowest(2)
    assert {two.path(name) for name in two.classes} == {tree.path(name)[-2:] for name in tree.classes}
    assert (two.depth, len(two.roots), two.leaves) == (2, 23, tree.leaves)
    assert two.levels == ("super-category", "class")
    assert tree.lowest(3) == tree == tree.lowest(9)
    assert tree.lowest(1).roots == tuple(node for node in tree.nodes() if node.is_class)
    tip, side = Node("tip", (Node("a", index=0),)), Node("b", index=1)
    ragged = Taxonomy("t", (Node("top", (tip, side)), Node("c", index=2)))
    paths = {name: ragged.lowest(2).path(name) for name in "abc"}
    assert paths == {"a": ("tip", "a"), "b": ("top", "b"), "c": ("c",)}
    deeper = Taxonomy("t", (Node("root", (Node("top", (tip, side)),)),))
    with pytest.raises(TaxonomyError, match="'top' twice"):
        deeper.lowest(3)
