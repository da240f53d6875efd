"""The one place that imports timm first.

timm needs torchvision, and torchvision's wheels are built against a CUDA torch: beside a CPU build their import fails
with ``operator torchvision::nms does not exist``, because the compiled extension that would define the operators is
not loaded. The operators themselves are never called here, so defining their schemas is enough.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_SCHEMAS = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # fmt: skip

_library: Any = None  # torch drops a library's operators when the object dies


def import_timm() -> ModuleType:
    """Import and return ``timm``, also where torchvision's wheel does not match a CPU build of torch."""
    global _library
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        import torch

        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _library.define(schema)
        import torchvision  # noqa: F401
    import timm

    return timm
