"""torch module → full model: one ONNX file that carries its card, checked against torch.

Importing this room needs the ``train`` extra (torch, onnxscript, safetensors).
"""

from .exporter import check, export, export_plain, save
from .random import export_random
from .trained import TrainedNetwork, export_trained, load_trained

__all__ = [
    "TrainedNetwork",
    "check",
    "export",
    "export_plain",
    "export_random",
    "export_trained",
    "load_trained",
    "save",
]
