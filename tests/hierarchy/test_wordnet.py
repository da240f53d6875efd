"""Trees from WordNet's own lines, put where they stand in WordNet's own file."""

from __future__ import annotations

from pathlib import Path

import pytest

from expertc.errors import TaxonomyError, UsageError
from expertc.hierarchy.hypernyms import from_wordnet
from expertc.hierarchy.wordnet import DATA, INDEX, WordNet
from expertc.taxonomy import Node, Taxonomy

LINES = [line for line in Path(__file__).with_name(DATA).read_bytes().splitlines(True) if not line.startswith(b" ")]
IDS = {
    "tench": "n01440764", "tiger-shark": "n01491361", "tabby": "n02123045", "goldfish": "n01443537",
    "dalmatian": "n02110341", "great-white-shark": "n01484850",
}  # fmt: skip
LEAVES = tuple(Node(name, synset=synset) for name, synset in IDS.items())
VERTEBRATES = ["animal", "chordate", "vertebrate"]


def write(folder: Path, lines: list[bytes] = LINES) -> Path:
    with open(folder / DATA, "wb") as file:
        for line in lines:
            file.seek(int(line[:8]))
            file.write(line)
    index = ("  licence", "tench n 1 2 @ #m 1 0 01440764  ", "tabby-cat n 1 1 @ 1 0 02123045  ",
             "pet n 2 1 @ 2 1 02121620 02083346  ")  # fmt: skip
    (folder / INDEX).write_text("\n".join(index) + "\n")
    return folder


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> WordNet:
    return WordNet(write(tmp_path_factory.mktemp("wordnet")))


def names(nodes: tuple[Node, ...]) -> list:
    return [node.name if node.is_class else (node.name, names(node.children)) for node in nodes]


def test_a_way_goes_by_the_first_hypernym(database: WordNet) -> None:
    """A dog is a canine and a domestic animal, in this order."""
    dog = database.synset(2084071)
    assert dog.words == ("dog", "domestic_dog", "Canis_familiaris")
    assert [database.synset(one).name for one in dog.above] == ["canine", "domestic-animal"]
    assert [database.synset(one).name for one in database.way(2110341)] == [
        "entity", "physical-entity", "object", "whole", "living-thing", "organism", *VERTEBRATES, "mammal", "placental",
        "carnivore", "canine", "dog", "dalmatian",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "tree"),
    [
        ((), [
            ("fish", [("cyprinid", ["tench", "goldfish"]), ("shark", ["tiger-shark", "great-white-shark"])]),
            ("carnivore", ["tabby", "dalmatian"]),
        ]),
        ((4,), [
            ("fish", ["tench", "goldfish", "tiger-shark", "great-white-shark"]), ("carnivore", ["tabby", "dalmatian"]),
        ]),
        ((10,), [  # no category of all classes
            ("fish", ["tench", "goldfish", "tiger-shark", "great-white-shark"]), ("carnivore", ["tabby", "dalmatian"]),
        ]),
        ((3,), [
            ("cyprinid", ["tench", "goldfish"]), ("shark", ["tiger-shark", "great-white-shark"]),
            ("carnivore", ["tabby", "dalmatian"]),
        ]),
        ((5, 2), [
            ("fish", [("cyprinid", ["tench", "goldfish"]), ("shark", ["tiger-shark", "great-white-shark"])]),
            ("carnivore", ["tabby", "dalmatian"]),
        ]),
    ],
)  # fmt: skip
def test_hypernyms_that_part_classes_are_categories(database: WordNet, sizes: tuple[int, ...], tree: list) -> None:
    made = from_wordnet(database, LEAVES, sizes, "t")
    assert names(made.roots) == tree
    assert made.classes == tuple(IDS)
    assert {leaf.name: leaf.synset for leaf in made.leaves} == IDS


def test_a_class_with_kinds_and_names_that_are_taken(database: WordNet) -> None:
    leaves = (
        Node("dog", synset="n02084071"),
        Node("fish", synset="n02110341"),
        *LEAVES[:2],
        Node("lone", label="Tench"),
    )
    assert names(from_wordnet(database, leaves, (), "t").roots) == [
        ("dog-n02084071", ["dog", "fish"]), ("fish-n02512053", [("tench-n01440764", ["tench", "lone"]), "tiger-shark"]),
    ]  # fmt: skip
    assert names(from_wordnet(database, leaves[:1], (), "t").roots) == ["dog"]


def test_classes_are_found_by_their_only_sense(database: WordNet) -> None:
    leaves = (Node("tench"), Node("unheard-of", label="Tabby Cat"))
    assert database.find(leaves) == [1440764, 2123045]
    with pytest.raises(
        TaxonomyError, match=r"'pet' \(n02121620 'true_cat' or n02083346 'canid'\), 'yeti' \(no such noun"
    ):
        database.find((*leaves, Node("pet"), Node("yeti")))


def test_ids_that_are_none(database: WordNet) -> None:
    for synset in ("n0144076", "v01440764", "01440764"):
        with pytest.raises(TaxonomyError, match="is no noun's"):
            database.find([Node("a", synset=synset)])
    for synset in ("n01440765", "n99999999", "n00000000"):  # inside a line, behind the file, in the licence
        with pytest.raises(TaxonomyError, match="does not make sense at byte"):
            from_wordnet(database, [Node("a", synset=synset)], (), "t")
    with pytest.raises(UsageError, match="no groups"):
        from_wordnet(database, LEAVES, (1,), "t")


@pytest.mark.parametrize(
    "line",
    [
        b"01440764 05 v 01 swim 0 000 | a verb\n",
        b"01440764 05 n zz tench 0 000 | count\n",
        b"01440764 05 n 01 tench 0 002 @ 01439121 n 0000 | a pointer is missing\n",
        b"01440764 05 n 00 000 | no words\n",
        b"01440764 05 n 01 \xff\xfe 0 000 | no text\n",
        b"01440764 05 n 01 tench 0 001 @ 01440764 n 0000 | above itself\n",
        b"01440764\n",
    ],
)
def test_a_damaged_database(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(TaxonomyError, match=r"does not make sense|have no top"):
        from_wordnet(WordNet(write(tmp_path, [line])), LEAVES[:1], (), "t")


def test_the_command(cli, database: WordNet, tmp_path: Path) -> None:
    folder, classes, output = write(tmp_path), tmp_path / "classes.yaml", tmp_path / "t.yaml"
    facts = "".join(f"  {name}: {{index: {at}, synset: {synset}}}\n" for at, (name, synset) in enumerate(IDS.items()))
    classes.write_text("tree:\n" + facts)
    arguments = ("taxonomy", "from-wordnet", folder, "--classes-of", classes, "-o", output)
    assert cli(*arguments).code == 0
    assert Taxonomy.load(output) == from_wordnet(database, LEAVES, (), "t")
    assert cli(*arguments).code == 9
    code, _, err = cli("taxonomy", "from-wordnet", tmp_path / "none", "-o", tmp_path / "u.yaml")
    assert code == 3
    assert "is no WordNet database" in err
