"""Controls: inputs beside the image, such as one gain per class. Whoever runs the model feeds them; a default is known.

The graph itself cannot hold the defaults: an initializer that is also an input does not survive most tools, so they
stand in the model card.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .errors import CardError, SelectionError, UsageError
from .preprocessing import required
from .selection import resolve
from .taxonomy import Taxonomy
from .text import shown

GAIN = "gain"
"""What networks with selective attention call the control that the command line knows by name."""

MAX_CONTROLS = 16
MAX_VALUE = 1e30  # beyond any use, within float32

FLOATS = (1, 10, 11, 16)  # ONNX's numbers of float32, float16, float64, bfloat16

Setting = Mapping[str, float] | Sequence[float] | float
"""What a person says of a control: some classes' values, every value, or one for all."""


@dataclass(frozen=True)
class Control:
    """A float input of static shape that takes numbers.

    Args:
        name: of the graph input.
        default: its values, flat; one per class, in the order of the classes, if it is ``per_class``.
        per_class: whether axis 0 of the input is the class axis (all others are 1): an expert keeps its classes' own.

    Raises ``CardError`` for anything else.
    """

    name: str
    default: tuple[float, ...]
    per_class: bool

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise CardError("A control on the card has no name.", "Write the name that the graph uses.")
        values = self.default
        if not isinstance(values, tuple) or not values or not all(map(is_value, values)):
            raise CardError(
                f"The control {shown(self.name)} has no sound default.",
                f"It should be numbers from {-MAX_VALUE:g} to {MAX_VALUE:g}.",
            )
        if not isinstance(self.per_class, bool):
            raise CardError(f"The card does not say whether {shown(self.name)} is per class.", "Write true or false.")
        object.__setattr__(self, "default", tuple(map(float, values)))

    def restrict(self, indices: Iterable[int]) -> Control:
        """The control of the model cut down to the classes ``indices``, ascending."""
        if not self.per_class:
            return self
        return replace(self, default=tuple(self.default[index] for index in sorted(set(indices))))

    def check(self, shape: Sequence[int | str | None] | None, kind: int | None) -> None:
        """Raise ``CardError`` if the graph input of that shape and ONNX element type cannot take the default."""
        if shape is not None and (
            not all(type(dim) is int and dim > 0 for dim in shape)
            or math.prod(dim for dim in shape if isinstance(dim, int)) != len(self.default)
            or (self.per_class and (not shape or shape[0] != len(self.default)))
        ):
            size = "x".join("?" if dim is None else str(dim) for dim in shape)
            raise CardError(
                f"The input {shown(self.name)} is {shown(size)}, but the card has {len(self.default)} values for it.",
                "The card belongs to another model.",
            )
        if kind is not None and kind not in FLOATS:
            raise CardError(f"The input {shown(self.name)} does not take floating point numbers.", "Export it as such.")

    def to_mapping(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return {"name": self.name, "default": list(self.default), "per_class": self.per_class}


def read_controls(data: Any, what: str) -> tuple[Control, ...]:
    """The controls in a list of what ``to_mapping`` returned. Raises ``CardError``, calling the list ``what``."""
    if not isinstance(data, list) or len(data) > MAX_CONTROLS:
        raise CardError(f"{what} is not a list of up to {MAX_CONTROLS}.", "Export the model again.")
    made = []
    for item in data:
        fields = required(item, ["name", "default", "per_class"], "A control")
        values = fields["default"]
        made.append(Control(fields["name"], tuple(values) if isinstance(values, list) else values, fields["per_class"]))
    if len({control.name for control in made}) != len(made):
        raise CardError(f"{what} names a control twice.", "Name each once.")
    return tuple(made)


def settle(
    controls: Sequence[Control], taxonomy: Taxonomy, given: Mapping[str, Setting]
) -> dict[str, tuple[float, ...]]:
    """The values of every control: what is ``given`` (by control), defaults for the rest.

    ``taxonomy`` holds the classes; a class is named as in ``--classes``, its own name first. Raises ``UsageError`` for
    a control that there is not, a value that is no number and a wrong number of them, ``SelectionError`` for a class.
    """
    found = {control.name: control.default for control in controls}
    for name, setting in given.items():
        if name not in found:
            known = ", ".join(map(shown, found)) or "none"
            raise UsageError(f"The model has no control {shown(name)}.", f"It has {known}.")
        control = next(control for control in controls if control.name == name)
        found[name] = _values(control, taxonomy, setting)
    return found


def _values(control: Control, taxonomy: Taxonomy, setting: Setting) -> tuple[float, ...]:
    size = len(control.default)
    if isinstance(setting, Mapping):
        if not control.per_class:
            raise UsageError(f"The control {shown(control.name)} has no value per class.", "Give a number.")
        values = list(control.default)
        for name, value in setting.items():
            for index in _rows(taxonomy, name):
                values[index] = value
    elif isinstance(setting, (str, bytes)) or not hasattr(setting, "__len__"):
        values = [setting] * size  # type: ignore[list-item]
    else:
        values = list(setting)  # type: ignore[arg-type]
    if len(values) != size:
        raise UsageError(f"The control {shown(control.name)} takes {size} values, not {len(values)}.", "Give as many.")
    try:
        plain = tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"A value for {shown(control.name)} is no number.", "Write for example 1.8.") from error
    if not all(map(is_value, plain)):
        raise UsageError(f"A value for {shown(control.name)} is out of reach.", f"Give up to {MAX_VALUE:g}.")
    return plain


def _rows(taxonomy: Taxonomy, name: str) -> tuple[int, ...]:
    if name in taxonomy.classes:  # also one with a comma in it
        return (taxonomy.classes.index(name),)
    if name.lstrip().startswith(("@", "-")):
        raise SelectionError(f"{shown(name)} is not the name of a class.", "Name a class or a category.")
    return resolve(taxonomy, name).indices


def is_value(value: Any) -> bool:
    """Whether ``value`` is a finite number that a control can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MAX_VALUE <= value <= MAX_VALUE
