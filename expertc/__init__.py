"""expertc: cut a trained hierarchical classifier down to the classes a device needs.

    import expertc
    built = expertc.build(classes="sharks,rays")
    with expertc.Expert.open(built.path) as expert:
        print(expert.predict(["photo.jpg"]))

Names are loaded when they are first used: ``import expertc`` alone is quick.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# ONNX Runtime's Linux wheels report to their maker from the import on, before disable_telemetry_events() can be called.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from .compiler import build as build
    from .runtime import Expert as Expert
    from .taxonomy import Taxonomy as Taxonomy

__version__ = "0.1.0"
__all__ = ["Expert", "Taxonomy", "__version__", "build"]

_HOMES = {"Expert": "runtime", "Taxonomy": "taxonomy", "build": "compiler"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'expertc' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
