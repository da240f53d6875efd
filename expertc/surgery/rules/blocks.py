"""Operators that move or resample pixels, channel by channel: DepthToSpace, SpaceToDepth, Resize."""

from __future__ import annotations

from ...graph import Shape
from ..demand import Demand, demand, full, product
from ..site import Answer, Draft, Rule, Site, Wanted, opaque, readable
from .index import sizes_of
from .layout import sides
from .sizes import target_name


def _depth_to_space(site: Site, wanted: Wanted) -> Answer:
    """Channel c is made of one channel per pixel of a block: ``pixel * C + c`` (DCR) or ``c * b * b + pixel`` (CRD)."""
    item, out = wanted[0], site.out_shape()
    if item is None or out is None or not isinstance(out[1], int):
        return opaque(site, wanted, "the shape of DepthToSpace is not known")
    channels = item.axis(1, out[1])
    pixels = full(item.who, int(site.attribute("blocksize")) ** 2)
    by_column = site.attribute("mode", "DCR") in ("CRD", b"CRD")
    return Answer(
        (demand(item.who, {1: product((channels, pixels) if by_column else (pixels, channels))}),), (item.only(1),)
    )


def _space_to_depth(site: Site, wanted: Wanted) -> Answer:
    """Channel ``pixel * C + c`` of the output is one pixel of channel c: every pixel of a block stays."""
    item, shape = wanted[0], site.shape(0)
    if item is None or shape is None or not isinstance(shape[1], int):
        return opaque(site, wanted, "the shape of SpaceToDepth is not known")
    pixels = int(site.attribute("blocksize")) ** 2
    channels = sides(item.axis(1, pixels * shape[1]), (pixels, shape[1]))[1]
    kept = demand(item.who, {1: product((full(item.who, pixels), channels))})
    return Answer((demand(item.who, {1: channels}),), (kept,))


# -- Resize ------------------------------------------------------------------------------------------------------------


def _untouched(site: Site) -> set[int] | None:
    """The axes that are not resampled; None if that is not known."""
    shape = site.shape(0)
    if shape is None:
        return None
    whole = set(range(len(shape)))
    axes = site.attribute("axes")
    named = [site.axis(int(axis), len(shape)) for axis in axes] if axes is not None else list(range(len(shape)))
    if site.attribute("coordinate_transformation_mode") in ("tf_crop_and_resize", b"tf_crop_and_resize"):
        return whole - set(named)
    if site.op == "Upsample" and site.opset < 9:
        scales = site.attribute("scales")
    else:
        scales = site.constant(1 if site.op == "Upsample" or site.opset < 11 else 2)
    if scales is not None and len(scales):
        # An axis whose size happens to stay, such as 4 * 1.2, is still resampled.
        return whole - {axis for axis, scale in zip(named, scales, strict=True) if scale != 1}
    sizes = _sizes(site)
    if sizes is not None and site.attribute("keep_aspect_ratio_policy", "stretch") in ("stretch", b"stretch"):
        return whole - {a for a, size in zip(named, sizes, strict=True) if shape[a] != size or size is None}
    return whole - set(named)


def _sizes(site: Site) -> Shape | None:
    """The sizes a Resize is to make, of its ``axes`` or of all; None if there are none or they are not known."""
    return sizes_of(site.model, site.inputs[3]) if site.has(3) else None


def _resize(site: Site, wanted: Wanted) -> Answer:
    """Axes that are not resampled pass through; ``sizes``, which spells them out, is written anew."""
    item, untouched = wanted[0], _untouched(site)
    if item is None or untouched is None:
        return opaque(site, wanted, f"the size of {site.op} is not known")
    kept = item.only(*untouched)
    asks: list[Demand | None] = [kept]
    asks += [Demand(item.who) if site.has(i) else None for i in range(1, len(site.node.inputs))]
    if kept.marks and site.has(3):
        if not readable(site.model, _sizes(site) or (None,)):
            return opaque(site, wanted, f"{site.op} to a size that is computed")
        asks[3] = None
    return Answer(tuple(asks), (kept,))


def _resize_write(site: Site, answer: Answer, draft: Draft) -> None:
    kept, sizes, shape = answer.kept[0], _sizes(site), site.shape(0)
    if kept is None or sizes is None or shape is None or not kept.marks:
        return
    axes = site.attribute("axes", range(len(shape)))
    dims = tuple(kept.size(site.axis(int(axis), len(shape)), size) for axis, size in zip(axes, sizes, strict=True))
    draft.inputs[3] = draft.make.sizes(dims, target_name(site, 3))


RULES: dict[str, Rule] = {
    "DepthToSpace": Rule(_depth_to_space),
    "SpaceToDepth": Rule(_space_to_depth),
    "Resize": Rule(_resize, _resize_write),
    "Upsample": Rule(_resize, _resize_write),
}
