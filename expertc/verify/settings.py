"""What the controls are set to while models are compared: their defaults, and numbers that no two classes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..card import Card

LEAST, MOST = 0.5, 2.0
"""Between these are the random values of a control per class: a gain turns a class down or up."""

Values = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class ControlSetting:
    """The same setting for the full model and for an expert of it."""

    full: Values
    expert: Values


def control_settings(card: Card, indices: Sequence[int], seed: int) -> tuple[ControlSetting, ...]:
    """The defaults of ``card`` (the full model's); where a control is per class, then also random positive values.

    Those are the selected classes' alone: the others keep their default, which an expert may have as a constant.
    """
    settings = [{control.name: control.default for control in card.controls}]
    if any(control.per_class for control in card.controls):
        random, drawn = np.random.default_rng(seed), {}
        for control in card.controls:
            values = np.array(control.default)
            if control.per_class:
                values[list(indices)] = random.uniform(LEAST, MOST, len(indices))
            drawn[control.name] = tuple(values.tolist())
        settings.append(drawn)
    return tuple(
        ControlSetting(
            full, {c.name: replace(c, default=full[c.name]).restrict(indices).default for c in card.controls}
        )
        for full in settings
    )
