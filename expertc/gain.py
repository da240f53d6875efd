"""Whether another precision of an expert is faster here: int8 without the instructions for it may well be slower."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backends import OpenSession
from .backends.cpu import open_session as open_on_cpu
from .graph import File
from .measure import Ratio, interleave

SECONDS = 2.0
"""Of measuring, for both forms together."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Gain:
    """The time of the form over that of the fp32 expert, measured in turns in one loop."""

    precision: str
    ratio: Ratio

    @property
    def pays(self) -> bool:
        """Whether it is faster beyond doubt: the whole 95 % interval of the ratio lies below 1."""
        return self.ratio.high is not None and self.ratio.high < 1

    @property
    def note(self) -> str:
        """What to say about it, in one sentence."""
        low, high = self.ratio.low, self.ratio.high
        span = "" if low is None or high is None else f" (95 % interval {low:.2f} to {high:.2f})"
        doubt = ", or not beyond doubt" if self.ratio.value < 1 else ""
        verdict = "" if self.pays else f": it is not faster on this target{doubt}"
        return f"{self.precision} takes {self.ratio.value:.2f} times as long as fp32{span}{verdict}."


def gain(
    fp32: File,
    form: File,
    image: Array,
    *,
    precision: str = "int8",
    seconds: float = SECONDS,
    open_session: OpenSession = open_on_cpu,
) -> Gain:
    """Run both on ``image``, a batch as they take it, in turns for ``seconds``, and compare their times."""
    with ExitStack() as stack:
        plain, other = (stack.enter_context(closing(open_session(f, optimise=True))) for f in (fp32, form))
        samples = interleave({"fp32": lambda: plain.run(image), precision: lambda: other.run(image)}, seconds=seconds)
    return Gain(precision, samples.ratio(precision, "fp32"))
