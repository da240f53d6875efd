"""Photos a child could sort, and a network of a few thousand weights."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image

from expertc.taxonomy import Node, Taxonomy
from expertc.training import Recipe, Stage

COLOURS = {"reds": (200, 30, 30), "greens": (30, 200, 30), "blues": (30, 30, 200), "greys": (120, 120, 120)}


@dataclass(frozen=True)
class Swatches:
    """``LabelledImages`` of noisy colours; ``order`` permutes them, ``spoiled`` ones are no images."""

    order: Sequence[int]
    classes: tuple[str, ...] = tuple(COLOURS)
    folder: str = ""
    spoiled: frozenset[int] = field(default_factory=frozenset)

    def __len__(self) -> int:
        return len(self.order)

    def label(self, index: int) -> int:
        return self.order[index] % len(self.classes)

    def name(self, index: int) -> str:
        return f"{self.folder}{self.classes[self.label(index)]}/{self.order[index]}.png"

    def open(self, index: int) -> io.BytesIO:
        if self.order[index] in self.spoiled:
            return io.BytesIO(b"no image")
        noise = np.random.default_rng(self.order[index]).integers(-30, 31, (32, 32, 3))
        pixels = np.array(COLOURS[self.classes[self.label(index)]]) + noise
        encoded = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(encoded, "png")
        return io.BytesIO(encoded.getvalue())


@pytest.fixture
def swatches() -> type[Swatches]:
    return Swatches


@pytest.fixture
def taxonomy() -> Taxonomy:
    vivid = Node("vivid", (Node("greens", index=0), Node("reds", index=2), Node("blues", index=1)))
    return Taxonomy("colours", (vivid, Node("greys", index=3)))


@pytest.fixture
def recipe() -> Recipe:
    """Two stages of two epochs; everything random is on: crops, flips, jitter, mixing, dropout."""
    common = {"epochs": 2, "size": 32, "lr": 0.05, "batch": 8, "mix": 0.5, "ema_decay": 0.8}
    return Recipe(
        name="colours",
        taxonomy="colours",
        arch="nhl",
        stages=(Stage("first", **common), Stage("second", warmup_epochs=0.5, **common)),
        arch_args={
            "backbone": "resnet18",
            "backbone_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]},
            "widths": [4, 4],
            "strides": [1, 1],
            "drop_rate": 0.1,
        },
        size=32,
        holdout=0.2,
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, so that results can be compared bit by bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
