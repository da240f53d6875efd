"""Images for training: split, augmented and batched."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError
from ..runtime.dataset import LabelledImages
from ..runtime.images import load_image
from ..runtime.matching import match_classes
from ..taxonomy import Taxonomy
from ..text import shown
from ..zoo import import_timm
from .recipe import Recipe, Stage

CACHE_BYTES = 2 * 2**30


class Decoded:
    """``indices`` of ``images``, decoded once and kept in memory while they fit in 2 GiB, else decoded each time.

    Raises ``DataError`` naming an image that cannot be decoded.
    """

    def __init__(self, images: LabelledImages, indices: Sequence[int], labels: dict[int, int]) -> None:
        self.images, self.indices = images, indices
        self.labels = [labels[images.label(index)] for index in indices]
        self._kept: list[Image.Image] = []
        held = 0
        for index in indices:
            image = self._decode(index)
            held += image.width * image.height * 3
            if held > CACHE_BYTES:
                break
            self._kept.append(image)

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, item: int) -> Image.Image:
        """The image of ``indices[item]``, RGB."""
        return self._kept[item] if item < len(self._kept) else self._decode(self.indices[item])

    def _decode(self, index: int) -> Image.Image:
        return load_image(self.images.open(index), self.images.name(index))


class Photos(Dataset[tuple[Tensor, int]]):
    """Decoded images through ``transform``: ``(uint8 [3, H, W], class)``; ``normalise`` works on whole batches."""

    def __init__(self, source: Decoded, transform: Callable[[Any], Tensor]) -> None:
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        return self.transform(self.source.image(item)), self.source.labels[item]


def normalise(x: Tensor, recipe: Recipe, device: str) -> Tensor:
    """A batch of uint8 images ``[N, 3, H, W]`` as normalised float32, channels last."""
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) * 255 for v in (recipe.mean, recipe.std))
    return ((x.to(device).float() - mean) / std).contiguous(memory_format=torch.channels_last)


def label_map(images: LabelledImages, taxonomy: Taxonomy) -> dict[int, int]:
    """The class of ``taxonomy`` for each class of ``images`` that it knows, by name, label or synset.

    Raises ``DataError`` if a class of ``taxonomy`` is none of the images'.
    """
    known = match_classes(images.classes, taxonomy.classes, taxonomy)
    labels = {k: known[name] for k, name in enumerate(images.classes) if name in known}
    for index in sorted(set(range(len(taxonomy))) - set(labels.values())):
        raise DataError(
            f"The images have no class {shown(taxonomy.classes[index])}.",
            f"Use the taxonomy that belongs to the images; they have {_listed(images.classes)}.",
        )
    return labels


def require_known(images: LabelledImages, taxonomy: Taxonomy) -> None:
    """Raise ``DataError`` if ``taxonomy`` does not know a class of ``images``."""
    known = match_classes(images.classes, taxonomy.classes, taxonomy)
    if unknown := [name for name in images.classes if name not in known]:
        raise DataError(
            f"The taxonomy has no class for the images of {_listed(unknown)}.",
            "Add it to the taxonomy, or choose the classes to train with --classes.",
        )


def require_images(images: LabelledImages, labels: dict[int, int], train: Iterable[int], taxonomy: Taxonomy) -> None:
    """Raise ``DataError`` if there are fewer than two images to ``train`` on, or none of some class."""
    counts = Counter(labels[images.label(index)] for index in train)
    if counts.total() < 2:
        raise DataError("There are fewer than two images to train on.", "Give more images, or a smaller holdout.")
    for index in sorted(set(range(len(taxonomy))) - counts.keys()):
        raise DataError(
            f"The class {shown(taxonomy.classes[index])} has no images to train on.",
            "Give it images, or take it out of the taxonomy.",
        )


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(shown(name) for name in names[:most]) + (", ..." if len(names) > most else "")


def split(images: LabelledImages, labels: dict[int, int], holdout: float) -> tuple[list[int], list[int]]:
    """Divide the images with a known label into (train, holdout), by a hash of their name.

    The name is the file's and its folder's, so neither the order of the images nor where they lie changes the split.
    """
    train: list[int] = []
    held: list[int] = []
    for index in range(len(images)):
        if images.label(index) in labels:
            name = "/".join(PurePath(images.name(index)).parts[-2:])
            digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
            (held if int.from_bytes(digest[:4], "big") < holdout * 2**32 else train).append(index)
    return train, held


def train_loader(
    photos: Photos, batch: int, seed: int, workers: int, process: int = 0
) -> DataLoader[tuple[Tensor, int]]:
    """A shuffled loader whose order depends on ``seed`` alone, its workers' augmentation on ``process`` too."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        photos,
        batch,
        shuffle=True,
        drop_last=len(photos) > batch,
        num_workers=workers,
        generator=generator,
        worker_init_fn=partial(_seed_worker, process),
    )


def seed_all(seed: int, process: int = 0) -> None:
    """Seed all three generators that training draws from: dropout, timm's transforms, timm's mixup and RandAugment."""
    seed += 1_000_003 * process
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _seed_worker(process: int, _: int) -> None:
    seed_all(torch.initial_seed(), process)


def train_transform(recipe: Recipe, stage: Stage) -> Callable[[Any], Tensor]:
    """timm's training transform for a stage: random resized crop, flip, RandAugment or colour jitter.

    With ``pad`` the crop is one of the image's own size, of the image with a border of the mean around it.
    """
    made = _transform(
        recipe,
        stage.size,
        is_training=True,
        scale=(stage.scale, 1.0),
        color_jitter=stage.colour_jitter,
        auto_augment=stage.auto_augment or None,
        mean=recipe.mean,  # what a turned or shifted image is filled up with
    )
    if stage.pad:
        from torchvision.transforms import RandomCrop, Resize

        fill = tuple(round(255 * share) for share in recipe.mean)
        cropped = next(at for at, step in enumerate(made.transforms) if "Crop" in type(step).__name__)
        made.transforms[cropped : cropped + 1] = [Resize(stage.size), RandomCrop(stage.size, stage.pad, fill=fill)]
    found: Callable[[Any], Tensor] = made
    return found


def eval_transform(recipe: Recipe, size: int) -> Callable[[Any], Tensor]:
    """timm's evaluation transform: resize, centre crop of the whole image."""
    made: Callable[[Any], Tensor] = _transform(recipe, size, is_training=False, crop_pct=1.0)
    return made


def _transform(recipe: Recipe, size: int, **options: Any) -> Any:
    import_timm()
    from timm.data import create_transform

    return create_transform((3, size, size), interpolation=recipe.interpolation, use_prefetcher=True, **options)
