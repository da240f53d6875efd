"""Golden records from strangers: nobody hashes them, and reading one runs nothing and takes no more than it may."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import expertc
from expertc.errors import BundleError, ExitCode
from expertc.verify.golden import MAX_BYTES, Golden

GOOD: Mapping[str, Any] = {
    "input": np.ones((2, 3, 4, 4), np.float32),
    "controls": np.array(["gain"]),
    "control_0": np.array([1.0, 2.0]),
    "outputs": np.array(["scores", "best"]),
    "output_0": np.ones((2, 3), np.float32),
    "output_1": np.array([0, 2]),
}


def npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def packed(members: Mapping[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def made(**changed: Any) -> bytes:
    """A record with other arrays; None leaves one out, bytes are a member as they are."""
    arrays = {name: values for name, values in {**GOOD, **changed}.items() if values is not None}
    return packed({f"{n}.npy": v if isinstance(v, bytes) else npy(v) for n, v in arrays.items()})


def refused(path: Path, data: bytes, words: str) -> None:
    path.write_bytes(data)
    with pytest.raises(BundleError, match=words) as caught:
        Golden.read(path)
    assert caught.value.exit_code == ExitCode.INVALID
    assert caught.value.hint
    assert all(character.isprintable() for character in str(caught.value))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "golden.npz"
    path.write_bytes(made())
    assert [*Golden.read(path).outputs] == ["scores", "best"]
    return path


class Bomb:
    """What runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("unpickled",)


def test_a_pickle_is_not_opened(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.parent)
    objects = np.array([Bomb()], object)
    pickled = npy(objects)[128:]  # behind the header
    for name in ("input", "outputs", "output_0"):
        refused(place, made(**{name: objects}), "none that numpy.save writes for plain numbers")
        refused(place, made(**{name: pickled}), "none that numpy.save writes")
    refused(place, made(input=np.array([(1, Bomb())], [("a", "i4"), ("b", "O")])), "none that numpy.save writes")
    refused(place, pickled, "no plain zip archive")
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"output_0": np.array([[1.0, np.nan]] * 2)}, "no number"),
        ({"input": np.full((2, 3), np.inf, np.float32)}, "no number"),
        ({"control_0": np.array([np.nan, 1])}, "no number"),
        ({"control_0": np.ones((1, 2))}, "list of numbers"),
        ({"control_0": np.array([1, 2])}, "list of numbers"),
        ({"input": np.array(["a"])}, "no number"),
        ({"input": np.float32(3)}, "too many"),
        ({"input": np.ones((0, 3), np.float32)}, "no inputs"),
        ({"input": np.ones((1000, 3), np.float32)}, "too many"),
        ({"input": np.ones((2, 2), np.complex64)}, "none that numpy.save writes"),
        ({"input": np.ones((3, 2), np.float32).T}, "none that numpy.save writes"),
        ({"input": np.ones(2, ">f4")}, "none that numpy.save writes"),
        ({"input": npy(GOOD["input"])[:-1]}, "not as long as it says"),
        ({"input": npy(GOOD["input"]) + b"x"}, "not as long as it says"),
        ({"input": npy(GOOD["input"]).replace(b"(2, 3, 4, 4)", b"(2,-3,-4, 4)")}, "none that numpy.save writes"),
        ({"input": npy(GOOD["input"]).replace(b"(2, 3, 4, 4)", b"(9, 3, 4, 4)")}, "not as long as it says"),
        ({"input": npy(np.ones((0,))).replace(b"(0,), } ", b"(0,10" + b"0" * 40 + b"), } ")}, "malformed"),
        ({"input": b"\x93NUMPY\x01\x00" + b"(" * 60000}, "none that numpy.save writes"),
        ({"outputs": np.array(["scores", "scores"])}, "one twice"),
        ({"outputs": np.array([["scores", "best"]])}, "no text"),
        ({"outputs": np.array([3, 4])}, "no text"),
        ({"outputs": npy(np.array(["a", "b"])).replace(b"a\0\0\0", b"\xff\xff\xff\xff")}, "no text"),
        ({"outputs": np.array(["scores"])}, "not those of a record"),
        ({"outputs": np.array([str(number) for number in range(65)])}, "too many outputs"),
        ({"output_1": None}, "not those of a record"),
        ({"outputs": np.array([], str), "output_0": None, "output_1": None}, "no outputs"),
        ({"input": None}, "not those of a record"),
        ({"more": np.ones(1)}, "not those of a record"),
        ({"../../output_2": np.ones(1)}, "not those of a record"),
        ({"/etc/passwd": np.ones(1)}, "not those of a record"),
    ],
)  # fmt: skip
def test_what_no_build_writes(place: Path, changed: dict[str, Any], words: str) -> None:
    refused(place, made(**changed), words)


