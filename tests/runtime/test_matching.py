from __future__ import annotations

import pytest

from expertc.runtime.matching import match_classes
from expertc.taxonomy import Taxonomy

TREE = Taxonomy.from_mapping(
    {
        "tree": {
            "fishes": {
                "rays": {"index": 0, "label": "Sea Rays"},
                "sharks": {"index": 1, "label": "Sharks"},
                "eels": {"index": 2, "synset": "n02526121"},
            }
        }
    }
)


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("rays", 0),
        ("Rays", 0),
        ("RAYS ", 0),
        ("Sea Rays", 0),
        ("sea_rays", 0),
        ("SEA-RAYS", 0),
        ("sharks", 1),
        ("eels", 2),
        ("n02526121", 2),
        ("N02526121", 2),
        ("fishes", None),
        ("ray", 0),
        ("fishes/rays", 0),
        ("whales/rays", None),
        ("", None),
    ],
)
def test_names_labels_and_spellings(name: str, index: int | None) -> None:
    assert match_classes([name], TREE.classes, TREE).get(name) == index


def test_without_a_taxonomy_labels_are_not_known() -> None:
    assert match_classes(["Sea Rays", "Sharks"], TREE.classes) == {"Sharks": 1}


def test_an_exact_name_comes_first() -> None:
    labels = ["Seal", "seal", "sea_lion"]
    assert match_classes(["seal", "Seal", "Sea Lion"], labels) == {"seal": 1, "Seal": 0, "Sea Lion": 2}


def test_a_spelling_that_could_be_two_classes_is_none() -> None:
    assert match_classes(["SEAL", "sea lion"], ["Seal", "seal", "Sea-Lion"]) == {"sea lion": 2}


def test_a_label_that_two_classes_share_is_none() -> None:
    tree = {"a": {"index": 0, "label": "Crane"}, "b": {"index": 1, "label": "crane"}, "c": {"index": 2, "label": "Bee"}}
    taxonomy = Taxonomy.from_mapping({"tree": tree})
    assert match_classes(["CRANE", "bee"], taxonomy.classes, taxonomy) == {"bee": 2}


def test_a_name_goes_before_the_label_of_another_class() -> None:
    taxonomy = Taxonomy.from_mapping({"tree": {"a": {"index": 0, "label": "b"}, "b": {"index": 1, "label": "a"}}})
    assert match_classes(["a", "b"], taxonomy.classes, taxonomy) == {"a": 0, "b": 1}


def test_a_taxonomy_larger_than_the_model() -> None:
    """The tree of the full model, the labels of an expert: positions are the expert's."""
    assert match_classes(["Sea Rays", "Sharks", "eels"], ["sharks", "rays"], TREE) == {"Sea Rays": 1, "Sharks": 0}


def test_two_folders_may_be_one_class() -> None:
    assert match_classes(["sharks", "Sharks"], ["sharks"]) == {"sharks": 0, "Sharks": 0}
