"""What TensorRT will make of a model, told without TensorRT.

``lint`` holds every node against the parser's table of operators and against what is known to go wrong in it, and the
whole against the device's memory. What the parser would translate wrongly without a word is a refusal, as is what it
cannot read.
"""

from .check import lint, refuse
from .finding import NOTE, REFUSAL, WARNING, Finding
from .memory import Footprint, footprint
from .operators import ceiling

__all__ = ["NOTE", "REFUSAL", "WARNING", "Finding", "Footprint", "ceiling", "footprint", "lint", "refuse"]
