"""The model card: what an ONNX file does not say about itself, as JSON in its metadata.

Taxonomy and class order, the image input and how to fill it, further inputs and their defaults, what each output means,
where the weights come from. The schema is versioned; ``from_json`` reads every version there has been.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .controls import Control as Control
from .controls import read_controls
from .errors import CardError, LabelsError, TaxonomyError
from .exits import EXIT, GRANULARITY, SCORES
from .exits import Exits as Exits
from .preprocessing import BYTES, required
from .preprocessing import Preprocess as Preprocess
from .routes import Routes as Routes
from .selection import fold
from .taxonomy import MAX_NAME, Taxonomy
from .text import clean_text, parse_json, shown

CARD_KEY = "expertc.card"
SCHEMA = 4
KINDS = ("logits", "probabilities", "joint", "scores")
MAX_DEPTH = 16  # of the provenance
MAX_AXIS = 7
_UINT8 = 2  # ONNX's number

Shape = Sequence[int | str | None] | None
"""A tensor's shape, None where it is unknown; an axis that is not fixed is None, a name or not positive."""

_KEYS = [
    "schema", "name", "classes", "taxonomy", "outputs", "input", "preprocess", "weights_licence", "provenance",
    "selected_from", "controls", "routes", "exits",
]  # fmt: skip
_UPGRADES: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (
    lambda data: {"controls": [], **data},
    lambda data: {"routes": None, **data},
    lambda data: {"exits": None, **data},
)
"""``_UPGRADES[v - 1]`` turns the mapping of version ``v`` into that of version ``v + 1``."""


@dataclass(frozen=True)
class Output:
    """A graph output with one value per class along ``axis``.

    ``kind``: "logits" (before a softmax), "probabilities" (after it), "joint" (products of probabilities down the
    tree: divide by their sum) or "scores" (independent sigmoids).
    """

    name: str
    kind: str = "logits"
    axis: int = 1

    def __post_init__(self) -> None:
        _check_name(self.name, "an output")
        if self.kind not in KINDS:
            raise CardError(f"The output {shown(self.name)} is of the kind {shown(self.kind)}.", _one_of(KINDS))
        if type(self.axis) is not int or not 0 <= self.axis <= MAX_AXIS:
            raise CardError(f"The class axis of {shown(self.name)} is {shown(self.axis)}.", f"It is 0 to {MAX_AXIS}.")


