"""Calibration photos: of every class as many, half to observe and half to judge on; what is wrong is said."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expertc.card import Preprocess
from expertc.errors import DataError, ExitCode
from expertc.evaluate.calibration import Calibration, calibration
from expertc.taxonomy import Taxonomy

SPEC = Preprocess.imagenet(8)
LABELS = ("rays", "sharks")


def photo(file: Path, level: int) -> None:
    """A picture of one grey, which its tensor tells."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 12), (level,) * 3).save(file)


def folder(root: Path, **counts: int) -> Path:
    """As many photos of each class; those of the nth have levels from 50 n up."""
    for number, (name, count) in enumerate(counts.items()):
        for index in range(count):
            photo(root / name / f"{index:03}.png", 50 * number + index)
    return root


def levels(found: np.ndarray) -> list[int]:
    """What greys the tensors were made of."""
    red = found[:, 0, 0, 0] * SPEC.std[0] + SPEC.mean[0]
    return np.rint(255 * red).astype(int).tolist()


def read(path: Path, **options: object) -> Calibration:
    return calibration(path, SPEC, LABELS, **options)  # type: ignore[arg-type]


def test_equally_many_of_each_class_and_every_other_to_judge(tmp_path: Path) -> None:
    """Of the expert's classes alone; one class has too few, the other makes up for it."""
    told: list[tuple[int, int]] = []
    found = read(
        folder(tmp_path, rays=4, crabs=9, sharks=20), most=12, progress=lambda done, total: told.append((done, total))
    )
    both = sorted(levels(found.observed) + levels(found.judged))
    assert both[:4] == [0, 1, 2, 3]
    assert len(both) == 12
    assert min(both[4:]) == 100
    assert max(both[4:]) == 119
    assert not set(levels(found.observed)) & set(levels(found.judged))
    assert len(found.observed) == len(found.judged) == 6
    assert told[0] == (0, 12)
    assert told[-1] == (12, 12)
    assert found.notes == ()


def test_names_are_those_of_the_full_model(tmp_path: Path) -> None:
    tree = Taxonomy.flat(["crabs", "rays", "sharks"])
    found = read(folder(tmp_path, crabs=3, Sharks=2, ray=2), taxonomy=tree)
    assert sorted(levels(found.observed) + levels(found.judged)) == [50, 51, 100, 101]


def test_a_packed_set(tmp_path: Path) -> None:
    """It is observed on what was trained on, and judged on what was not."""
    for split, level in (("train", 40), ("val", 200)):
        files = []
        for index in range(4):
            file = io.BytesIO()
            Image.new("RGB", (12, 12), (level + index,) * 3).save(file, "PNG")
            files.append(file.getvalue())
        sizes = np.cumsum([0, *map(len, files)])
        blob = np.frombuffer(b"".join(files), np.uint8)
        np.savez(tmp_path / f"{split}.npz", jpeg=blob, offset=sizes, label=np.array([0, 0, 1, 1], np.int16))
    (tmp_path / "meta.json").write_text(json.dumps({"classes": [{"label": "sharks"}, {"label": "rays"}]}))
    found = read(tmp_path)
    assert sorted(levels(found.observed)) == [40, 41, 42, 43]
    assert sorted(levels(found.judged)) == [200, 201, 202, 203]


def test_just_a_folder_of_photos(tmp_path: Path) -> None:
    for index in range(6):
        photo(tmp_path / f"{index}.png", index)
    assert sorted(levels(read(tmp_path, most=4).observed)) == [0, 3]
    assert read(tmp_path).notes == ()


def test_what_is_noted(tmp_path: Path) -> None:
    [one] = read(folder(tmp_path / "one", sharks=4, crabs=4)).notes
    assert "of the class 'sharks'" in one
    years = folder(tmp_path / "years", **{"2023": 2, "2024": 2})
    [other] = read(years).notes
    assert "called like a class" in other
    (folder(tmp_path / "odd", sharks=3, rays=3) / "rays" / "broken.png").write_bytes(b"GIF89a")
    [lost] = read(tmp_path / "odd").notes
    assert lost.startswith("1 of 7 calibration photos")
    assert "broken.png" in lost


def empty(root: Path) -> None:
    (root / "notes.txt").write_text("no photos")


def missing(root: Path) -> None:
    root.rmdir()


def single(root: Path) -> None:
    photo(root / "sharks" / "a.png", 3)


def broken(root: Path) -> None:
    for name in "ab":
        (root / f"{name}.jpg").write_bytes(b"\xff\xd8 and then nothing")


def of_others(root: Path) -> None:
    np.savez(root / "train.npz", jpeg=np.zeros(4, np.uint8), offset=np.array([0, 4]), label=np.zeros(1, np.int16))
    (root / "meta.json").write_text('{"classes": [{"label": "crabs"}]}')


def wrong_size(root: Path) -> None:
    np.savez(root / "train.npz", jpeg=np.zeros(4, np.uint8), offset=np.array([0, 9]), label=np.zeros(1, np.int16))
    (root / "meta.json").write_text('{"classes": [{"label": "sharks"}]}')


@pytest.mark.parametrize(
    "case", [empty, missing, single, broken, of_others, wrong_size], ids=lambda case: case.__name__
)
def test_what_cannot_be_calibrated_on(case: object, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    case(root)  # type: ignore[operator]
    with pytest.raises(DataError) as caught:
        read(root)
    assert caught.value.exit_code == ExitCode.DATA
    assert caught.value.hint
