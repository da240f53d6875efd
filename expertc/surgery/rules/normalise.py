"""Pooling, reductions and normalisations: which axes they mix, and which they leave alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..demand import Demand, any_along, demand, full, join, product
from ..site import Answer, Draft, Rule, Site, Wanted, opaque


def _pool(site: Site, wanted: Wanted) -> Answer:
    """Channels alone, space as a whole."""
    item = wanted[0]
    if item is None or any(other is not None for other in wanted[1:]):
        return opaque(site, wanted, f"the indices of {site.op} are used")
    channels = item.only(1)
    return Answer((channels,), (channels,))


def _batch_norm(site: Site, wanted: Wanted) -> Answer:
    """Scale, bias, mean and variance go with the channel; so do statistics that are outputs."""
    first, *statistics = wanted
    parts = [None if item is None else item.moved({0: 1}) for item in statistics]
    channels = join((None if first is None else first.only(1), *parts))
    if channels is None:
        return opaque(site, wanted)
    vector = channels.moved({1: 0})
    kept = [None if item is None else vector for item in statistics]
    return Answer((channels, *(vector,) * 4), (None if first is None else channels, *kept))


def _instance_norm(site: Site, wanted: Wanted) -> Answer:
    item = wanted[0]
    if item is None:
        return opaque(site, wanted)
    channels = item.only(1)
    return Answer((channels, *(channels.moved({1: 0}),) * 2), (channels,))


def _group_norm(site: Site, wanted: Wanted) -> Answer:
    """Whole groups stay. Scale and bias are per group in opset 18, per channel from 21 on."""
    item, shape = wanted[0], site.shape(0)
    groups = int(site.attribute("num_groups"))
    if item is None or shape is None or not isinstance(shape[1], int) or shape[1] % groups:
        return opaque(site, wanted, "the shape of GroupNormalization is not known")
    size = shape[1] // groups
    touched = any_along(item.axis(1, shape[1]).reshape(groups, size), (1,))
    channels = demand(item.who, {1: product((touched, full(item.who, size)))})
    vector = demand(item.who, {0: touched})
    if site.opset >= 21 and channels is not None:
        vector = channels.moved({1: 0})
    return Answer((channels, vector, vector), (channels,))


def _group_norm_write(site: Site, answer: Answer, draft: Draft) -> None:
    kept, shape = answer.kept[0], site.shape(0)
    if kept is not None and shape is not None and isinstance(shape[1], int):
        groups = int(site.attribute("num_groups"))
        draft.attrs["num_groups"] = int(kept.size(1, shape[1]) or 0) // (shape[1] // groups)


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
    return _mixing(site, wanted, (int(site.attribute("axis", -1)),))


def _mean_variance_norm(site: Site, wanted: Wanted) -> Answer:
    return _mixing(site, wanted, site.attribute("axes", (0, 2, 3)))


def _local_response_norm(site: Site, wanted: Wanted) -> Answer:
    """A window over neighbouring channels: taking any out changes who the neighbours are."""
    return _mixing(site, wanted, (1,))


def _mixing(site: Site, wanted: Wanted, axes: Sequence[int]) -> Answer:
    """These axes are whole, the others free; further inputs are whole."""
    item, shape = join(wanted), site.shape(0)
    if item is None or shape is None:
        return opaque(site, wanted, f"the shape of {site.op} is not known")
    free = item.without(*(site.axis(int(axis), len(shape)) for axis in axes))
    rest = (Demand(item.who) if site.has(i) else None for i in range(1, len(site.node.inputs)))
    return Answer((free, *rest), tuple(None if want is None else free for want in wanted))


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
    return _reduced(site, item, {site.axis(int(axis), len(shape)) for axis in axes}, len(shape))


def _reduced(site: Site, item: Demand, reduced: Collection[int], rank: int) -> Answer:
    stay = [axis for axis in range(rank) if axis not in reduced]
    moved = {axis: axis for axis in stay} if site.attribute("keepdims", 1) else dict(enumerate(stay))
    kept = item.only(*moved)
    second = Demand(item.who) if site.has(1) else None
    return Answer((kept.moved(moved), second)[: len(site.node.inputs)], (kept,))


def _arg(site: Site, wanted: Wanted) -> Answer:
    """ArgMax, ArgMin: a reduction over one axis."""
    item, shape = wanted[0], site.shape(0)
    if item is None or shape is None:
        return opaque(site, wanted, f"the shape of {site.op} is not known")
    return _reduced(site, item, {site.axis(int(site.attribute("axis", 0)), len(shape))}, len(shape))


def _top(site: Site, wanted: Wanted) -> Answer:
    return _mixing(site, wanted, (int(site.attribute("axis", -1)),))


def _running_sum(site: Site, wanted: Wanted) -> Answer:
    axis = site.constant(1)
    if axis is None:
        return opaque(site, wanted, "CumSum along an axis that is computed")
    return _mixing(site, wanted, axis.reshape(-1).tolist())


def _everything(site: Site, wanted: Wanted) -> Answer:
    """NonZero, Unique: how many there are depends on every element."""
    return opaque(site, wanted, f"{site.op} needs every element")


REDUCTIONS = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
).split()
POOLS = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")

RULES: dict[str, Rule] = {
    **{op: Rule(_pool, plain=True) for op in POOLS},
    **{op: Rule(_reduce) for op in REDUCTIONS},
    **{op: Rule(_softmax) for op in ("Softmax", "LogSoftmax", "Hardmax")},
    **{op: Rule(_arg) for op in ("ArgMax", "ArgMin")},
    **{op: Rule(_everything) for op in ("NonZero", "Unique")},
    "TopK": Rule(_top),
    "CumSum": Rule(_running_sum),
    "BatchNormalization": Rule(_batch_norm, plain=True),
    "InstanceNormalization": Rule(_instance_norm),
    "LayerNormalization": Rule(_layer_norm),
    "RMSNormalization": Rule(_layer_norm),
    "GroupNormalization": Rule(_group_norm, _group_norm_write),
    "LpNormalization": Rule(_lp_norm),
    "MeanVarianceNormalization": Rule(_mean_variance_norm),
    "LRN": Rule(_local_response_norm),
}
