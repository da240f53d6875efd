"""How a server is to run, and how much it takes from strangers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..controls import Setting
    from ..runtime import Chosen

MAX_BODY = 16 * 2**20
"""Bytes: five images of 224 x 224 as FP32 tensors in JSON, or any photo of a phone."""

MAX_PIXELS = 50_000_000
"""The largest photos that common phones take; 150 MB of RGB."""

PATIENCE = 20.0
"""Seconds: what Apache's mod_reqtimeout gives a client for its header, and a body to begin with."""

MOST_WORKERS = 4


def workers() -> int:
    """Requests that are worked on at once unless somebody says otherwise: one per core, and four at most."""
    return min(MOST_WORKERS, os.cpu_count() or 1)


@dataclass(frozen=True)
class Settings:
    """How a server is to run.

    Args:
        host: what it listens on, a name or an address.
        port: of TCP; 0 for any that is free.
        max_body: bytes of a request's body.
        max_pixels: of an image, looked at before it is decoded.
        concurrency: requests that are worked on at once, each by a thread.
        threads: CPU threads of one call of the model (default: the backend's choice).
        patience: seconds that a client may take for the head of a request, for its body (and more for a large one),
            and to take the answer.
        controls: of the model, as ``controls.settle`` takes them, for every request that does not give its own.
        exits: how early exits are set; None leaves them as they were built.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_body: int = MAX_BODY
    max_pixels: int = MAX_PIXELS
    concurrency: int = field(default_factory=workers)
    threads: int | None = None
    patience: float = PATIENCE
    controls: Mapping[str, Setting] = field(default_factory=dict)
    exits: Chosen | None = None
