from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from expertc.errors import DataError
from expertc.runtime.dataset import PackedImages, expand_images, find_images, open_dataset
from expertc.taxonomy import Taxonomy


def jpeg(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "JPEG")
    return out.getvalue()


META = {"classes": [{"label": "Red things", "path": "warm/reds"}, {"label": "blues"}]}
FILES = [jpeg("red"), jpeg("blue"), jpeg("red")]


def pack(folder: Path, meta: Any = META, **changed: Any) -> Path:
    arrays = {
        "jpeg": np.frombuffer(b"".join(FILES), np.uint8),
        "offset": np.cumsum([0] + [len(file) for file in FILES]).astype(np.int64),
        "label": np.array([0, 1, 0], np.int16),
        "name": np.array([b"one.jpg", b"t\x1b[31mwo.jpg", b"\xff.jpg"]),
    } | changed
    np.savez_compressed(folder / "val.npz", **{key: value for key, value in arrays.items() if value is not None})
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def test_packed_images(tmp_path: Path) -> None:
    images = open_dataset(pack(tmp_path))
    assert len(images) == 3
    assert images.classes == ("reds", "blues")
    assert [images.label(i) for i in range(3)] == [0, 1, 0]
    assert [images.name(i) for i in range(3)] == ["one.jpg", "t[31mwo.jpg", "�.jpg"]
    assert [images.open(i).getvalue() for i in range(3)] == FILES  # type: ignore[union-attr]


def test_packed_images_without_names(tmp_path: Path) -> None:
    assert open_dataset(pack(tmp_path, name=None)).name(2) == "#2"


