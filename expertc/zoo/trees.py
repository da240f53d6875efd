"""Class trees of the published networks, as far as their counts tell; the class names are numbers.

Sources and what is ours of it: the trees were never published. The numbers of nodes follow from the published counts;
where several fit, the plainest was taken.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..taxonomy import Node, Taxonomy


def flat(classes: int) -> Taxonomy:
    """``classes`` classes without a tree."""
    return Taxonomy.flat([f"class-{i}" for i in range(classes)])


def hlfp_nested(classes: int) -> Taxonomy:
    """Super-classes of HLFP-nested: 68 for 100 classes, 558 for 1000, pairs for any other number.

    Of the 68, the first 52 touch the first 80 classes and 17 the last 20, so one spans both.
    """
    if classes == 100:
        return two_levels([*even(79, 51), 2, *even(19, 16)])
    return two_levels(even(classes, 558 if classes == 1000 else (classes + 1) // 2))


def nhl_resnet50(classes: int) -> Taxonomy:
    """ResNet50-NHL: for 100 classes 4 and 34 nodes, of which one and 15 lead to the expert's 20 classes, the first."""
    if classes != 100:
        return flat(classes)
    return three_levels([[2] * 5 + [1] * 10, [5, 5, 5, 4, 4, 4], [5, 5, 4, 4, 4, 4], [4, 4, 4, 4, 4, 4, 3]])


def nhl_convnextv2_tiny(classes: int) -> Taxonomy:
    """ConvNeXtV2-tiny-NHL: for 1000 classes 51 and 312 nodes, the first of which lead to the expert's 5 classes."""
    if classes != 1000:
        return flat(classes)
    sizes = iter([5, *even(995, 311)])
    return three_levels([[next(sizes) for _ in range(groups)] for groups in even(312, 51)])


def hiernet(classes: int) -> Taxonomy:
    """HierNet: 7 groups of 100 classes, as the paper's 6 to 8; as many classes in a group for any other number."""
    groups = round(classes / (100 / 7))
    return two_levels(even(classes, groups)) if groups > 1 else flat(classes)


def hbn(classes: int) -> Taxonomy:
    """Gran-HBN and its like: categories of five classes, as CIFAR-100's twenty; of four where it does not divide."""
    return two_levels(even(classes, (classes + 4) // 5))


def even(total: int, parts: int) -> list[int]:
    """``total`` in ``parts`` that differ by one at most, the larger ones first."""
    return [total // parts + (i < total % parts) for i in range(parts)]


def two_levels(sizes: Sequence[int]) -> Taxonomy:
    """A group per number, with that many classes."""
    return three_levels([sizes], top=False)


def three_levels(sizes: Sequence[Sequence[int]], top: bool = True) -> Taxonomy:
    """A root per list, in it a group per number, in it that many classes; ``top=False``: without the roots."""
    number, group, roots = 0, 0, []
    for root, groups in enumerate(sizes):
        nodes = []
        for size in groups:
            leaves = tuple(Node(f"class-{number + i}", index=number + i) for i in range(size))
            nodes.append(Node(f"group-{group}", leaves))
            number, group = number + size, group + 1
        roots += [Node(f"root-{root}", tuple(nodes))] if top else nodes
    return Taxonomy("published", tuple(roots))
