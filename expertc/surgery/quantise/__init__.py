"""quantise: a folded fp32 expert computes in 8-bit integers, told so by Q/DQ nodes that its runtime fuses.

``onnxruntime.quantization`` writes the nodes. Ours is which operators compute in integers (``region``), what they share
(``ranges``), the flavour of each target, and the rules of TensorRT's parser.
"""

from .flavours import FLAVOURS, ONNXRUNTIME, TENSORRT, Flavour
from .parser import broken_rules, require_parser_rules
from .quantise import Quantise
from .ranges import Range, Ranges
from .region import layers

__all__ = [
    "FLAVOURS", "ONNXRUNTIME", "TENSORRT", "Flavour", "Quantise", "Range", "Ranges", "broken_rules", "layers",
    "require_parser_rules",
]  # fmt: skip
