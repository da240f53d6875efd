"""What the branches of a model see in one photo: their last feature maps, each averaged over its channels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from ..backends.cpu import open_session
from ..card import Card
from ..errors import CardError, ModelError, UnsupportedError, UsageError
from ..graph import Model, Variable, pack, volume, with_input
from ..runtime.preprocess import apply, view
from ..runtime.scores import probabilities
from ..selection import Selection
from ..source import Source
from ..surgery.maps import FeatureMap, Maps, branch_name, chain, find_maps
from ..surgery.outputs import score_source
from ..text import shown

DEFAULT_BRANCHES = 8
MAX_BRANCHES = 24
MAX_VALUES = 2**26  # numbers asked of a graph beyond its outputs: 256 MiB in float32
MAX_LEVELS = 6  # of a tree that is deeper, the lowest

Heat = np.ndarray
"""A map ``[height, width]``, float64."""


@dataclass(frozen=True)
class Column:
    """A branch that is shown: its classes, their probability together, and a map per level from the top.

    There may be none.
    """

    name: str
    indices: tuple[int, ...]
    probability: float
    maps: tuple[FeatureMap, ...]
    heats: tuple[Heat, ...]


@dataclass(frozen=True)
class Features:
    """``photo`` is what the model sees; columns in the order in which they were asked for, or best first."""

    photo: Image.Image
    columns: tuple[Column, ...]

    @property
    def rows(self) -> int:
        """Levels that are shown."""
        return max(len(column.maps) for column in self.columns)

    def cell(self, row: int, column: Column) -> tuple[FeatureMap, Heat] | None:
        """What stands in a row: levels from the top, but a class's own map always in the last row."""
        levels = list(zip(column.maps, column.heats, strict=True))
        missing: list[tuple[FeatureMap, Heat] | None] = [None] * (self.rows - len(levels))
        own = bool(levels) and len(column.maps[-1].indices) == 1
        return [*levels[:-1], *missing, levels[-1]][row] if own else [*levels, *missing][row]

    def scale(self, row: int) -> tuple[float, float]:
        """The least and the greatest value of a row; a map without negative values begins at 0."""
        cells = [self.cell(row, column) for column in self.columns]
        values = [cell[1] for cell in cells if cell is not None]
        return min(0.0, *(float(heat.min()) for heat in values)), max(float(heat.max()) for heat in values)


def features(source: Source, image: Image.Image, branches: Selection | None = None) -> Features:
    """The feature maps of ``branches`` (default: of the eight most probable classes) for an RGB image.

    Raises ``CardError`` if the model does not say how images become its input, ``UsageError`` for too many branches,
    ``UnsupportedError`` if it has no branch with a feature map or they are too large, ``ModelError`` if it cannot run.
    """
    card = source.card
    if card.preprocess is None:
        raise CardError("The model does not say how images become its input.", "Give --preprocess.")
    tensor = apply(image, card.preprocess)
    size = source.model.inputs[card.input][0]
    batch = np.repeat(tensor[None], size if isinstance(size, int) else 1, axis=0)
    model = with_input(source.model, card.input, batch.shape)
    maps = find_maps(model, card)
    if not maps:
        raise UnsupportedError(
            "The model has no branch with a feature map: what only some classes need of it is not laid out like a "
            "picture.",
            "Take a model with convolutional branches, such as expertc's own.",
        )
    chances = _chances(model, card, batch)
    wanted = _best(maps, chances) if branches is None else _asked(maps, branches)
    chains = [chain(maps, indices)[-MAX_LEVELS:] for indices in wanted]
    if not any(chains):
        raise UnsupportedError(
            "The branches asked for have no feature map of their own.", "Leave out --branches, or name other classes."
        )
    shown_maps = list(dict.fromkeys(one for maps_of in chains for one in maps_of))
    heats = dict(zip(shown_maps, _heats(model, shown_maps, batch), strict=True))
    independent = card.outputs[0].kind == "scores"
    columns = []
    for indices, levels in zip(wanted, chains, strict=True):
        together = chances[list(indices)]
        chance = float(together.max() if independent else together.sum())
        columns.append(Column(branch_name(card, indices), indices, chance, levels, tuple(heats[one] for one in levels)))
    return Features(view(image, card.preprocess), tuple(columns))


def _best(maps: Maps, chances: np.ndarray) -> list[tuple[int, ...]]:
    ranked = np.argsort(-chances, kind="stable").tolist()
    return list(islice(((index,) for index in ranked if chain(maps, (index,))), DEFAULT_BRANCHES))


def _asked(maps: Maps, branches: Selection) -> list[tuple[int, ...]]:
    """A column per item; one per class for an item that is no branch."""
    found: dict[tuple[int, ...], None] = {}
    for part in branches.parts:
        whole = frozenset(part) in maps
        found.update(dict.fromkeys([tuple(sorted(part))] if whole else [(index,) for index in part]))
    if len(found) > MAX_BRANCHES:
        raise UsageError(f"{len(found)} branches do not fit into one picture.", f"Name at most {MAX_BRANCHES}.")
    return list(found)


def _chances(model: Model, card: Card, batch: np.ndarray) -> np.ndarray:
    """The probability of every class ``[classes]``, float64."""
    output = card.outputs[0]
    name = score_source(model, output.name)
    scores = _run(model, [name], batch)[name]
    if scores.ndim != 2 or scores.shape[output.axis] != len(card.classes):
        raise ModelError(f"The model gives scores of shape {list(scores.shape)}.", "It should be one row per image.")
    found: np.ndarray = probabilities(scores if output.axis == 1 else scores.T, output.kind)[0]
    if not np.isfinite(found).all():
        raise ModelError("The model gives no number for this image (NaN or infinity).", "Try another image.")
    return found


def _heats(model: Model, maps: Sequence[FeatureMap], batch: np.ndarray) -> list[Heat]:
    shapes = {one.tensor: one.shape for one in maps}
    if sum(volume(shape) for shape in shapes.values()) > MAX_VALUES:
        raise UnsupportedError(
            f"The feature maps asked for hold more than {MAX_VALUES:,} numbers.", "Name fewer with --branches."
        )
    values = _run(model, list(shapes), batch)
    found = []
    for one in maps:
        whole = values[one.tensor]
        if whole.shape != one.shape:
            raise ModelError(f"{shown(one.tensor)} has another shape than the graph says.", "Export the model again.")
        heat = whole[0].take(one.channels, axis=one.channel - 1).mean(axis=one.channel - 1, dtype=np.float64)
        if not np.isfinite(heat).all():
            raise ModelError(f"{shown(one.tensor)} holds NaN or infinity for this image.", "Try another image.")
        found.append(heat if one.axes[0] < one.axes[1] else heat.T)
    return found


def _run(model: Model, names: Sequence[str], batch: np.ndarray) -> dict[str, Any]:
    """The values of the tensors ``names``, by a copy of the model that has them, and nothing else, as outputs."""
    outputs = [Variable(name, model.types.get(name), model.shapes.get(name)) for name in names]
    probe = replace(model, graph=replace(model.graph, outputs=outputs))
    with TemporaryDirectory() as folder, closing(open_session(pack(probe, Path(folder) / "probe.onnx"))) as session:
        return session.run(batch)
