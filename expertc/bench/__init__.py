"""Benchmarks: models and bundles timed against each other in one interleaved run, with the evidence beside the numbers.

Numbers from two runs are never compared; ``bench`` takes all that is to be compared at once.
"""

from .report import BenchReport, Entry, write_report
from .run import bench

__all__ = ["BenchReport", "Entry", "bench", "write_report"]