@dataclass(frozen=True)
class Card:
    """A model card.

    Args:
        name: of the model.
        taxonomy: its classes; the index of a class is its place along the class axis of every output.
        outputs: the graph outputs that hold a value per class; the first is the one to use.
        input: name of the image input.
        preprocess: how to fill it, None where that is not known.
        weights_licence: one line for people.
        provenance: JSON values, free form; text in it is cleaned and keys are sorted.
        selected_from: how many classes the full model has; None for a full model.
        controls: the inputs beside the image, with what they hold by default.
        routes: the output that explains a prediction, of a tree of classifiers.
        exits: the early exits of a network; ``outputs`` are then its fine logits, or what the graph decides.

    Raises ``CardError`` for values that make no sense.
    """

    name: str
    taxonomy: Taxonomy
    outputs: tuple[Output, ...]
    input: str
    preprocess: Preprocess | None = None
    weights_licence: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)
    selected_from: int | None = None
    controls: tuple[Control, ...] = ()
    routes: Routes | None = None
    exits: Exits | None = None

    def __post_init__(self) -> None:
        _check_name(self.input, "the input")
        for key in ("name", "weights_licence"):
            if not isinstance(text := getattr(self, key), str):
                raise CardError(f"The card's '{key}' is not text.", "Write it in quotes.")
            object.__setattr__(self, key, clean_text(text))
        if not isinstance(self.provenance, Mapping):
            raise CardError("The card's 'provenance' is not a JSON object.", "It should begin with '{'.")
        object.__setattr__(self, "provenance", _plain(self.provenance))
        names = [output.name for output in self.outputs]
        beside = [*([self.routes.name] if self.routes else []), *(self.exits.beside if self.exits else [])]
        if not names or len({*names, *beside}) != len(names) + len(beside):
            raise CardError("The card names no output, or one twice.", "Name each output of the graph once.")
        full = self.selected_from
        if full is not None and (type(full) is not int or not len(self.taxonomy) <= full < 2**31):
            raise CardError(
                f"The card says its {len(self.taxonomy)} classes were selected from {shown(full)}.",
                "A full model has at least as many.",
            )
        inputs = [self.input, *(control.name for control in self.settings)]
        if len(set(inputs)) != len(inputs):
            raise CardError("The card names an input of the graph twice.", "Name each once.")
        for control in self.controls:
            if control.per_class and len(control.default) != len(self.taxonomy):
                raise CardError(
                    f"The control {shown(control.name)} has {len(control.default)} values for "
                    f"{len(self.taxonomy)} classes.",
                    "Give one for each.",
                )
        if self.routes is not None:
            self.routes.check(self.taxonomy)
        if self.exits is not None:
            object.__setattr__(self, "exits", self._settled_exits(self.exits))

    def _settled_exits(self, exits: Exits) -> Exits:
        """The exits as taxonomy, outputs and controls have them, each of which may have been exchanged."""
        outputs = (SCORES,) if exits.driven else exits.fine
        if tuple((o.name, o.kind, o.axis) for o in self.outputs) != tuple((name, "logits", 1) for name in outputs):
            raise CardError(
                "The card's outputs are not what its exits answer with.",
                f"They are logits, in this order: {', '.join(map(shown, outputs))}.",
            )
        if exits.driven:
            exits = exits.with_settings({control.name: control.default for control in self.controls})
        return exits.placed(self.taxonomy)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in output order."""
        return self.taxonomy.classes

    def restrict(self, indices: Iterable[int]) -> Card:
        """The card of the model cut down to these classes; of a cut of a cut, the full model's size is remembered."""
        full = len(self.taxonomy) if self.selected_from is None else self.selected_from
        indices = tuple(indices)
        taxonomy = self.taxonomy.restrict(indices)
        controls = tuple(control.restrict(indices) for control in self.controls)
        routes = None if self.routes is None else self.routes.restrict(self.taxonomy, indices)
        cut = replace(self, taxonomy=taxonomy, selected_from=full, controls=controls, routes=routes, exits=None)
        return cut if self.exits is None else cut.with_exits(self.exits.restrict(self.taxonomy, indices))

    def with_exits(self, exits: Exits) -> Card:
        """The card of the model with these exits, and none of its others."""
        names = (SCORES,) if exits.driven else exits.fine
        return replace(self, exits=exits, outputs=tuple(map(Output, names)))

    @property
    def settings(self) -> tuple[Control, ...]:
        """What a person can set: the controls, and what decides among exits where the graph does not."""
        fixed = self.exits is None or self.exits.driven or self.exits.frozen
        free = {} if self.exits is None or fixed else self.exits.settings
        return (*self.controls, *(Control(name, values, False) for name, values in free.items()))

    def with_defaults(self, values: Mapping[str, Sequence[float]]) -> Card:
        """The card with other defaults, flat, for the settings named in ``values``."""
        controls = tuple(replace(c, default=tuple(values.get(c.name, c.default))) for c in self.controls)
        exits = None if self.exits is None else self.exits.with_settings(values)
        return replace(self, controls=controls, exits=exits)

    def merged(self, indices: Sequence[int], values: Mapping[str, Sequence[float]]) -> Card:
        """The card with the defaults that an expert for the classes ``indices``, ascending, has been given."""
        whole: dict[str, Sequence[float]] = dict(values)
        for control in self.controls:
            if control.per_class and control.name in values:
                own = dict(zip(indices, values[control.name], strict=True))
                whole[control.name] = [own.get(row, value) for row, value in enumerate(control.default)]
        exits = self.exits
        if exits is None:
            return self.with_defaults(whole)
        exits = exits.merged(exits.restrict(self.taxonomy, indices), values)
        return replace(self, exits=None).with_defaults(whole).with_exits(exits)

    @property
    def columns(self) -> dict[str, tuple[frozenset[int], ...]]:
        """Of each graph output beside ``outputs``, the classes that each of its columns is about."""
        nodes = self.taxonomy.by_name
        found: dict[str, tuple[frozenset[int], ...]] = {}
        if self.routes is not None:
            found[self.routes.name] = tuple(frozenset(nodes[name].leaves) for name in self.routes.columns)
        if self.exits is not None:
            everyone = frozenset(range(len(self.taxonomy)))
            coarse = tuple(frozenset(nodes[name].leaves) for name in self.exits.categories)
            found |= {n: (everyone,) * w if n == self.exits.semantic else coarse for n, w in self.exits.beside.items()}
        return found

    # -- JSON --------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The card as one line of ASCII; the same card gives the same bytes."""
        mapping = {
            "schema": SCHEMA,
            "name": self.name,
            "classes": list(self.classes),
            "taxonomy": self.taxonomy.to_mapping(),
            "outputs": [{"name": o.name, "kind": o.kind, "axis": o.axis} for o in self.outputs],
            "input": self.input,
            "preprocess": self.preprocess.to_mapping() if self.preprocess else None,
            "weights_licence": self.weights_licence,
            "provenance": self.provenance,
            "selected_from": self.selected_from,
            "controls": [control.to_mapping() for control in self.controls],
            "routes": self.routes.to_mapping() if self.routes else None,
            "exits": self.exits.to_mapping() if self.exits else None,
        }
        return json.dumps(mapping, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Read a card of this schema version or an older one. Raises ``CardError``."""
        data = parse_json(text, "The model card", CardError)
        version = data.get("schema")
        if type(version) is not int or version < 1:
            raise CardError("The model card does not say its schema version.", "Export the model again.")
        if version > SCHEMA:
            raise CardError(f"The model card has schema {shown(version)}, newer than {SCHEMA}.", "Update expertc.")
        for upgrade in _UPGRADES[version - 1 :]:
            data = upgrade(data)
        required(data, _KEYS, "The model card")
        try:
            taxonomy = Taxonomy.from_mapping(data["taxonomy"])
        except TaxonomyError as error:
            raise CardError(f"The model card's taxonomy is wrong: {error.message}", error.hint) from error
        if data["classes"] != list(taxonomy.classes):
            raise CardError(
                "The model card's classes are not those of its taxonomy, in the order of their indices.",
                "Export the model again.",
            )
        if not isinstance(data["outputs"], list):
            raise CardError("The model card's 'outputs' is not a list.", "Export the model again.")
        outputs = tuple(Output(**required(o, ["name", "kind", "axis"], "An output")) for o in data["outputs"])
        preprocess = None if data["preprocess"] is None else Preprocess.from_mapping(data["preprocess"])
        rest = {key: data[key] for key in ("name", "input", "weights_licence", "provenance", "selected_from")}
        controls = read_controls(data["controls"], "The list of controls on the card")
        rest |= {"routes": Routes.from_mapping(data["routes"]), "exits": Exits.from_mapping(data["exits"])}
        return cls(taxonomy=taxonomy, outputs=outputs, preprocess=preprocess, controls=controls, **rest)

    # -- against the graph -------------------------------------------------------------------------------------

    def check_graph(
        self, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape], types: Mapping[str, int] | None = None
    ) -> None:
        """Raise ``CardError`` if the card contradicts the names and shapes of the graph's inputs and outputs.

        ``types`` are ONNX's element types of tensors, as far as they are known.
        """
        for name in (self.input, *(control.name for control in self.controls)):
            if name not in inputs:
                raise CardError(f"The graph has no input {shown(name)}, which the card names.", _has(inputs))
        for control in self.controls:
            control.check(inputs[control.name], (types or {}).get(control.name))
        for output in self.outputs:
            _check_output(outputs, output.name, output.axis, len(self.taxonomy), "classes")
        if self.routes is not None:
            _check_output(outputs, self.routes.name, 1, len(self.routes.columns), "columns")
        if self.exits is not None:
            for name, width in self.exits.beside.items():
                _check_output(outputs, name, 1, width, "columns")
            if self.exits.driven and not {GRANULARITY, EXIT} <= outputs.keys():
                raise CardError("The graph does not say which exit answered.", "Export the model again.")
        shape, kind = inputs[self.input], (types or {}).get(self.input)
        if self.preprocess is not None and kind is not None and (kind == _UINT8) != (self.preprocess.dtype == BYTES):
            raise CardError(
                f"The input {shown(self.input)} {'takes' if kind == _UINT8 else 'does not take'} bytes, but the "
                f"preprocessing makes {self.preprocess.dtype}.",
                "Give the preprocessing of this model.",
            )
        if self.preprocess is None or shape is None:
            return
        height, width = self.preprocess.size
        wanted = (None, 3, height, width) if self.preprocess.layout == "NCHW" else (None, height, width, 3)
        fits = len(shape) == 4 and all(
            one is None or _may_be(axis, one) for axis, one in zip(shape, wanted, strict=True)
        )
        if not fits:
            given = "x".join("?" if axis is None else clean_text(str(axis)) for axis in shape)
            raise CardError(
                f"The input {shown(self.input)} is {given}, but the preprocessing makes "
                f"{'x'.join('?' if one is None else str(one) for one in wanted)}.",
                "Give the preprocessing of this model.",
            )


def card_for_foreign(
    labels: Sequence[str],
    taxonomy: Taxonomy | None,
    preprocess: Preprocess | None,
    input: str,  # noqa: A002 (the card's word)
    outputs: Sequence[Output],
    *,
    name: str = "model",
) -> Card:
    """A card for an ONNX model that has none: its classes are ``labels``, in output order.

    With a taxonomy, class ``i`` of it must be label ``i`` (by name, label or synset, spelled alike); the card then
    speaks the taxonomy's names. Raises ``LabelsError`` saying where they differ.
    """
    name = clean_text(name)[:MAX_NAME]
    if taxonomy is None:
        return Card(name, Taxonomy.flat(labels, name), tuple(outputs), input, preprocess)
    if len(labels) != len(taxonomy):
        raise LabelsError(
            f"There are {len(labels)} labels, but the taxonomy has {len(taxonomy)} classes.",
            "Both describe the same outputs: correct one of them.",
        )
    known = [{fold(key) for key in (leaf.name, leaf.label, leaf.synset) if key} for leaf in taxonomy.leaves]
    for row, (label, leaf) in enumerate(zip(labels, taxonomy.leaves, strict=True)):
        if fold(label) in known[row]:
            continue
        other = next((i for i, keys in enumerate(known) if fold(label) in keys), None)
        hint = "Number the taxonomy's classes by their row." if other is not None else "Correct one of them."
        place = f", whose row for {shown(label)} is {other}" if other is not None else ""
        raise LabelsError(
            f"Row {row} is {shown(label)} in the labels but {shown(leaf.name)} in the taxonomy{place}.", hint
        )
    return Card(name, taxonomy, tuple(outputs), input, preprocess)


def _check_output(outputs: Mapping[str, Shape], name: str, axis: int, size: int, what: str) -> None:
    if name not in outputs:
        raise CardError(f"The graph has no output {shown(name)}, which the card names.", _has(outputs))
    shape = outputs[name]
    if shape is not None and len(shape) <= axis:
        raise CardError(
            f"The output {shown(name)} has {len(shape)} axes, but its {what} should be on axis {axis}.",
            "The card belongs to another model.",
        )
    if shape is not None and not _may_be(shape[axis], size):
        raise CardError(
            f"The output {shown(name)} has {shape[axis]} {what}, the card {size}.", "The card belongs to another model."
        )


def _may_be(axis: int | str | None, size: int) -> bool:
    return not isinstance(axis, int) or axis < 1 or axis == size


def _has(names: Mapping[str, Shape]) -> str:
    listed = ", ".join(shown(name) for name in list(names)[:5])
    return f"The card belongs to another model: this one has {listed or 'none'}."


def _one_of(choices: Sequence[str]) -> str:
    return f"It should be one of {', '.join(choices)}."


def _check_name(name: Any, what: str) -> None:
    if not isinstance(name, str) or not name:
        raise CardError(f"The name of {what} is missing from the card.", "Write the name that the graph uses.")


def _plain(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON types: text cleaned, keys sorted."""
    if depth > MAX_DEPTH:
        raise CardError(f"The card's provenance is deeper than {MAX_DEPTH} levels.", "Flatten it.")
    if isinstance(value, str):
        return clean_text(value)
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        cleaned = {clean_text(key): _plain(item, depth + 1) for key, item in value.items()}
        return dict(sorted(cleaned.items(), key=lambda item: item[0]))
    raise CardError(f"The card's provenance holds {shown(repr(value))}, which is no JSON value.", "Write it as text.")
