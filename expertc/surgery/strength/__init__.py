"""strength: the same numbers by operators that a processor runs faster; for ONNX Runtime, where this was measured.

Compilers call it strength reduction. It pays where a network normalises over the pixels of channels-last tensors, as
ConvNeXt V2 does in every block: there a sum over pixels took longer than the convolution beside it.
"""

from .strength import Strength

__all__ = ["Strength"]
