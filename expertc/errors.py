"""Every error expertc raises on purpose, and the exit code each one ends in.

::

    ExpertcError                      1  (INTERNAL: only if nothing more precise fits)
    ├── UsageError                    2  options, class names, selections
    │   └── SelectionError            2
    ├── InvalidArtifactError          3  a model, bundle, label list or taxonomy is missing or wrong
    │   ├── ModelError                3
    │   ├── CardError                 3
    │   ├── TaxonomyError             3
    │   ├── LabelsError               3
    │   └── BundleError               3
    ├── UnsupportedError              4  the target cannot run it
    ├── VerificationError             5  the expert does not agree with the full model
    ├── CompilationError              6
    ├── DeviceMismatchError           7
    ├── DeploymentError               8
    ├── FileSystemError               9  not writable, already there, disk full
    ├── DataError                    10  images or calibration set missing, empty, unusable
    └── RegressionError              11

An error says in one sentence what is wrong and in one (``hint``) what to do about it. It is raised where the fact is
known and printed in one place, ``expertc.cli``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the ``expertc`` process ends with."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    INVALID = 3
    UNSUPPORTED = 4
    VERIFICATION = 5
    COMPILATION = 6
    DEVICE_MISMATCH = 7
    DEPLOYMENT = 8
    FILE_SYSTEM = 9
    DATA = 10
    REGRESSION = 11
    INTERRUPTED = 130


class ExpertcError(Exception):
    """Base of everything raised on purpose.

    ``message`` is one sentence saying what is wrong, ``hint`` one sentence saying what to do ("" where there is
    nothing to add).
    """

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ExpertcError):
    """An option or an argument is wrong."""

    exit_code = ExitCode.USAGE


class SelectionError(UsageError):
    """The class selection cannot be resolved against the taxonomy."""


class InvalidArtifactError(ExpertcError):
    """A file that was handed in is missing, damaged or not what it should be."""

    exit_code = ExitCode.INVALID


class ModelError(InvalidArtifactError):
    """The ONNX model is missing, unreadable, or not a classifier that can be cut."""


class CardError(InvalidArtifactError):
    """The model card is missing, malformed, or contradicts the graph."""


class TaxonomyError(InvalidArtifactError):
    """The taxonomy file is missing or malformed."""


class LabelsError(InvalidArtifactError):
    """The label list is missing, malformed, or does not fit the model."""


class BundleError(InvalidArtifactError):
    """The bundle directory is incomplete, damaged or tampered with."""


class UnsupportedError(ExpertcError):
    """The target device cannot run this model."""

    exit_code = ExitCode.UNSUPPORTED


class OutOfMemoryError(UnsupportedError):
    """This machine has too little memory to run the model on such an input."""


class VerificationError(ExpertcError):
    """The expert does not agree with the full model."""

    exit_code = ExitCode.VERIFICATION


class CompilationError(ExpertcError):
    """The backend could not compile the expert."""

    exit_code = ExitCode.COMPILATION


class DeviceMismatchError(ExpertcError):
    """A compiled engine belongs to another device or library version."""

    exit_code = ExitCode.DEVICE_MISMATCH


class DeploymentError(ExpertcError):
    """Shipping a bundle to a device failed."""

    exit_code = ExitCode.DEPLOYMENT


class FileSystemError(ExpertcError):
    """A path cannot be written: it exists, is read-only, or the disk is full."""

    exit_code = ExitCode.FILE_SYSTEM


class DataError(ExpertcError):
    """Images, or a data set, are missing, empty or unusable."""

    exit_code = ExitCode.DATA


class RegressionError(ExpertcError):
    """A measurement is worse than the one it is compared with."""

    exit_code = ExitCode.REGRESSION
