"""Operators that speak about sizes: Shape, Size, ConstantOfShape, Expand.

The expert's sizes differ from the full model's only along axes that were cut, and those are numbers; a symbol is never
cut. So a vector of sizes can always be written anew: numbers as they are, symbols read off the graph input.
"""

from __future__ import annotations

from ...graph import Dim, Shape
from ..demand import Demand
from ..site import Answer, Draft, Rule, Site, Wanted, opaque, readable


def sizes_read(site: Site, answer: Answer | None) -> Shape | None:
    """What a Shape measures, entry by entry, if nothing of its input is needed to know it."""
    return None if site.op != "Shape" or answer is None or answer.asks[0] is not None else _measured(site)


def _measured(site: Site) -> Shape | None:
    shape = site.shape(0)
    return None if shape is None else shape[site.attribute("start", 0) : site.attribute("end", len(shape))]


def _shape(site: Site, wanted: Wanted) -> Answer:
    """Sizes that are wanted and known are not measured on a tensor that may be cut."""
    item, dims = wanted[0], _measured(site)
    if item is None or dims is None:
        return opaque(site, wanted, "Shape of a tensor of unknown shape")
    chosen = item.indices(0)
    used = dims if chosen is None else tuple(dims[i] for i in chosen)
    if not readable(site.model, used):
        return opaque(site, wanted, "Shape of a tensor whose sizes cannot be told")
    return Answer((None,), (item,))


def _shape_write(site: Site, answer: Answer, draft: Draft) -> None:
    dims, kept = sizes_read(site, answer), answer.kept[0]  # read by name from a subgraph, or it would not be written
    if dims is not None and kept is not None:
        chosen = kept.indices(0)
        known = dims if chosen is None else tuple(dims[i] for i in chosen)
        draft.inputs, draft.alias = [draft.make.sizes(known, draft.outputs[0])], 0


def _size(site: Site, wanted: Wanted) -> Answer:
    """The number of elements of a tensor whose size is no constant: it must not shrink."""
    return opaque(site, wanted)


def _filled(site: Site, wanted: Wanted) -> Answer:
    """ConstantOfShape: fewer rows of the same value."""
    item, out = wanted[0], site.out_shape()
    if item is None or out is None or not item.marks:
        return opaque(site, wanted, "ConstantOfShape of a shape that is not known")
    if not readable(site.model, out):
        return opaque(site, wanted, "ConstantOfShape of a shape that is computed")
    return Answer((None,), (item,))


def _filled_write(site: Site, answer: Answer, draft: Draft) -> None:
    out, kept = site.out_shape(), answer.kept[0]
    if out is not None and kept is not None and answer.asks[0] is None:
        dims = tuple(kept.size(axis, dim) for axis, dim in enumerate(out))
        draft.inputs[0] = draft.make.sizes(dims, target_name(site, 0))


def _expand(site: Site, wanted: Wanted) -> Answer:
    """As broadcasting; the target is written anew. One that changes nothing goes, with whatever computed its target."""
    item, out, shape = wanted[0], site.out_shape(), site.shape(0)
    if item is None or out is None or shape is None:
        return opaque(site, wanted, "the shape of Expand is not known")
    if shape == out and None not in out:
        return Answer((item, None), (item,))
    if not item.marks:
        return opaque(site, wanted)
    if not readable(site.model, _target(out, shape, item)):
        return opaque(site, wanted, "Expand has a target that is computed")
    offset = len(out) - len(shape)
    axes = {a: a - offset for a in item.marks if a >= offset and shape[a - offset] == len(item.marks[a])}
    return Answer((item.moved(axes), None), (item,))


def _target(out: Shape, shape: Shape, kept: Demand) -> Shape:
    """The target: a symbol that the input has already need not be named, 1 leaves it as it is."""
    given: Shape = (1,) * (len(out) - len(shape)) + tuple(shape)

    def size(axis: int, dim: Dim) -> Dim:
        return 1 if isinstance(dim, str) and dim == given[axis] else kept.size(axis, dim)

    return tuple(size(axis, dim) for axis, dim in enumerate(out))


def _expand_write(site: Site, answer: Answer, draft: Draft) -> None:
    kept, out, shape = answer.kept[0], site.out_shape(), site.shape(0)
    if shape == out:
        draft.alias = 0
    elif kept is not None and out is not None and shape is not None and answer.asks[1] is None:
        draft.inputs[1] = draft.make.sizes(_target(out, shape, kept), target_name(site, 1))


def target_name(site: Site, position: int) -> str:
    """What a vector of sizes that is written anew is called: as the initializer it takes the place of, if any."""
    given = site.inputs[position]
    if given in site.model.constants:
        return given
    return f"{site.node.name or site.node.outputs[0].name}.{position}"


RULES: dict[str, Rule] = {
    "Shape": Rule(_shape, _shape_write),
    "Size": Rule(_size),
    "ConstantOfShape": Rule(_filled, _filled_write),
    "Expand": Rule(_expand, _expand_write),
}
