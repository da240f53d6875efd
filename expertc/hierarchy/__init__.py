"""Making a taxonomy: from what a classifier confuses, from WordNet, from a language model's proposal.

Works on numbers and names only; running a model over photos is ``expertc.evaluate``'s work.
"""

from .grouping import Merge, Merges, agglomerate
from .matrix import checked, confusion_probabilities
from .tree import Level, from_confusion

__all__ = ["Level", "Merge", "Merges", "agglomerate", "checked", "confusion_probabilities", "from_confusion"]
