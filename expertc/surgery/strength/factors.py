"""Factors of a tensor that are smaller than it are multiplied together before they are multiplied onto it.

``x * s * w`` is ``x * (s * w)``, and ``x + x * s`` is ``x * (s + 1)``: passes over a large tensor become passes over a
small one. The response normalisation of ConvNeXt V2 (Woo et al. 2023, section 3) is written as the longer of both.
"""

from __future__ import annotations

import numpy as np

from ...graph import Node, Tensor
from .place import STANDARD, Place, last


def factored(place: Place, node: Node) -> list[Node] | None:
    """What stands for ``node``, the last of a product or a sum of a tensor and its own product; None if it is none."""
    if node.domain not in STANDARD or node.op not in ("Add", "Mul") or not place.is_single(node.outputs[0]):
        return None
    if node.op == "Add":
        return _sum(place, node)
    parts, inner = _factors(place, node)
    large = [part for part in parts if not _is_smaller(place, part, node.outputs[0])]
    small = [part for part in parts if _is_smaller(place, part, node.outputs[0])]
    reader = _reader(place, node)
    if len(large) != 1 or len(small) < 2 or (reader is not None and reader.op == "Mul"):
        return None  # the next Mul sees the whole product
    if reader is not None and reader.op == "Add" and large[0].name in {tensor.name for tensor in reader.inputs}:
        return None  # and that Add a sum of it
    made = _product(place, node, small)
    place.gone |= set(inner)
    return [*made, last(node, place.emit(node, "Mul", "scaled", [large[0], made[-1].outputs[0]]))]


def _sum(place: Place, node: Node) -> list[Node] | None:
    for own, other in (node.inputs, node.inputs[::-1]):
        maker = place.sole_maker(other)
        if maker is None or maker.op != "Mul" or maker.domain not in STANDARD:
            continue
        parts, inner = _factors(place, maker)
        rest = [part for part in parts if part.name != own.name]
        if len(rest) != len(parts) - 1 or not all(_is_smaller(place, part, node.outputs[0]) for part in rest):
            continue
        made = _product(place, node, rest)
        one = place.constant(node, "one", np.ones((), np.float32))
        more = place.emit(node, "Add", "more", [made[-1].outputs[0] if made else rest[0], one])
        place.gone |= {maker, *inner}
        return [*made, more, last(node, place.emit(node, "Mul", "scaled", [own, more.outputs[0]]))]
    return None


def _factors(place: Place, node: Node) -> tuple[list[Tensor], list[Node]]:
    """What a Mul multiplies, through those as large Muls before it that nobody else reads, and these."""
    parts: list[Tensor] = []
    inner: list[Node] = []
    for tensor in node.inputs:
        maker = place.sole_maker(tensor)
        large = maker is not None and not _is_smaller(place, tensor, node.outputs[0])
        if maker is None or not large or maker.op != "Mul" or maker.domain not in STANDARD:
            parts.append(tensor)
            continue
        more, below = _factors(place, maker)
        parts += more
        inner += [maker, *below]
    return parts, inner


def _product(place: Place, like: Node, parts: list[Tensor]) -> list[Node]:
    made: list[Node] = []
    product = parts[0]
    for part in parts[1:]:
        made.append(place.emit(like, "Mul", "factor", [product, part]))
        product = made[-1].outputs[0]
    return made


def _reader(place: Place, node: Node) -> Node | None:
    """The only node that reads what ``node`` makes."""
    readers = place.model.consumers.get(node.outputs[0].name, ())
    if len(readers) != 1 or place.sole_maker(node.outputs[0]) is None:
        return None
    return place.model.nodes[next(iter(readers))]


def _is_smaller(place: Place, part: Tensor, whole: Tensor) -> bool:
    """Whether ``part`` is surely spread over ``whole``: shorter along some axis, longer along none."""
    own, full = place.shape(part), place.shape(whole)
    if own is None or full is None or len(own) > len(full):
        return False
    pairs = list(zip((1,) * (len(full) - len(own)) + own, full, strict=True))
    return all(a == b or a == 1 for a, b in pairs) and any(a == 1 and isinstance(b, int) and b > 1 for a, b in pairs)
