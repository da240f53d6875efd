"""How long work says where it is."""

from __future__ import annotations

from typing import Protocol


class Stages(Protocol):
    """Is told what is being done and, where that is counted, how many of how many are."""

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        """``stage`` begins, or has come to ``done`` of ``total``; 0 of 0 if nothing is counted."""


def silent(stage: str, done: int = 0, total: int = 0) -> None:
    """``Stages`` that nobody hears."""
