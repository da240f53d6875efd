"""What a plan is compiled for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import UsageError
from ...targets import PRECISIONS
from ...text import shown

Batch = tuple[int, int, int]
"""Images per call: the least, what it is tuned for, the most."""

LEVELS = range(6)
"""``builder_optimization_level`` of TensorRT's API reference: 0 builds fastest, 5 searches longest; 3 is usual."""


@dataclass(frozen=True)
class Options:
    """How to compile; the defaults are those of the command line. Raises ``UsageError`` for what makes no sense.

    Attributes:
        precision: "fp32", "fp16" or "int8": what the model was written for. TensorRT 8 may take all of it as half
            precision for "fp16"; from 10 on the types in the model decide, and this only says what is expected there.
        batch: sizes for a model that leaves its batch open; None stands for one image.
        dla_core: the deep-learning accelerator that takes what it can; the GPU takes the rest.
        workspace_mb: MiB that the builder and each layer may use beside weights and data; None leaves it to TensorRT.
        tf32: whether single precision may be rounded to 10 bits of mantissa on Ampere and newer.
        level: how long TensorRT may search, see ``LEVELS``; None is its default.
        libraries: whether TensorRT 8 may use kernels of cuBLAS and cuDNN besides its own.
    """

    precision: str = "fp32"
    batch: Batch | None = None
    dla_core: int | None = None
    workspace_mb: int | None = None
    tf32: bool = False
    level: int | None = None
    libraries: bool = True

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"There is no precision {shown(self.precision)}.", f"Use one of {', '.join(PRECISIONS)}.")
        if self.batch is not None:
            least, best, most = self.batch
            if not 1 <= least <= best <= most:
                raise UsageError(
                    f"A batch of {least}:{best}:{most} is none.", "Give MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX."
                )
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise UsageError(f"A workspace of {self.workspace_mb} MB is none.", "Give at least 1.")
        if self.level is not None and self.level not in LEVELS:
            raise UsageError(f"There is no optimisation level {self.level}.", f"Give {LEVELS[0]} to {LEVELS[-1]}.")
        if self.dla_core is not None:
            self._check_dla(self.dla_core)

    def _check_dla(self, core: int) -> None:
        if core < 0:
            raise UsageError(f"There is no DLA core {core}.", "They are counted from 0.")
        if self.precision == "fp32":
            raise UsageError("A DLA core runs half precision and int8 only.", "Build with --precision fp16.")
        if self.batch is not None and self.batch[0] != self.batch[2]:
            raise UsageError("A DLA core runs one size of batch only.", "Give one number for --batch.")

    def to_mapping(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> Options:
        """The inverse of ``to_mapping``."""
        return cls(**{**data, "batch": None if data["batch"] is None else tuple(data["batch"])})


def batch_range(text: str) -> Batch:
    """What ``--batch`` says: "8" is (8, 8, 8), "1:8:32" is (1, 8, 32). Raises ``UsageError`` for anything else."""
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(part.isascii() and part.isdecimal() and len(part) < 6 for part in parts):
        raise UsageError(f"{shown(text)} is no batch.", "Give a number, or MIN:OPT:MAX.")
    least, best, most = map(int, parts if len(parts) == 3 else parts * 3)
    return least, best, most