BROKEN: dict[str, dict[str, Any]] = {
    "no pixels": {"jpeg": None},
    "no labels": {"label": None},
    "pixels that are no bytes": {"jpeg": np.zeros(9000, np.float32)},
    "offsets beyond the end": {"offset": np.array([0, 1, 2, 10**9])},
    "offsets that go back": {"offset": np.array([0, 700, 5, 800])},
    "unsigned offsets that go back": {"offset": np.array([0, 700, 5, 800], np.uint64)},
    "negative offsets": {"offset": np.array([-5, 1, 2, 3])},
    "fractional offsets": {"offset": np.array([0.5, 1, 2, 3])},
    "too few offsets": {"offset": np.array([0, 1])},
    "a label too high": {"label": np.array([0, 1, 2])},
    "a label too low": {"label": np.array([0, -1, 1])},
    "labels in two dimensions": {"label": np.array([[0], [1], [0]])},
    "nothing at all": {"offset": np.array([0]), "label": np.array([], np.int16), "name": None},
    "one name missing": {"name": np.array([b"a", b"b"])},
    "names that are numbers": {"name": np.array([1, 2, 3])},
    "no classes": {"meta": {}},
    "classes that are numbers": {"meta": {"classes": [1, 2]}},
    "a list": {"meta": []},
    "a class without a name": {"meta": {"classes": [{}, {}]}},
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_packed_set_that_contradicts_itself(tmp_path: Path, what: str) -> None:
    with pytest.raises(DataError, match=r"val\.npz"):
        open_dataset(pack(tmp_path, **BROKEN[what]))


class Trap:
    """Makes a folder if it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("where", ["jpeg", "offset", "label", "name"])
def test_nothing_is_unpickled(tmp_path: Path, where: str) -> None:
    trap = np.array([Trap(tmp_path / "sprung")] * 3, dtype=object)
    with pytest.raises(DataError, match="packed"):
        open_dataset(pack(tmp_path, **{where: trap}))
    assert not (tmp_path / "sprung").exists()


def test_unsigned_labels_and_offsets_will_do(tmp_path: Path) -> None:
    offsets = np.cumsum([0] + [len(file) for file in FILES]).astype(np.uint32)
    images = open_dataset(pack(tmp_path, offset=offsets, label=np.array([0, 1, 0], np.uint8)))
    assert images.open(2).getvalue() == FILES[2]  # type: ignore[union-attr]


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:200] + bytes(255 - byte for byte in data[200:400]) + data[400:]


@pytest.mark.parametrize(
    "damage", [half, flipped, lambda data: b"", lambda data: b"PK\3\4 nonsense", lambda data: b"none"]
)
def test_a_damaged_file(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = pack(tmp_path) / "val.npz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=r"val\.npz") as caught:
        open_dataset(tmp_path)
    assert "allow_pickle" not in caught.value.message + caught.value.hint  # numpy's advice is to unpickle it


def test_a_missing_or_damaged_list_of_classes(tmp_path: Path) -> None:
    pack(tmp_path)
    (tmp_path / "meta.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="packed"):
        open_dataset(tmp_path)
    (tmp_path / "meta.json").unlink()
    with pytest.raises(DataError, match="packed"):
        open_dataset(tmp_path)


def test_an_archive_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(tmp_path, jpeg=np.zeros(2**20, np.uint8))
    assert (tmp_path / "val.npz").stat().st_size < 2**14
    monkeypatch.setattr("expertc.runtime.dataset.MAX_PACKED_BYTES", 2**19)
    with pytest.raises(DataError, match="unpacks"):
        open_dataset(tmp_path)


def test_an_array_header_that_lies_about_its_size(tmp_path: Path) -> None:
    pack(tmp_path)
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": (2**62,)})
    with zipfile.ZipFile(tmp_path / "val.npz") as old:
        members = {name: old.read(name) for name in old.namelist()} | {"jpeg.npy": out.getvalue()}
    with zipfile.ZipFile(tmp_path / "val.npz", "w") as new:
        for name, data in members.items():
            new.writestr(name, data)
    with pytest.raises(DataError, match="packed"):
        open_dataset(tmp_path)


def tree(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(FILES[0])
    return folder


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    tree(tmp_path, "sharks/b.jpg", "sharks/a.PNG", "rays/x/deep.jpeg", ".git/no.jpg", "sharks/._a.jpg", "top.jpg")
    (tmp_path / "rays" / "readme.txt").touch()
    (tmp_path / "empty").mkdir()
    images = open_dataset(tmp_path)
    assert images.classes == ("empty", "rays", "sharks")
    assert [images.label(i) for i in range(len(images))] == [1, 2, 2]
    assert [Path(images.name(i)).name for i in range(3)] == ["deep.jpeg", "a.PNG", "b.jpg"]
    assert images.open(0) == tmp_path / "rays" / "x" / "deep.jpeg"


def test_a_split_is_a_folder_or_a_file(tmp_path: Path) -> None:
    tree(tmp_path, "train/a/1.jpg", "val/b/2.jpg")
    assert open_dataset(tmp_path).classes == ("b",)
    assert open_dataset(tmp_path, "train").classes == ("a",)
    pack(tmp_path)
    assert isinstance(open_dataset(tmp_path), PackedImages)


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "gone")
    with pytest.raises(DataError, match=r"file\.jpg' is a file, not a folder"):
        open_dataset(tree(tmp_path / "one", "file.jpg") / "file.jpg")
    with pytest.raises(DataError, match="no images in class folders"):
        open_dataset(tmp_path / "one")
    (tmp_path / "packed").mkdir()
    with pytest.raises(DataError, match=r"has no split 'test', but val\."):
        open_dataset(pack(tmp_path / "packed"), "test")


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(DataError, match="Permission denied"):
        open_dataset(tmp_path)


def test_names_of_classes_are_cleaned(tmp_path: Path) -> None:
    assert open_dataset(tree(tmp_path, "sh\x1b[31marks/a.jpg")).classes == ("sh[31marks",)


def test_the_real_set(data_dir: Path) -> None:
    images = open_dataset(data_dir / "sea-animals-128")
    assert len(images) == 1358
    assert len(images.classes) == 23
    counts = {name: sum(images.classes[images.label(i)] == name for i in range(len(images))) for name in images.classes}
    assert (counts["sharks"], counts["rays"]) == (57, 52)
    with Image.open(images.open(0)) as image:
        assert image.size == (128, 128)


@pytest.mark.parametrize(
    ("folder", "tree", "train", "other", "images", "side"),
    [
        ("imagenette-128", "imagenette", 9469, "val", 3925, 128),
        ("imagewoof-128", "imagewoof", 9025, "val", 3929, 128),
        ("tiny-imagenet-32", "tiny-imagenet", 100_000, "val", 10_000, 32),
        ("cifar10", "cifar10", 50_000, "test", 10_000, 32),
        ("sea-animals-128", "sea-animals", 10_822, "val", 1358, 128),
    ],
)
def test_the_real_sets_and_their_taxonomies(
    data_dir: Path, folder: str, tree: str, train: int, other: str, images: int, side: int
) -> None:
    taxonomy = Taxonomy.shipped(tree)
    for split, count in (("train", train), (other, images)):
        found = open_dataset(data_dir / folder, split)
        assert len(found) == count
        assert found.classes == taxonomy.classes
        assert {found.label(index) for index in range(count)} == set(range(len(taxonomy)))
        for index in (0, count // 2, count - 1):
            with Image.open(found.open(index)) as image:
                assert (image.size, image.mode) == ((side, side), "RGB")


def test_the_real_labels_are_those_of_the_names(data_dir: Path) -> None:
    """The file names of these sets begin with what the class is called at their source."""
    for folder, tree in (("imagenette-128", "imagenette"), ("imagewoof-128", "imagewoof"), ("cifar10", "cifar10")):
        taxonomy = Taxonomy.shipped(tree)
        images = open_dataset(data_dir / folder, "train")
        for index in range(0, len(images), 97):
            leaf = taxonomy.leaves[images.label(index)]
            assert images.name(index).partition("/")[0] == (leaf.synset or leaf.name)


# -- lists of images -------------------------------------------------------------------------------------------------


def test_expand_images(tmp_path: Path) -> None:
    tree(tmp_path, "f/b.jpg", "f/a.webp", "f/sub/c.TIF", "f/.hidden/d.jpg", "f/._b.jpg", "odd.dat", "z.png")
    (tmp_path / "f" / "notes.txt").touch()
    (tmp_path / "f" / "folder.jpg").mkdir()
    given = [tmp_path / "z.png", str(tmp_path / "f"), tmp_path / "missing.jpg", tmp_path / "odd.dat"]
    names = ["z.png", "f/a.webp", "f/b.jpg", "f/sub/c.TIF", "missing.jpg", "odd.dat"]
    assert expand_images(given) == [tmp_path / name for name in names]


def test_hidden_folders_above_do_not_matter(tmp_path: Path) -> None:
    assert len(find_images(tree(tmp_path / ".cache", "a.jpg"))) == 1


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty' holds no images"):
        expand_images([tmp_path / "empty"])


def test_a_link_that_loops_is_not_followed(tmp_path: Path) -> None:
    tree(tmp_path, "f/a.jpg")
    (tmp_path / "f" / "loop").symlink_to(tmp_path / "f")
    assert expand_images([tmp_path / "f"]) == [tmp_path / "f" / "a.jpg"]
