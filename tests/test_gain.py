"""gain: an int8 expert that is not faster is said not to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from expertc.gain import Gain, gain
from expertc.measure import Ratio


class Slow:
    """A session that takes its time."""

    def __init__(self, turns: int) -> None:
        self.turns = turns

    def run(self, x: Any) -> dict[str, np.ndarray]:
        return {"scores": np.array([sum(i * i for i in range(self.turns))])}

    def close(self) -> None:
        self.turns = 0


@pytest.mark.parametrize(("fp32", "form", "pays"), [(20_000, 2_000, True), (2_000, 20_000, False)])
def test_which_of_two_is_faster(fp32: int, form: int, pays: bool) -> None:
    """Ten times as much work, one way and the other."""
    opened = {b"fp32": Slow(fp32), b"form": Slow(form)}
    found = gain(b"fp32", b"form", np.zeros(1), seconds=0.3, open_session=lambda model, *, optimise: opened[model])
    assert found.pays is pays
    assert ("not faster" in found.note) is not pays
    assert all(session.turns == 0 for session in opened.values())


@pytest.mark.parametrize(
    ("ratio", "note"),
    [
        (Ratio(0.5, 0.45, 0.6, 9), "int8 takes 0.50 times as long as fp32 (95 % interval 0.45 to 0.60)."),
        (Ratio(0.97, 0.9, 1.02, 9),
         "int8 takes 0.97 times as long as fp32 (95 % interval 0.90 to 1.02): it is not faster on this target, or not"
         " beyond doubt."),
        (Ratio(0.9, None, None, 2),
         "int8 takes 0.90 times as long as fp32: it is not faster on this target, or not beyond doubt."),
        (Ratio(1.2, 1.1, 1.3, 9),
         "int8 takes 1.20 times as long as fp32 (95 % interval 1.10 to 1.30): it is not faster on this target."),
    ],
)  # fmt: skip
def test_what_is_said(ratio: Ratio, note: str) -> None:
    """Where the interval does not show it, it is not faster."""
    assert Gain("int8", ratio).note == note
