"""The two dialects of Q/DQ: what ONNX Runtime runs fast on a processor, and what TensorRT reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
"""The operators with weights: what they save is why one quantises."""

_MOVED = frozenset("Concat Flatten Gather MaxPool Reshape Slice Split Squeeze Transpose Unsqueeze".split())
_COMPUTED = frozenset("Add AveragePool Clip GlobalAveragePool LeakyRelu Mul Relu Sigmoid".split())


@dataclass(frozen=True)
class Flavour:
    """How a target wants its Q/DQ nodes.

    Args:
        name: what the manifest calls it.
        symmetric: activations are int8 with zero point 0; otherwise uint8 with any.
        followers: the operators beside ``LAYERS`` that compute in integers where all they read is in integers anyway.
        wide: the layers whose result stays fp32 unless who reads it wants integers.
        paired: weights stay fp32 behind a Q/DQ pair of their own, and biases fp32: TensorRT quantises them itself, and
            its parser takes neither int8 weights (before 8.6) nor the int32 biases that ONNX Runtime needs.
        reduce_range: weights of 7 bits. A processor without VNNI multiplies uint8 by int8 with ``vpmaddubsw``, which
            adds two products in 16 bits and saturates: 2 × 255 × 127 > 32,767 > 2 × 255 × 63 (ONNX Runtime's own
            documentation asks for it there). ``backends.processor.saturates`` knows.
    """

    name: str
    symmetric: bool
    followers: frozenset[str]
    wide: frozenset[str]
    paired: bool
    reduce_range: bool = False

    @property
    def operators(self) -> tuple[str, ...]:
        """All operators that may compute in integers, sorted."""
        return tuple(sorted(LAYERS | self.followers))


ONNXRUNTIME = Flavour("onnxruntime-x86", False, _MOVED | _COMPUTED, frozenset({"Gemm"}), False)
"""On x86: with int8 activations ONNX Runtime is no faster than in fp32. It has a Gemm from integers to fp32, and a
MatMul too; but a MatMul whose fp32 result meets an Add becomes an fp32 Gemm that unpacks its weights at every call."""

TENSORRT = Flavour("tensorrt", True, frozenset({"Add"}), LAYERS, True)
"""Q/DQ on what layers read and not on what they make, so that TensorRT fuses what follows a layer into it; what only
moves values (Concat, MaxPool, Relu, Reshape) it moves the Q across by itself, and so shares scales."""

FLAVOURS: Mapping[str, Flavour] = {"onnxruntime": ONNXRUNTIME, "tensorrt": TENSORRT}
"""By the backend of a target."""
