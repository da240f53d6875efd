"""torch module → full model: one ONNX file that carries its card, checked against torch.

Importing this room needs the ``train`` extra (torch, onnxscript, safetensors).
"""

from .checking import check
from .early import export_early
from .exporter import export, export_file, export_plain
from .hierarchical import export_hiernet
from .random import export_random
from .trained import TrainedNetwork, export_trained, load_trained

__all__ = [
    "TrainedNetwork",
    "check",
    "export",
    "export_early",
    "export_file",
    "export_hiernet",
    "export_plain",
    "export_random",
    "export_trained",
    "load_trained",
]
