"""Half precision, written into the graph: which nodes stay in single precision and why, and the conversion itself.

TensorRT from 11 on has no precision flags, and strongly typed networks work on every version that a Jetson runs.
"""

from .choose import choose_islands, notes
from .convert import Half
from .forms import is_single

__all__ = ["Half", "choose_islands", "is_single", "notes"]
