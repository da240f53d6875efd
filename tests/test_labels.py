"""Label lists: what is forgiven, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from expertc.errors import ExitCode, LabelsError
from expertc.labels import read_labels
from expertc.taxonomy import MAX_NAME


def write(folder: Path, content: bytes | str) -> Path:
    file = folder / "labels.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize(
    "content",
    [
        "sharks\nSea Rays\n",
        "sharks\nSea Rays",
        "\ufeffsharks\r\nSea Rays\r\n\r\n \r\n",
        "sharks\rSea Rays\r",
        "  sharks \n\tSea   Rays\t\n\n\n",
        "shar\u200bks\n\x1bSea\u2028Rays\x07\n\u202e\n",
    ],
)
def test_forgiven(tmp_path: Path, content: str) -> None:
    assert read_labels(write(tmp_path, content), 2) == ("sharks", "Sea Rays")
    assert read_labels(str(write(tmp_path, content))) == ("sharks", "Sea Rays")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("a\n\nb\n", "Line 2 of"),
        ("\na\nb", "Line 1 of"),
        ("a\nb\n\u202e\nc", "Line 3 of"),
        ("a\nb\na\n", "Lines 1 and 3 of"),
        ("Sea Rays\nSea\u00a0 Rays\x1b", "are both 'Sea Rays'"),
        ("a\n" + "b" * (MAX_NAME + 1), f"longer than {MAX_NAME} characters"),
        (b"sharks\nr\xe4ys\n", "not UTF-8"),
        ("sharks\nrays\n".encode("utf-16"), "not UTF-8"),
        ("sharks\nrays\n".encode("utf-16-le"), "NUL"),
        ("a\nb", "has 2 labels, but the model has 3 classes"),
        ("a\nb\nc\nd", "has 4 labels, but the model has 3 classes"),
    ],
)
def test_refused(tmp_path: Path, content: bytes | str, says: str) -> None:
    with pytest.raises(LabelsError) as caught:
        read_labels(write(tmp_path, content), 3)
    assert says in caught.value.message
    assert "labels.txt" in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == ExitCode.INVALID


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="No such file"):
        read_labels(tmp_path / "none.txt")
    with pytest.raises(LabelsError, match="directory"):
        read_labels(tmp_path)


def test_too_large(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    with file.open("wb") as stream:
        stream.truncate(16 * 2**20 + 1)
    with pytest.raises(LabelsError, match="larger than 16 MiB"):
        read_labels(file)
