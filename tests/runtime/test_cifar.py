"""CIFAR's binary version, written here as its page describes it, and the halves of a held-out set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expertc.errors import DataError
from expertc.runtime.dataset import open_dataset
from expertc.runtime.images import load_image
from expertc.runtime.matching import match_classes
from expertc.taxonomy import Taxonomy

FINE = ("apple", "aquarium_fish", "lawn_mower")
COARSE = ("fish", "fruit_and_vegetables")
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def hundred(tmp_path: Path) -> Path:
    for split, rows in (("train", range(5)), ("test", range(5, 8))):
        records = [bytes([row % 2, row % 3]) + PIXELS[row].transpose(2, 0, 1).tobytes() for row in rows]
        (tmp_path / f"{split}.bin").write_bytes(b"".join(records))
    (tmp_path / "fine_label_names.txt").write_text("\n".join(FINE) + "\n")
    (tmp_path / "coarse_label_names.txt").write_text("\n".join(COARSE) + "\n")
    return tmp_path


def test_fine_and_coarse_labels(hundred: Path) -> None:
    for split, rows in (("train", range(5)), ("test", range(5, 8))):
        fine, coarse = open_dataset(hundred, split), open_dataset(hundred, f"{split}:coarse")
        assert (fine.classes, coarse.classes) == (FINE, COARSE)
        assert [fine.label(i) for i in range(len(fine))] == [row % 3 for row in rows]
        assert [coarse.label(i) for i in range(len(coarse))] == [row % 2 for row in rows]
        for index, row in enumerate(rows):
            for images in (fine, coarse):
                np.testing.assert_array_equal(np.asarray(load_image(images.open(index))), PIXELS[row])
    assert match_classes(FINE, Taxonomy.shipped("cifar100").classes).keys() == set(FINE)


def test_the_coarse_names_are_the_shipped_taxonomys(hundred: Path) -> None:
    tree = Taxonomy.shipped("cifar100")
    assert match_classes(COARSE, [node.name for node in tree.nodes()]).keys() == set(COARSE)


def test_cifar_10(tmp_path: Path) -> None:
    for number in (1, 2):
        rows = range(4 * number - 4, 4 * number)
        records = [bytes([row % 2]) + PIXELS[row].transpose(2, 0, 1).tobytes() for row in rows]
        (tmp_path / f"data_batch_{number}.bin").write_bytes(b"".join(records))
    (tmp_path / "batches.meta.txt").write_text("airplane\nautomobile\n\n")
    images = open_dataset(tmp_path, "train")
    assert images.classes == ("airplane", "automobile")
    assert [images.label(i) for i in range(len(images))] == [0, 1] * 4
    np.testing.assert_array_equal(np.asarray(Image.open(images.open(6))), PIXELS[6])
    with pytest.raises(DataError, match=r"test_batch\.bin' cannot be read"):
        open_dataset(tmp_path, "test")
    with pytest.raises(DataError, match="no split 'train:coarse'"):
        open_dataset(tmp_path, "train:coarse")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("test.bin", b"\0" * 3073, "whole number of records of 3074"),
        ("test.bin", b"\0\3" + b"\0" * 3072, "do not belong together"),
        ("test.bin", b"", "do not belong together"),
        ("fine_label_names.txt", b"\xff\xfe", "no names"),
    ],
)
def test_a_file_that_is_none(hundred: Path, file: str, content: bytes, words: str) -> None:
    (hundred / file).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        open_dataset(hundred, "test")
    assert caught.value.hint
    with pytest.raises(DataError, match="no split 'val'"):
        open_dataset(hundred)


def test_the_halves(data_dir: Path) -> None:
    whole = open_dataset(data_dir / "cifar10", "test")
    tuning, report = (open_dataset(data_dir / "cifar10", f"test:{half}") for half in ("tuning", "report"))
    names = [{images.name(i) for i in range(len(images))} for images in (tuning, report)]
    assert not names[0] & names[1]
    assert names[0] | names[1] == {whole.name(i) for i in range(len(whole))}
    for images in (tuning, report):
        assert images.classes == whole.classes
        assert np.bincount([images.label(i) for i in range(len(images))]).tolist() == [500] * 10
    again = {whole.name(i): i for i in range(len(whole))}
    for index in range(0, len(report), 997):
        same = again[report.name(index)]
        assert report.label(index) == whole.label(same)
        assert report.open(index).getvalue() == whole.open(same).getvalue()  # type: ignore[union-attr]