def test_members_of_other_names_and_packings(place: Path) -> None:
    good = {f"{name}.npy": npy(values) for name, values in GOOD.items()}
    refused(place, packed({**good, "output_2": b""}), "not those of a record")
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        refused(place, packed(good, kind), "another way")
    place.write_bytes(packed(good, zipfile.ZIP_STORED))
    assert Golden.read(place)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(place, "a") as archive:
        archive.writestr("input.npy", good["input.npy"])
    refused(place, place.read_bytes(), "not those of a record")
    encrypted = bytearray(made())
    for sign, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        encrypted[encrypted.index(sign) + at] |= 1
    refused(place, bytes(encrypted), "encrypted")


def entry(name: bytes, packed_size: int, size: int) -> tuple[bytes, bytes]:
    """A member's header, and what the directory says of it, at the start of the file."""
    known = (0, 8, 0, 33, 0, packed_size, size, len(name), 0)
    local = struct.pack("<4sH4H3L2H", b"PK\3\4", 20, *known) + name
    return local, struct.pack("<4s2H4H3L5H2L", b"PK\1\2", 20, 20, *known, 0, 0, 0, 0, 0) + name


def end(count: int, size: int, at: int) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, at, 0)


def honest() -> bytes:
    """80 MiB of zeros."""
    return packed({f"output_{number}.npy": bytes(2**22) for number in range(20)})


def lying() -> bytes:
    """A gigabyte of zeros that is said to be 200 bytes."""
    squeezer, zeros = zlib.compressobj(1, zlib.DEFLATED, -15), bytes(2**24)
    body = b"".join([*(squeezer.compress(zeros) for _ in range(64)), squeezer.flush()])
    local, listed = entry(b"input.npy", len(body), 200)
    return local + body + listed + end(1, len(listed), len(local + body))


def crowded() -> bytes:
    """A million members, of which the last record counts one."""
    local, listed = entry(b"input.npy", 0, 0)
    return local + listed * 1_000_000 + end(1, 1_000_000 * len(listed), len(local))


def hidden() -> bytes:
    """The same, where the last record is right and one for large archives stands before it."""
    data, (_, listed) = crowded(), entry(b"input.npy", 0, 0)
    directory = len(data) - 22 - 1_000_000 * len(listed)
    large = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 10**6, 10**6, 10**6 * len(listed), directory)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(data) - 22, 1)
    return data[:-22] + large + locator + end(1, len(listed), directory)


READING = """
import resource, sys
from pathlib import Path
from expertc.errors import BundleError
from expertc.verify.golden import Golden
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, now + 2**28))
for path in sys.argv[1:]:
    try:
        Golden.read(Path(path))
    except BundleError as error:
        print(error)
"""


def test_bombs(tmp_path: Path) -> None:
    """Read in a process that may take a quarter of a gigabyte more than it has."""
    bombs = {honest: "unpacks to more than 64 MiB", lying: "malformed", crowded: "too many members",
             hidden: "no plain zip"}  # fmt: skip
    paths = []
    for make in bombs:
        paths.append(tmp_path / f"{make.__name__}.npz")
        paths[-1].write_bytes(make())
    environment = os.environ | {"PYTHONPATH": str(Path(expertc.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", READING, *map(str, paths)], env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-400:]
    assert [words in said for words, said in zip(bombs.values(), done.stdout.splitlines(), strict=True)] == [True] * 4


def test_files_that_are_none(place: Path, tmp_path: Path) -> None:
    with place.open("r+b") as file:
        file.truncate(MAX_BYTES + 1)  # a hole, of no size on the disk
    with pytest.raises(BundleError, match="larger than 64 MiB"):
        Golden.read(place)
    place.unlink()
    with pytest.raises(BundleError, match=r"no golden\.npz"):
        Golden.read(place)
    (tmp_path / "else.npz").write_bytes(made())
    place.symlink_to(tmp_path / "else.npz")
    with pytest.raises(BundleError, match="symbolic link"):
        Golden.read(place)
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(BundleError, match="not a regular file"):
        Golden.read(place)


def test_damage_is_found_or_does_no_harm(place: Path) -> None:
    """Whatever one byte becomes: an error of ours, or the same record."""
    data, draw, good = made(), random.Random(0), 0
    for _ in range(400):
        broken = bytearray(data)
        broken[draw.randrange(len(data))] ^= draw.randrange(1, 256)
        place.write_bytes(broken[: draw.randrange(len(data))] if draw.random() < 0.1 else broken)
        try:
            found = Golden.read(place)
        except BundleError:
            continue
        good += 1
        np.testing.assert_array_equal(found.input, GOOD["input"])
        np.testing.assert_array_equal(found.outputs["scores"], GOOD["output_0"])
    assert good < 200
