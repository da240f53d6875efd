"""From a matrix to a class tree, and which matrices are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertc.errors import DataError
from expertc.hierarchy import Level, checked, confusion_probabilities, from_confusion
from expertc.taxonomy import MAX_NAME, Node, Taxonomy

PETS = tuple(Node(name, label=name.title()) for name in ("cat", "truck", "dog", "wolf", "car", "frog"))


def confused(*pairs: tuple[int, int, float]) -> np.ndarray:
    matrix = np.eye(len(PETS))
    for a, b, share in pairs:
        matrix[a, b] += share
        matrix[a, a] -= share
    return matrix


SEEN = confused((0, 2, 0.1), (2, 3, 0.4), (3, 0, 0.1), (1, 4, 0.3))


def names(nodes: tuple[Node, ...]) -> list:
    return [node.name if node.is_class else (node.name, names(node.children)) for node in nodes]


def test_a_level_of_groups_and_classes_on_their_own() -> None:
    tree = from_confusion(SEEN, PETS, [Level(0.05, 50)], "pets")
    assert names(tree.roots) == [
        "frog", ("truck-and-1-more", ["truck", "car"]), ("cat-and-2-more", ["cat", "dog", "wolf"]),
    ]  # fmt: skip
    assert tree.levels == ("group", "class")
    assert tree.classes == tuple(leaf.name for leaf in PETS)  # the model's order, whatever the groups'
    assert tree.leaves[3].label == "Wolf"


def test_groups_are_divided_again_by_themselves() -> None:
    tree = from_confusion(SEEN, PETS, [Level(0.05, 50), Level(0.2, 50)], "pets")
    assert names(tree.roots) == [
        "frog",
        ("truck-and-1-more", ["truck", "car"]),
        ("cat-and-2-more", ["cat", ("dog-and-1-more", ["dog", "wolf"])]),
    ]
    assert tree.levels == ("group-1", "group-2", "class")
    assert (
        names(from_confusion(SEEN, PETS, [Level(0.05, 50), Level(0.05, 50)], "pets").roots)[1:]
        == names(from_confusion(SEEN, PETS, [Level(0.05, 50)], "pets").roots)[1:]
    )  # nothing to divide: no category with one child


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**32 - 1), st.lists(st.integers(2, 8), min_size=1, max_size=4))
def test_any_depth_is_a_taxonomy_that_can_be_read_back(count: int, seed: int, sizes: list[int]) -> None:
    """Names are unique, or ``Taxonomy`` would refuse them: also for classes that are called like groups or are long."""
    matrix = np.random.default_rng(seed).dirichlet(np.full(count, 0.3), count)
    odd = ("a", "a-and-1-more", "a-and-2-more", "a-and-1-more-2", *("x" * (MAX_NAME - 1) + end for end in "yz"))
    leaves = tuple(Node((*odd, *"bcdefg")[at]) for at in range(count))
    levels = [Level(0.0, size) for size in sorted(sizes, reverse=True)]
    tree = from_confusion(matrix, leaves, levels, "t")
    assert Taxonomy.from_mapping(tree.to_mapping()) == tree
    assert sorted(tree.classes) == sorted(leaf.name for leaf in leaves)
    assert all(len(node.children) != 1 for root in tree.roots for node in root.walk())
    assert tree.depth <= len(levels) + 1


def test_the_matrix_is_the_mean_of_the_probabilities_of_each_class() -> None:
    truth = np.array([1, 0, 1, 1])
    given_ = np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
    assert confusion_probabilities(truth, given_, ("a", "b")) == pytest.approx(np.array([[1, 0], [0.25, 0.75]]))


def test_a_class_without_photos_is_unknown() -> None:
    with pytest.raises(DataError, match="no photo of 'b' and 1 more"):
        confusion_probabilities(np.array([0]), np.array([[1.0, 0, 0]]), ("a", "b", "c"))


@pytest.mark.parametrize(
    ("row", "said"),
    [([0.5, 0.4], "sum to 0.9"), ([1.5, -0.5], "no distribution"), ([np.nan, 1], "nan"), ([0.5, 0.5, 0], "shape")],
)
def test_rows_that_are_no_distribution_are_refused(row: list[float], said: str) -> None:
    with pytest.raises(DataError, match=said):
        checked(np.array([row, row]), ("a", "b"))
