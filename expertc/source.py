"""A full model as it was handed in: its graph and its card, the card from its metadata or made from a label list."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .bundle import MANIFEST, open_bundle
from .card import CARD_KEY, Card, card_for_foreign
from .errors import CardError, ModelError, UsageError
from .graph import Model, Shape, from_proto, parse, read_bytes, read_model, to_bytes
from .graph.cost import Cost, cost
from .graph.routing import routing
from .labels import read_labels
from .preprocessing import Preprocess
from .surgery.exits import flatten, joined
from .surgery.outputs import check_card, find_outputs
from .surgery.owners import Ownership, ownership
from .taxonomy import Taxonomy
from .text import shown

BUNDLED = Path(__file__).parent / "models" / "sea-animals.onnx"
"""The trained model that comes with the package: 23 sea animals."""


@dataclass(frozen=True)
class Source:
    """A model with its card. ``data`` are the bytes of the ONNX file at ``path``, ``sha256`` their hash.

    A network with exits is always in its plain form here; ``driven`` says that its file is not.
    """

    path: Path
    model: Model
    card: Card
    data: bytes
    sha256: str
    driven: bool = False

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @cached_property
    def runnable(self) -> bytes | Path:
        """What a runtime opens: the bytes, or the file itself where weights lie beside it."""
        if self.model.files:
            return self.path
        return to_bytes(self.model) if self.driven else self.data

    @cached_property
    def owners(self) -> Ownership:
        """The model's trunk and branches; found once for all experts of it."""
        return ownership(self.model, self.card)

    @cached_property
    def cost(self) -> Cost:
        """What the whole model costs."""
        return cost(self.model)

    @property
    def routed(self) -> bool:
        """Whether routers decide which branches an image takes: its MACs are those of the costliest way."""
        return bool(routing(self.model))

    @property
    def file_bytes(self) -> int:
        """Bytes of the model's file and of those beside it."""
        return len(self.data) + sum(self.model.files.values())


@dataclass(frozen=True)
class Foreign:
    """What a person can add to a model that has no card: files, and which output to cut (name to axis)."""

    labels: str | Path | None = None
    taxonomy: str | Path | None = None
    preprocess: str | Path | None = None
    outputs: Mapping[str, int] | None = None

    def __bool__(self) -> bool:
        return any(item is not None for item in (self.labels, self.taxonomy, self.preprocess, self.outputs))


def open_source(path: str | Path | None = None, foreign: Foreign | None = None) -> Source:
    """Open a full model; without ``path`` the bundled one. A bundle stands for the expert in it, all stages of it.

    Raises ``ModelError``, ``CardError``, ``LabelsError``, ``TaxonomyError`` or ``BundleError`` for whatever is wrong
    with the files, ``UsageError`` for a description of a model that has a card.
    """
    foreign = foreign or Foreign()
    path = BUNDLED if path is None else Path(path)
    later: list[Path] = []
    if (path / MANIFEST).is_file():
        bundle = open_bundle(path)
        path, *later = map(bundle.file, bundle.stages)
    data = read_bytes(path)
    model = from_proto(parse(data, shown(path)), shown(path), path.parent)
    text = model.metadata.get(CARD_KEY)
    if text is not None:
        if foreign:
            raise UsageError(
                f"{shown(path)} has a model card of its own.",
                "Leave out --labels, --taxonomy, --preprocess and --scores.",
            )
        card = Card.from_json(text)
    else:
        card = _foreign_card(model, path, foreign)
    if later:
        data = b"".join((data, *map(read_bytes, later)))
        model = joined((model, *map(read_model, later)), card)
    check_card(model, card)
    driven = card.exits is not None and (card.exits.driven or bool(later))
    model, card = flatten(model, card)
    known = {card.input, *(control.name for control in card.controls)}
    for name in model.inputs:
        if name not in known:
            raise ModelError(
                f"{shown(path)} has the input {shown(name)}, of which its card says nothing.",
                "Export it with the image as its only input, or with a card that names the others.",
            )
    return Source(path, model, card, data, hashlib.sha256(data).hexdigest(), driven)


def _foreign_card(model: Model, path: Path, foreign: Foreign) -> Card:
    if foreign.labels is None and foreign.taxonomy is None:
        raise CardError(f"{shown(path)} has no model card.", "Give its class names with --labels FILE, one per line.")
    if len(model.inputs) != 1:
        raise ModelError(
            f"{shown(path)} has {len(model.inputs)} inputs and no card that says which takes the image.",
            "Export it with a single image input, or with a card.",
        )
    [(image, shape)] = model.inputs.items()
    taxonomy = None if foreign.taxonomy is None else Taxonomy.load(foreign.taxonomy)
    labels = taxonomy.classes if taxonomy is not None else ()
    if foreign.labels is not None:
        labels = read_labels(foreign.labels)
    outputs = find_outputs(model, len(labels), foreign.outputs)
    preprocess = None if foreign.preprocess is None else _preprocess(foreign.preprocess, shape)
    return card_for_foreign(labels, taxonomy, preprocess, image, outputs, name=path.stem)


def _preprocess(name: str | Path, shape: Shape) -> Preprocess:
    """``imagenet`` means the usual numbers at the size the model takes; anything else is a file."""
    if str(name) == "imagenet" and len(shape) == 4 and isinstance(shape[2], int) and shape[2] == shape[3]:
        return Preprocess.imagenet(shape[2])
    return Preprocess.read(name)
