"""What became of each operator from opset 13 on, and how to write it in an older one's words.

``versions`` reads ONNX's own schemas; ``table`` says, for every change of a definition, when a node is the same under
the older one; ``rewrites`` and ``composed`` write it anew where it is not.
"""

from .scope import Scope
from .versions import OLDEST, lowered

__all__ = ["OLDEST", "Scope", "lowered"]
