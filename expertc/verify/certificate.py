"""The certificate: which steps of the ladder an expert passed, on what inputs, with the numbers. No times, no paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import BundleError, VerificationError

VERDICTS = ("verified", "uninformative", "off", "failed")
LEVELS = ("fast", "full", "off")

Number = float | int


class Mismatch(VerificationError):
    """A step failed: ``step`` is its name, ``numbers`` what was measured until then."""

    def __init__(self, step: str, message: str, numbers: Mapping[str, Number] | None = None) -> None:
        super().__init__(message)
        self.step, self.numbers = step, dict(numbers or {})


@dataclass(frozen=True)
class Step:
    """One step of the ladder; ``detail`` is one sentence."""

    name: str
    passed: bool
    detail: str
    numbers: Mapping[str, Number] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"name": self.name, "passed": self.passed, "detail": self.detail, "numbers": dict(self.numbers)}


@dataclass(frozen=True)
class Certificate:
    """The outcome of a verification.

    ``verdict`` is "verified", "uninformative" (nothing disagreed, but the scores do not vary, so nothing is shown),
    "failed" or "off"; ``level`` says what the expert was compared with: "fast" (the full model's nodes that the expert
    has, everything else replaced by NaN) or "full" (the whole model). ``inputs`` holds ``kind`` ("images", "noise"),
    their ``count``, how many ``noise`` images are among them, and the ``seed`` of those. ``golden`` is the record that
    the bundle gets (``verify.golden``), b"" without one, and ``runtime`` the version of the ONNX Runtime that ran
    it all, "" if nothing ran; these are no part of the mapping.
    """

    verdict: str
    level: str
    steps: tuple[Step, ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    golden: bytes = field(default=b"", repr=False, compare=False)
    runtime: str = field(default="", compare=False)

    @classmethod
    def off(cls) -> Certificate:
        """What stands in a manifest when nobody verified."""
        return cls("off", "off")

    @property
    def carried_by(self) -> str:
        """The step that the verdict rests on: the one that failed, else the last and most telling; "" without any."""
        return self.steps[-1].name if self.steps else ""

    @property
    def failure(self) -> Step | None:
        """The step that failed, if one did."""
        return next((step for step in self.steps if not step.passed), None)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types; the same certificate gives the same mapping."""
        return {
            "verdict": self.verdict,
            "carried_by": self.carried_by,
            "level": self.level,
            "inputs": dict(self.inputs),
            "steps": [step.to_mapping() for step in self.steps],
        }

    @classmethod
    def from_mapping(cls, data: Any) -> Certificate:
        """Read what ``to_mapping`` returned, now or in an older version. Raises ``BundleError`` for anything else."""
        fields = {"verdict": str, "level": str, "inputs": dict, "steps": list}
        if isinstance(data, dict):  # what follows from the rest, and older versions did not write
            data = {key: value for key, value in data.items() if key != "carried_by"}
        if _has(data, fields) and data["verdict"] in VERDICTS and data["level"] in LEVELS:
            step = {"name": str, "passed": bool, "detail": str, "numbers": dict}
            if all(_has(item, step) for item in data["steps"]):
                return cls(
                    data["verdict"], data["level"], tuple(Step(**item) for item in data["steps"]), data["inputs"]
                )
        raise BundleError("The verification certificate is malformed.", "Build the bundle again.")


def _has(data: Any, fields: Mapping[str, type]) -> bool:
    return isinstance(data, dict) and data.keys() == fields.keys() and all(
        isinstance(data[key], kind) for key, kind in fields.items()
    )  # fmt: skip
