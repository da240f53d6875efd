"""Giving memory back: what was freed is not always returned."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Collect loops of references, and return to the system what the C library keeps for later.

    torch's exporter leaves such loops around every weight; and a thousand branches are a hundred thousand small
    weights, whose memory glibc returns only on demand (``malloc_trim(3)``; other C libraries do it by themselves).
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
