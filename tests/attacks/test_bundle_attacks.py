"""Bundles from strangers: nothing outside the directory is read, nothing foreign is replaced, nothing hangs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expertc.bundle import open_bundle, write_bundle
from expertc.errors import BundleError, ExitCode, FileSystemError

SECRET = b"the secret outside"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(SECRET)
    files: dict[str, bytes | Path] = {"expert.onnx": b"model" * 100, "labels.txt": b"rays\nsharks\n"}
    return write_bundle(tmp_path / "a.expert", files, {"name": "sea"}, {})


def everything(folder: Path) -> dict[str, bytes | str]:
    """All there is under a folder, so that a change of anything shows."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else "other"
        for path in sorted(folder.rglob("*"))
    }


def change(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    edit(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def facts_of(data: bytes) -> dict[str, object]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def refused(bundle: Path, words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        open_bundle(bundle)
    assert caught.value.exit_code == ExitCode.INVALID
    assert caught.value.hint
    assert all(character.isprintable() for character in str(caught.value))


def never_replaced(bundle: Path, words: str) -> None:
    before = everything(bundle.parent)
    with pytest.raises(FileSystemError, match=words):
        write_bundle(bundle, {"expert.onnx": b"new"}, {}, {}, force=True)
    assert everything(bundle.parent) == before


# -- damaged or changed files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["expert.onnx", "labels.txt"])
def test_a_changed_byte(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    refused(bundle, f"{name}.*contents differ")


@pytest.mark.parametrize("name", ["expert.onnx", "labels.txt"])
def test_a_truncated_file(bundle: Path, name: str) -> None:
    os.truncate(bundle / name, 3)
    refused(bundle, f"{name}.*3 bytes instead of")


def test_a_longer_file(bundle: Path) -> None:
    with open(bundle / "expert.onnx", "ab") as file:
        file.truncate(2**40)  # sparse: hashing it would take an hour
    refused(bundle, "expert.onnx.*instead of 500")


@pytest.mark.parametrize("name", ["expert.onnx", "manifest.json"])
def test_a_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    refused(bundle, f"has no {name}")


def test_the_right_hash_of_the_wrong_size(bundle: Path) -> None:
    change(bundle, lambda manifest: manifest["files"]["expert.onnx"].update(bytes=499))
    refused(bundle, "expert.onnx.*500 bytes instead of 499")


def test_a_missing_directory(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "does not exist")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "not a directory")


# -- files that are not files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["expert.onnx", "manifest.json"])
def test_a_link_out_of_the_bundle(bundle: Path, name: str) -> None:
    copy = bundle.parent / "copy"
    (bundle / name).rename(copy)
    (bundle / name).symlink_to(copy)  # the very bytes that belong there
    refused(bundle, f"{name}.*symbolic link")
    never_replaced(bundle, "not an expertc bundle|does not list")


@pytest.mark.parametrize("name", ["expert.onnx", "manifest.json"])
def test_a_pipe_does_not_block(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    refused(bundle, f"{name}.*not a regular file")


@pytest.mark.parametrize("name", ["expert.onnx", "manifest.json"])
def test_a_directory_in_place_of_a_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    (bundle / name).mkdir()
    (bundle / name / "mine").write_text("precious")
    refused(bundle, f"{name}.*not a regular file")
    never_replaced(bundle, "not an expertc bundle|does not list")


def test_a_device_is_not_read(bundle: Path) -> None:
    (bundle / "expert.onnx").unlink()
    (bundle / "expert.onnx").symlink_to("/dev/zero")
    refused(bundle, "symbolic link")


# -- names that lead out -----------------------------------------------------------------------------------------------

OUTSIDE = ["../secret", "./labels.txt", "x/../../secret", "/etc/hostname", "..", ".", "", "a\\b", "\x1b[2Jx", "x" * 300]


@pytest.mark.parametrize("name", [*OUTSIDE, "manifest.json", ".hidden", "nul\0byte", "name\n", "ｅｘｐｅｒｔ"])
def test_a_name_that_is_not_plain(bundle: Path, name: str) -> None:
    change(bundle, lambda manifest: manifest["files"].update({name: facts_of(SECRET)}))
    refused(bundle, "not a plain file name")
    never_replaced(bundle, "not an expertc bundle")


# -- manifests ---------------------------------------------------------------------------------------------------------

LISTED = '"files": {"labels.txt": {"bytes": 1, "sha256": "' + "0" * 64 + '"}}'

MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not valid JSON"),
    "not text": (b"\xff\xfe\x00\x00", "not UTF-8"),
    "not JSON": (b"schema: 1", "not valid JSON"),
    "a list": (b"[]", "not a JSON object"),
    "a number": (b"1", "not a JSON object"),
    "null": (b"null", "not a JSON object"),
    "cut off": (b'{"schema": 1, "files": {', "not valid JSON"),
    "a key twice": (b'{"schema": 1, "schema": 1, ' + LISTED.encode() + b"}", "twice"),
    "a file twice": (b'{"schema": 1, "files": {"a": {}, "a": {}}}', "twice"),
    "NaN": (b'{"schema": 1, "x": NaN, ' + LISTED.encode() + b"}", "NaN"),
    "infinity": (b'{"schema": 1, "x": -Infinity, ' + LISTED.encode() + b"}", "Infinity"),
    "nested": (b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply|not valid JSON"),
    "an endless number": (b'{"schema": ' + b"9" * 10_000 + b"}", "schema|not valid JSON"),
    "no schema": (b"{" + LISTED.encode() + b"}", "schema"),
    "schema as text": (b'{"schema": "1", ' + LISTED.encode() + b"}", "schema"),
    "schema as truth": (b'{"schema": true, ' + LISTED.encode() + b"}", "schema"),
    "schema zero": (b'{"schema": 0, ' + LISTED.encode() + b"}", "schema"),
    "a later schema": (b'{"schema": 2, ' + LISTED.encode() + b"}", "reads up to 1"),
    "no files": (b'{"schema": 1}', "files"),
    "files as a list": (b'{"schema": 1, "files": ["labels.txt"]}', "files"),
    "empty files": (b'{"schema": 1, "files": {}}', "files"),
    "too many": (json.dumps({"schema": 1, "files": {f"f{i}": {} for i in range(65)}}).encode(), "files"),
    "facts as text": (b'{"schema": 1, "files": {"labels.txt": "x"}}', "no size"),
    "size as text": (b'{"schema": 1, "files": {"labels.txt": {"bytes": "1"}}}', "no size"),
    "size as truth": (b'{"schema": 1, "files": {"labels.txt": {"bytes": true}}}', "no size"),
    "size below zero": (b'{"schema": 1, "files": {"labels.txt": {"bytes": -1}}}', "no size"),
    "size with a fraction": (b'{"schema": 1, "files": {"labels.txt": {"bytes": 1.0}}}', "no size"),
    "no hash": (b'{"schema": 1, "files": {"labels.txt": {"bytes": 1}}}', "no SHA-256"),
    "a short hash": (b'{"schema": 1, "files": {"labels.txt": {"bytes": 1, "sha256": "00"}}}', "no SHA-256"),
    "a hash in capitals": (
        b'{"schema": 1, "files": {"labels.txt": {"bytes": 1, "sha256": "' + b"A" * 64 + b'"}}}',
        "no SHA-256",
    ),
    "a hash of another kind": (b'{"schema": 1, "files": {"labels.txt": {"bytes": 1, "sha256": null}}}', "no SHA-256"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_manifest(bundle: Path, kind: str) -> None:
    text, words = MALFORMED[kind]
    (bundle / "manifest.json").write_bytes(text)
    refused(bundle, words)
    never_replaced(bundle, "not an expertc bundle")


def test_a_huge_manifest_is_not_read_whole(bundle: Path) -> None:
    os.truncate(bundle / "manifest.json", 2**40)
    refused(bundle, "larger than 16 MiB")
    with pytest.raises(FileSystemError, match="not an expertc bundle"):
        write_bundle(bundle, {"expert.onnx": b"new"}, {}, {}, force=True)


# -- what --force must not replace -------------------------------------------------------------------------------------


def test_an_unlisted_file_is_tolerated_but_never_replaced(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("precious")
    assert open_bundle(bundle).labels == ("rays", "sharks")
    never_replaced(bundle, "notes.txt.*does not list")


@pytest.mark.parametrize("name", [".git", "manifest.json~", "é"])
def test_an_unlisted_directory_is_never_replaced(bundle: Path, name: str) -> None:
    (bundle / name).mkdir()
    never_replaced(bundle, "does not list")


def test_other_things_are_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    never_replaced(folder, "not an expertc bundle")  # not even an empty one
    (folder / "photo.jpg").write_bytes(b"precious")
    never_replaced(folder, "not an expertc bundle")
    (tmp_path / "file").write_text("precious")
    never_replaced(tmp_path / "file", "not a directory")


def test_a_link_to_a_bundle_is_read_but_not_replaced(bundle: Path) -> None:
    link = bundle.parent / "link"
    link.symlink_to(bundle.name)
    assert open_bundle(link).labels == ("rays", "sharks")
    never_replaced(link, "not a directory")
    link.unlink()
    link.symlink_to("nowhere")
    never_replaced(link, "not a directory")
