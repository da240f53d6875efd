"""How good a model is on labelled images: accuracy with its interval, confusion, and agreement of two models.

Models are functions from tensors to scores; which classes of a data set are which of the model is a mapping.
"""

from ..runtime.matching import match_classes
from .accuracy import ClassResult, Evaluation, evaluate
from .agreement import Agreement, agreement, compare
from .report import EvaluationReport, environment
from .sampling import sample

__all__ = [
    "Agreement",
    "ClassResult",
    "Evaluation",
    "EvaluationReport",
    "agreement",
    "compare",
    "environment",
    "evaluate",
    "match_classes",
    "sample",
]
