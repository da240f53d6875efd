"""What a build says about speed: the full model and its expert in turns, for a moment."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .backends import cpu
from .bundle import MODEL
from .driven import Shipped, to_the_end
from .finish import PLAIN, card_of
from .graph import File, Model
from .source import Source

if TYPE_CHECKING:
    from .measure import Ratio


@dataclass(frozen=True)
class Timing:
    """Median seconds per call of the full model and of the expert, and the time of the first over the second's."""

    full: float
    expert: float
    speedup: Ratio


def measure(source: Source, ready: Shipped, plain: Model, seconds: float, threads: int | None) -> Timing:
    """Time the full model and the expert in turns, on as many images per call as the expert takes (1 if any).

    Networks with exits are both run to the last of them, in the nested form.
    """
    import statistics

    from .measure import interleave

    files: Sequence[File] = (source.runnable, ready.files[MODEL])
    if ready.form != PLAIN:
        files = [to_the_end(source.model, source.card), to_the_end(plain, card_of(plain))]
    full_file, small_file = files
    with (
        closing(cpu.open_session(full_file, threads=threads)) as full,
        closing(cpu.open_session(small_file, threads=threads)) as small,
    ):
        batch = small.input_shape[0] or 1
        calls = {"full": cpu.on_noise(full, batch), "expert": cpu.on_noise(small, batch)}
        samples = interleave(calls, seconds=seconds, warmup=seconds / 4)
    medians = [statistics.median(samples.durations(name)) for name in ("full", "expert")]
    return Timing(medians[0], medians[1], samples.ratio("full", "expert"))
