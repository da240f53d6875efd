"""The feature maps of the branches: for every set of classes, the last picture-like tensor that only they need.

Found on the graph, so in anybody's model. Where the branches are groups of one convolution, a tensor's channels belong
to different sets, and each set gets its own channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onnx import TensorProto

from ..card import Card
from ..graph import Model, Node, Shape
from .owners import members, needs

Axes = tuple[int, int]
"""Which axes of a tensor are the picture's height and width."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

# By their definition axis 1 of what they make are channels and the picture follows.
_CHANNELS_FIRST = frozenset((
    "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool", "GlobalLpPool",
    "GlobalMaxPool", "InstanceNormalization", "LpPool", "MaxPool", "SpaceToDepth",
))  # fmt: skip


@dataclass(frozen=True)
class FeatureMap:
    """The channels ``channels`` of ``tensor``, whose ``shape`` is that for one call, belong to exactly ``indices``.

    ``name`` is what the taxonomy calls these classes; ``channel`` is the axis of the channels and ``axes`` are those of
    height and width, of four.
    """

    name: str
    indices: tuple[int, ...]
    tensor: str
    shape: tuple[int, ...]
    channel: int
    axes: Axes
    channels: tuple[int, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in numbers of values."""
        return self.shape[self.axes[0]], self.shape[self.axes[1]]


Maps = Mapping[frozenset[int], FeatureMap]
"""By the rows of the classes."""


def find_maps(model: Model, card: Card) -> Maps:
    """The last map of larger than 1 x 1 of every branch of ``model``, whose image input has a known shape.

    A branch without one (a head, a vision transformer's) is not there; neither is the trunk.
    """
    everyone = (1 << len(card.classes)) - 1
    found: dict[int, FeatureMap] = {}
    flow, pictures = needs(model, card), picture_axes(model, card)
    batch = model.inputs[card.input][0]
    for node in reversed(model.nodes):
        for tensor in node.outputs:
            item, shape = flow.demands.get(tensor.name), _numbers(model.shapes.get(tensor.name, ()))
            axes = pictures.get(tensor.name, (0, 0))
            if item is None or len(shape) != 4 or 0 in axes or shape[0] != batch or shape[axes[0]] * shape[axes[1]] < 2:
                continue
            if model.types.get(tensor.name) not in _FLOATS:
                continue
            [channel] = {1, 2, 3} - set(axes)
            owned = defaultdict(list)
            for position, who in enumerate(item.axis(channel, shape[channel]).tolist()):
                owned[who].append(position)
            for who in owned.keys() - {0, everyone} - found.keys():
                indices = tuple(members(who))
                name = branch_name(card, indices)
                found[who] = FeatureMap(name, indices, tensor.name, shape, channel, axes, tuple(owned[who]))
    return {frozenset(one.indices): one for one in found.values()}


def chain(maps: Maps, indices: Iterable[int]) -> tuple[FeatureMap, ...]:
    """The maps that the classes ``indices`` have in common, from the largest branch down to their own.

    Of branches that overlap without one holding the other, the first counts.
    """
    wanted = frozenset(indices)
    found: list[FeatureMap] = []
    for who in sorted((who for who in maps if wanted <= who), key=lambda who: (-len(who), sorted(who))):
        if not found or who < frozenset(found[-1].indices):
            found.append(maps[who])
    return tuple(found)


def picture_axes(model: Model, card: Card) -> dict[str, Axes]:
    """Which tensors are still laid out like the picture, and along which axes: followed forward from the image."""
    layout = "NCHW" if card.preprocess is None else card.preprocess.layout
    found: dict[str, Axes] = {card.input: (layout.index("H"), layout.index("W"))}
    for node in model.nodes:
        for tensor in node.outputs:
            axes = _axes(node, model.shapes, model.shapes.get(tensor.name, ()), found)
            if axes is not None:
                found[tensor.name] = axes
    return found


def _axes(node: Node, shapes: Mapping[str, Shape], out: Shape, found: Mapping[str, Axes]) -> Axes | None:
    if node.op in _CHANNELS_FIRST:
        return (2, 3) if len(out) == 4 else None
    sources = [tensor.name for tensor in node.inputs if tensor.name in found]
    if node.op in ("Reshape", "Transpose"):
        if not sources or node.inputs[0].name != sources[0]:
            return None
        axes, shape = found[sources[0]], shapes.get(sources[0], ())
        if node.op == "Transpose":
            order = list(node.attrs.get("perm", range(len(shape))[::-1]))
            return order.index(axes[0]), order.index(axes[1])
        last = (len(out) - 2, len(out) - 1)
        if axes == (len(shape) - 2, len(shape) - 1) and len(out) > 2 and out[-2:] == shape[-2:]:
            return last
        return axes if out[: axes[1] + 1] == shape[: axes[1] + 1] else None
    return next((found[name] for name in sources if len(shapes.get(name, ())) == len(out)), None)


def _numbers(shape: Shape) -> tuple[int, ...]:
    """A shape in numbers, () if there are others."""
    numbers = tuple(dim for dim in shape if isinstance(dim, int))
    return numbers if len(numbers) == len(shape) else ()


def branch_name(card: Card, indices: tuple[int, ...]) -> str:
    """The taxonomy's name for a set of classes, or how many they are."""
    node = card.taxonomy.owner(indices)
    return f"{len(indices)} classes" if node is None else node.name
