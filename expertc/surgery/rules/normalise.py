"""Pooling, reductions and normalisations: which axes they mix, and which they leave alone."""

from __future__ import annotations

from ..demand import Demand
from ..site import Answer, Rule, Site, Wanted, opaque


def _pool(site: Site, wanted: Wanted) -> Answer:
    """Channels alone, space as a whole."""
    item = wanted[0]
    if item is None or any(other is not None for other in wanted[1:]):
        return opaque(site, wanted, f"the indices of {site.op} are used")
    channels = item.only(1)
    return Answer((channels,), (channels,))


def _batch_norm(site: Site, wanted: Wanted) -> Answer:
    """Scale, bias, mean and variance go with the channel."""
    item = wanted[0]
    if item is None or any(other is not None for other in wanted[1:]):
        return opaque(site, wanted, "BatchNormalization with running statistics as outputs")
    channels = item.only(1)
    return Answer((channels, *(channels.moved({1: 0}),) * 4), (channels,))


def _instance_norm(site: Site, wanted: Wanted) -> Answer:
    item = wanted[0]
    if item is None:
        return opaque(site, wanted)
    channels = item.only(1)
    return Answer((channels, *(channels.moved({1: 0}),) * 2), (channels,))


def _layer_norm(site: Site, wanted: Wanted) -> Answer:
    """The axes from ``axis`` on are mixed, those before are free; scale and bias stay whole."""
    item, shape = wanted[0], site.shape(0)
    if item is None or shape is None or any(other is not None for other in wanted[1:]):
        return opaque(site, wanted, f"the statistics of {site.op} are used")
    axis = site.axis(int(site.attribute("axis", -1)), len(shape))
    free = item.without(*range(axis, len(shape)))
    asks: list[Demand | None] = [free]
    asks += [Demand(item.who) if site.has(i) else None for i in range(1, len(site.node.inputs))]
    # Which channels were wanted makes no difference to the normalisation; the consumer takes its part.
    return Answer(tuple(asks), (free,))


def _lp_norm(site: Site, wanted: Wanted) -> Answer:
    item, shape = wanted[0], site.shape(0)
    if item is None or shape is None:
        return opaque(site, wanted, f"the shape of {site.op} is not known")
    free = item.without(site.axis(int(site.attribute("axis", -1)), len(shape)))
    return Answer((free,), (free,))


def _softmax(site: Site, wanted: Wanted) -> Answer:
    """The axis is mixed. Before opset 13 it means "flatten from here", so all later axes are mixed too."""
    item, shape = wanted[0], site.shape(0)
    if item is None or shape is None:
        return opaque(site, wanted, f"the shape of {site.op} is not known")
    if site.opset >= 13:
        mixed: tuple[int, ...] = (site.axis(int(site.attribute("axis", -1)), len(shape)),)
    else:
        mixed = tuple(range(site.axis(int(site.attribute("axis", 1)), len(shape)), len(shape)))
    free = item.without(*mixed)
    return Answer((free,), (free,))


def _reduce(site: Site, wanted: Wanted) -> Answer:
    """Reduced axes whole, others the same; without ``keepdims`` the later axes move down."""
    item, shape = wanted[0], site.shape(0)
    if item is None or shape is None:
        return opaque(site, wanted, f"the shape of {site.op} is not known")
    axes = site.attribute("axes")
    if axes is None and site.has(1):
        given = site.constant(1)
        if given is None:
            return opaque(site, wanted, f"{site.op} with axes that are computed")
        axes = given.tolist()
    if not axes:
        if site.attribute("noop_with_empty_axes", 0):
            return Answer((item, *(Demand(item.who),) * (len(site.node.inputs) - 1)), (item,))
        axes = range(len(shape))
    reduced = {site.axis(int(axis), len(shape)) for axis in axes}
    if site.attribute("keepdims", 1):
        moved = {axis: axis for axis in range(len(shape)) if axis not in reduced}
    else:
        moved = dict(enumerate(axis for axis in range(len(shape)) if axis not in reduced))
    kept = item.only(*moved)
    second = Demand(item.who) if site.has(1) else None
    return Answer((kept.moved(moved), second)[: len(site.node.inputs)], (kept,))


def _index_along(site: Site, wanted: Wanted) -> Answer:
    """TopK, ArgMax, CumSum: the axis they run along is whole, others are free."""
    shape = site.shape(0)
    if shape is None:
        return opaque(site, wanted, f"the shape of {site.op} is not known")
    return opaque(site, wanted, f"{site.op} needs every class")


REDUCTIONS = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
).split()
POOLS = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")

RULES: dict[str, Rule] = {
    **{op: Rule(_pool) for op in POOLS},
    **{op: Rule(_reduce) for op in REDUCTIONS},
    **{op: Rule(_softmax) for op in ("Softmax", "LogSoftmax", "Hardmax")},
    **{op: Rule(_index_along) for op in ("TopK", "ArgMax", "ArgMin", "CumSum")},
    "BatchNormalization": Rule(_batch_norm),
    "InstanceNormalization": Rule(_instance_norm),
    "LayerNormalization": Rule(_layer_norm),
    "RMSNormalization": Rule(_layer_norm),
    "LpNormalization": Rule(_lp_norm),
}
