"""Which photos are of other things."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rainbow import TAXONOMY, photos, picture

from expertc.errors import DataError
from expertc.evaluate.others import Others, open_others

WARM = ("reds", "yellows")


def names(found: Others) -> list[str]:
    return [Path(found.images.name(index)).parent.name for index in found.indices]


def test_own_classes_are_left_out_wherever_they_are(tmp_path: Path) -> None:
    photos(tmp_path / "all", each=2)
    picture(tmp_path / "all" / "loose.png", (9, 9, 9))
    picture(tmp_path / "all" / "trees" / "oak.png", (9, 9, 9))
    picture(tmp_path / "all" / "box" / "Red Things" / "1" / "deep.png", (9, 9, 9))  # the label of reds
    found = open_others(tmp_path / "all", "val", WARM, TAXONOMY)
    assert sorted(names(found)) == ["all", "blues", "blues", "greens", "greens", "trees"]
    assert found.own == 5
    assert all(found.images.open(index).is_file() for index in found.indices)  # type: ignore[union-attr]


def test_without_the_full_models_classes(tmp_path: Path) -> None:
    """The label is then not known to be one of the expert's own."""
    picture(tmp_path / "Reds" / "a.png", (1, 1, 1))
    picture(tmp_path / "greens" / "a.png", (1, 1, 1))
    assert names(open_others(tmp_path, "val", WARM)) == ["greens"]


def test_packed(tmp_path: Path) -> None:
    data = np.frombuffer(picture(tmp_path / "a.png", "reds").read_bytes(), np.uint8)
    offsets = np.arange(5) * len(data)
    np.savez(tmp_path / "test.npz", jpeg=np.tile(data, 4), offset=offsets, label=np.array([1, 0, 1, 2], np.int16))
    meta = {"classes": [{"label": "Reds", "path": "warm/reds"}, {"label": "x"}, {"label": "blues"}]}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    found = open_others(tmp_path, "test", WARM, TAXONOMY)
    assert (found.indices, found.own) == ((0, 2, 3), 1)


def test_a_folder_of_an_own_class_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path, ("reds", "greens"))
    with pytest.raises(DataError, match="own classes"):
        open_others(tmp_path / "reds", "val", WARM, TAXONOMY)
    monkeypatch.chdir(tmp_path / "reds")
    with pytest.raises(DataError, match="own classes"):
        open_others(".", "val", WARM, TAXONOMY)
    assert len(open_others(tmp_path / "greens", "val", WARM, TAXONOMY).indices) == 3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: photos(folder, WARM), "All photos in .* are of the expert's own classes"),
        (lambda folder: folder.mkdir(), "holds no images"),
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.write_text("x"), "is a file, not a folder"),
    ],
)
def test_no_others(tmp_path: Path, make, words) -> None:
    make(tmp_path / "others")
    with pytest.raises(DataError, match=words):
        open_others(tmp_path / "others", "val", WARM, TAXONOMY)
