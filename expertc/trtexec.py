"""The command lines that compile an expert with TensorRT's own ``trtexec``, for devices without Python.

Its flags differ by release: ``--buildOnly`` became ``--skipInference`` in 8.6; from 10.0 on a network may be typed by
its graph (``--stronglyTyped``), and 11.0 dropped the flags of precision ("Migrating trtexec Usage from TensorRT 10.x to
11.x", docs.nvidia.com). An expert's precision stands in its graph: before 10.0 the flag only allows what it asks for.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import indent, wrap

from .targets import Release, Target, release
from .text import clean_text

PROFILE = (1, 1, 8)
"""Images per call that an expert of any number is compiled for: the fewest, those it is to be fastest with, the most. A
choice of ours: one by one from a camera, and a few where they come at once."""

_WIDTH = 76  # of a line, before it is indented


@dataclass(frozen=True)
class Generation:
    """Releases from ``since`` to before ``until`` take the same flags."""

    name: str
    since: Release
    until: Release
    flags: tuple[str, ...]
    typed: bool

    def meets(self, target: Target) -> bool:
        """Whether one of them may be on the device."""
        newest = target.facts.get("tensorrt_max")
        oldest = target.tensorrt_min
        return (oldest is None or oldest < self.until) and (newest is None or release(str(newest)) >= self.since)


GENERATIONS = (
    Generation("8.5", (0, 0), (8, 6), ("--buildOnly",), False),
    Generation("8.6", (8, 6), (10, 0), ("--skipInference",), False),
    Generation("10.x", (10, 0), (11, 0), ("--stronglyTyped", "--skipInference"), True),
    Generation("11.x", (11, 0), (1000, 0), ("--skipInference",), True),
)


def command(
    generation: Generation, target: Target, precision: str, image: str, shape: Sequence[int | str | None]
) -> str:
    """One command line, which the shell may be given as it stands.

    ``shape`` is that of the input ``image``; its first axis takes the sizes of ``PROFILE`` if it is not a number.
    """
    words = ["trtexec", "--onnx=expert.onnx", "--saveEngine=expert.plan"]
    if not generation.typed and precision != "fp32":
        words.append(f"--{precision}")
    words.append("--noTF32")  # what was verified has 23 bits of mantissa, not 10
    if target.workspace_mb is not None:
        words.append(f"--memPoolSize=workspace:{target.workspace_mb}")
    if shape and not isinstance(shape[0], int):
        for limit, images in zip(("min", "opt", "max"), PROFILE, strict=True):
            sizes = "x".join(map(str, (images, *shape[1:])))
            words.append(f"--{limit}Shapes={clean_text(image)}:{sizes}")
    return " ".join(map(shlex.quote, (*words, *generation.flags)))


def section(target: Target, precision: str, image: str, shape: Sequence[int | str | None]) -> str:
    """The part of a bundle's README about TensorRT."""
    return "".join(f"{line}\n" for line in _lines(target, precision, image, shape))


def _lines(target: Target, precision: str, image: str, shape: Sequence[int | str | None]) -> Iterator[str]:
    if target.is_host:
        yield "With TensorRT"
        yield "  Build it for the device: expertc build --target NAME (expertc targets lists them)"
        return
    yield f"With TensorRT, on the device: {clean_text(target.description)}"
    yield "  expertc compile DIRECTORY" if target.has_python else "  as below: expertc needs Python 3.10"
    yield ""
    yield "With TensorRT alone, on the device"
    for generation in GENERATIONS:
        if generation.meets(target):
            yield f"  TensorRT {generation.name}"
            line = command(generation, target, precision, image, shape)
            yield indent(_folded(line), "    ")


def _folded(line: str) -> str:
    """A command over several lines, each of which but the last ends in a backslash; what is quoted is left whole."""
    if "'" in line:
        return line
    return " \\\n  ".join(wrap(line, _WIDTH - 6, break_long_words=False, break_on_hyphens=False))
