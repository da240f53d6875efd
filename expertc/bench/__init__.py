"""Benchmarks: models and bundles timed against each other in one interleaved run, with the evidence beside the numbers.

``bench`` takes all that is to be compared at once, in turns. ``compare`` is for what cannot be: a model before and
after, from two reports.
"""

from .accuracy import read_accuracies, with_accuracies
from .compare import Comparison, compare
from .report import Accuracy, BenchReport, Entry, refuse_place, write_report
from .run import bench

__all__ = [
    "Accuracy",
    "BenchReport",
    "Comparison",
    "Entry",
    "bench",
    "compare",
    "read_accuracies",
    "refuse_place",
    "with_accuracies",
    "write_report",
]
