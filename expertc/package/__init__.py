"""What other servers and pipelines read: a bundle as a Triton model repository, or as a configuration of DeepStream.

A package is made of files that stand for themselves: nothing in it needs expertc.
"""

from .package import FORMATS, Packaged, package

__all__ = ["FORMATS", "Packaged", "package"]
