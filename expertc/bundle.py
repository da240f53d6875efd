"""The bundle: the directory that is deployed, written whole or not at all, and checked when it is opened.

``manifest.json`` names every other file with its size and SHA-256, except ``report.json`` and ``golden.npz``: times
differ from run to run, the last digits of scores from processor to processor, and two builds of the same expert have
the same manifest. A hash beside a file proves that nothing was damaged on the way; it does not prove who made it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from . import atomic
from .controls import Control, read_controls
from .errors import BundleError, CardError, FileSystemError
from .exits import Exits
from .labels import read_labels
from .preprocessing import Preprocess
from .text import MAX_BYTES, parse_json, read_text, shown

BUNDLE_SCHEMA = 1

MANIFEST, REPORT = "manifest.json", "report.json"
GOLDEN = "golden.npz"  # inputs, and what the expert made of them (``verify.golden``)
MODEL, WEIGHTS, ENGINE = "expert.onnx", "expert.onnx.data", "engine.plan"
STAGE = "stage{}.onnx"  # of each exit from the second on, in an expert that is built in stages
LABELS, PREPROCESS, README = "labels.txt", "preprocess.json", "README.txt"
FILES = (MANIFEST, REPORT, GOLDEN, MODEL, WEIGHTS, ENGINE, LABELS, PREPROCESS, README)

CONTROLS, EMBEDDED = "controls", "embedded"
"""Keys of the manifest for the inputs beside the image, and for those that the expert has as constants."""

ROUTES = "routes"
"""Key of the manifest for the output that explains a prediction, and which of its columns are on whose path."""

EXITS = "exits"
"""Key of the manifest for the early exits, as the model card describes them."""

REJECT = "reject"
"""Key of the manifest for the threshold below which a photo shows none of the classes (``runtime.reject``)."""

OPERATING = "operating_point"
"""Key of manifest and report for how the settings of the exits were chosen, and what they make of those photos."""

DEVICE, COMPILED = "device", "engine"
"""Keys of the manifest for the profile of the target, and for where the plan in the bundle comes from."""

_UNLISTED = {REPORT, GOLDEN}  # what another build of the same expert may have otherwise

MAX_FILES = 64
MAX_NAME = 80  # of what default_name makes, without the suffix

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: every file its manifest lists was there, whole and unchanged."""

    path: Path
    manifest: dict[str, Any]

    def file(self, name: str) -> Path:
        """Path of a listed file; raises ``BundleError`` if the manifest does not list it."""
        if name not in (MANIFEST, REPORT) and name not in self.manifest["files"]:
            raise BundleError(f"The bundle '{self.path}' has no {name}.", "Build it again.")
        return self.path / name

    @property
    def golden(self) -> Path | None:
        """The file with the golden record, None if there is none: nobody verified the expert when it was built."""
        path = self.path / GOLDEN
        return path if os.path.lexists(path) else None

    @property
    def backend(self) -> str:
        """What runs the expert on its device, as that one's profile says; "onnxruntime" where there is none."""
        device = self.manifest.get(DEVICE)
        return str(device.get("backend")) if isinstance(device, dict) else "onnxruntime"

    @property
    def stages(self) -> tuple[str, ...]:
        """The files with its graphs, in running order: ``expert.onnx``, and one for every later stage if it has any."""
        later = (STAGE.format(number) for number in range(2, MAX_FILES))
        return (MODEL, *takewhile(self.manifest["files"].__contains__, later))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Class names, one per output row; raises ``LabelsError`` if the list is malformed."""
        return read_labels(self.file(LABELS))

    @cached_property
    def preprocess(self) -> Preprocess | None:
        """How an image becomes the input tensor, or None if the bundle does not say; ``CardError`` if malformed."""
        return Preprocess.read(self.file(PREPROCESS)) if PREPROCESS in self.manifest["files"] else None

    @cached_property
    def controls(self) -> tuple[Control, ...]:
        """The expert's inputs beside the image, with their defaults; raises ``BundleError`` if they are malformed."""
        return self._controls(CONTROLS)

    @cached_property
    def embedded(self) -> tuple[Control, ...]:
        """The full model's inputs that are constants of the expert, with their values; ``BundleError`` likewise."""
        return self._controls(EMBEDDED)

    @cached_property
    def exits(self) -> Exits | None:
        """The early exits of an expert that takes the first sure one; ``BundleError`` if they are badly described."""
        try:
            found = Exits.from_mapping(self.manifest.get(EXITS))
        except CardError as error:
            raise BundleError(
                f"{MANIFEST} in '{self.path}' is malformed: {error.message}", "Build the bundle again."
            ) from error
        columns = () if found is None else range(len(found.categories))
        if found is not None and columns and (len(found.of) != len(self.labels) or {*found.of} != {*columns}):
            raise BundleError(
                f"{MANIFEST} in '{self.path}' is malformed: not every class is in a category.",
                "Build the bundle again.",
            )
        return found

    def _controls(self, key: str) -> tuple[Control, ...]:
        listed = self.manifest.get(key, [])
        items = listed if isinstance(listed, list) else [None]
        try:  # their shapes are for other programs
            return read_controls(
                [{k: v for k, v in i.items() if k != "shape"} if isinstance(i, dict) else i for i in items], key
            )
        except CardError as error:
            raise BundleError(
                f"{MANIFEST} in '{self.path}' is malformed: {error.message}", "Build the bundle again."
            ) from error


# -- writing -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Output:
    """A place for a bundle that nobody else can write to while it is held; made by ``reserve``."""

    path: Path
    place: Path
    force: bool

    def write(
        self,
        files: Mapping[str, bytes | Path],
        manifest: Mapping[str, Any],
        report: Mapping[str, Any],
        hashes: Mapping[str, str] | None = None,
    ) -> Path:
        """Write the bundle; the arguments and errors are those of ``write_bundle``.

        ``hashes`` are the SHA-256 of contents, in hexadecimal, as far as somebody has found them already.
        """
        hashes = hashes or {}
        taken = {MANIFEST, REPORT} & files.keys()
        odd = [name for name in files if not _PLAIN.fullmatch(name)]
        if taken or odd:
            raise ValueError(f"not a name for a file of a bundle: {sorted(taken) + odd}")
        contents: dict[str, bytes | Path] = {**files, REPORT: _encode(report)}
        with atomic.staged(self.place, _refuse_foreign if self.force else None) as folder:
            listed = {}
            for name in sorted(contents):
                atomic.put(folder / name, contents[name])
                if name not in _UNLISTED:
                    size, digest = _measure(folder / name, None if name not in hashes else 0)
                    listed[name] = {"bytes": size, "sha256": hashes.get(name, digest)}
            atomic.put(folder / MANIFEST, _encode({**manifest, "schema": BUNDLE_SCHEMA, "files": listed}))
        return self.path

    def again(
        self, bundle: Bundle, files: Mapping[str, bytes], manifest: Mapping[str, Any], report: Mapping[str, Any]
    ) -> Path:
        """Write ``bundle`` once more, with these ``files`` and entries of the manifest and the report beside its own.

        Every other file keeps its bytes, the golden record too; what else the manifest does not list is not taken
        along. Raises ``FileSystemError`` as ``write_bundle`` does, ``BundleError`` if its report is no text, or if the
        golden record is no plain file.
        """
        listed = bundle.manifest["files"]
        with atomic.reported(self.path), TemporaryDirectory(prefix="expertc-") as scratch:
            kept: dict[str, bytes | Path] = {  # a bundle is written from files that may be moved into it
                name: Path(shutil.copyfile(bundle.file(name), Path(scratch) / name, follow_symlinks=False))
                for name in listed.keys() - _UNLISTED - files.keys()
            }
            # Those that were checked when the bundle was opened: a file that changed since is found in the new one too.
            hashes = {name: listed[name]["sha256"] for name in kept}
            if bundle.golden is not None:
                with regular_file(bundle.golden) as source, (Path(scratch) / GOLDEN).open("xb") as copy:
                    shutil.copyfileobj(source, copy)
                kept[GOLDEN] = Path(scratch) / GOLDEN
            place, before = bundle.file(REPORT), {}
            if place.is_file() and not place.is_symlink():  # a bundle may come without
                before = parse_json(read_text(place, "The file", BundleError), f"'{place}'", BundleError)
            return self.write({**kept, **files}, {**bundle.manifest, **manifest}, {**before, **report}, hashes)


@contextmanager
def reserve(path: Path, *, force: bool = False) -> Iterator[Output]:
    """Hold ``path`` for one bundle, so that a long build finds out at its start that it could not be written.

    Raises ``FileSystemError`` as ``write_bundle`` does, except for a full disk.
    """
    with atomic.exclusive(path) as place:
        with atomic.reported(path):
            atomic.refuse_unless(place, _refuse_foreign if force else None)
        yield Output(path, place, force)


def write_bundle(
    path: Path,
    files: Mapping[str, bytes | Path],
    manifest: dict[str, Any],
    report: dict[str, Any],
    *,
    force: bool = False,
) -> Path:
    """Write a bundle to ``path``, whole or not at all, and return ``path``.

    ``files`` maps plain file names to contents; a ``Path`` is moved into the bundle (copied if it is on another disk),
    and is gone even if writing fails later. ``manifest`` and ``report`` hold JSON types; ``schema`` and ``files`` are
    added to the manifest. With ``force`` an existing bundle is replaced in one step, if it holds nothing its manifest
    does not list. Raises ``FileSystemError`` if something is there already, the parent folder is missing or read-only,
    the disk is full, or another process is writing the same bundle.
    """
    with reserve(path, force=force) as output:
        return output.write(files, manifest, report)


def default_name(classes: Sequence[str], selection_digest: str | None = None) -> str:
    """Directory name for an expert: ``sharks-rays.expert``, or ``5-classes-1a2b3c4d.expert`` for more than three.

    The order of ``classes`` is kept. ``selection_digest`` (hexadecimal) tells selections apart; without it the class
    names are hashed. Only ``a-z``, ``0-9`` and ``-`` occur before the suffix, whatever the classes are called.
    """
    slugs = [_slug(name) for name in classes]
    joined = "-".join(slugs)
    if len(slugs) > 3 or not all(slugs) or len(joined) > MAX_NAME:
        digest = selection_digest or hashlib.sha256("\n".join(classes).encode()).hexdigest()
        joined = f"{len(slugs)}-classes-{digest[:8]}"
    return f"{joined}.expert"


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain).strip("-")


def _encode(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def _refuse_foreign(place: Path) -> None:
    hint = "Choose another output, or remove it yourself."
    if place.is_symlink() or not place.is_dir():
        raise FileSystemError(f"'{place}' is not a directory, so it is not replaced.", hint)
    try:
        listed = {MANIFEST, *_UNLISTED, *read_manifest(place)["files"]}
    except BundleError as error:
        raise FileSystemError(f"'{place}' is not an expertc bundle, so it is not replaced.", hint) from error
    for entry in sorted(place.iterdir()):
        if entry.name not in listed or entry.is_symlink() or not entry.is_file():
            problem = f"'{place}' holds {shown(entry.name)}, which its manifest does not list."
            raise FileSystemError(problem, "Move it out, or choose another output.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise FileSystemError(f"'{place}' cannot be replaced: it is read-only.", hint)


# -- reading -----------------------------------------------------------------------------------------------------------


def open_bundle(path: str | Path) -> Bundle:
    """Open the bundle at ``path`` after checking every file that its manifest lists.

    Raises ``BundleError``, naming the file, if one is missing, is not a regular file of its own (a link), or has not
    the size and SHA-256 that the manifest gives, or if the manifest itself is malformed or from a newer expertc. Files
    that the manifest does not list are left alone and never read.
    """
    path = Path(path)
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise BundleError(f"The bundle '{path}' {what}.", "Give the directory that expertc build wrote.")
    if not os.path.lexists(path / MANIFEST):
        hint = "Give the directory that expertc build wrote, or an .onnx file where one will do."
        raise BundleError(f"'{path}' is not a bundle: it has no {MANIFEST}.", hint)
    manifest = read_manifest(path)
    for name, facts in manifest["files"].items():
        size, digest = _measure(path / name, facts["bytes"])
        if (size, digest) != (facts["bytes"], facts["sha256"]):
            how = "its contents differ" if digest else f"it has {size} bytes instead of {facts['bytes']}"
            raise BundleError(
                f"{name} in '{path}' is not what the manifest says: {how}.",
                "Build the bundle again, or copy it again from where it came.",
            )
    return Bundle(path, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the bundle in ``folder``, whose files are not looked at. ``BundleError`` if it is malformed."""
    path = folder / MANIFEST
    with regular_file(path) as file:
        data = file.read(MAX_BYTES + 1)
    try:
        manifest = parse_json(data.decode("utf-8"), f"'{path}'", BundleError)
    except UnicodeDecodeError as error:
        raise _malformed(path, "it is not UTF-8 text") from error
    schema, files = manifest.get("schema"), manifest.get("files")
    if type(schema) is not int or schema < 1:
        raise _malformed(path, "it has no schema number")
    if schema > BUNDLE_SCHEMA:
        raise BundleError(
            f"The bundle '{folder}' has schema {schema}, this expertc reads up to {BUNDLE_SCHEMA}.", "Update expertc."
        )
    if not isinstance(files, dict) or not 0 < len(files) <= MAX_FILES:
        raise _malformed(path, f"'files' does not list 1 to {MAX_FILES} files")
    for name, facts in files.items():
        if not _PLAIN.fullmatch(name) or name == MANIFEST:
            raise _malformed(path, f"it lists {shown(name)}, which is not a plain file name")
        if not isinstance(facts, dict) or type(facts.get("bytes")) is not int or facts["bytes"] < 0:
            raise _malformed(path, f"it gives no size for {name}")
        if not isinstance(facts.get("sha256"), str) or not _SHA256.fullmatch(facts["sha256"]):
            raise _malformed(path, f"it gives no SHA-256 for {name}")
    return manifest


def _malformed(path: Path, why: str) -> BundleError:
    return BundleError(f"'{path}' is malformed: {why}.", "Build the bundle again, or copy it again.")


def _measure(path: Path, expected: int | None = None) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a regular file; not hashed ("") if its size is not the expected one."""
    with regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if expected not in (None, size):
            return size, ""
        return size, atomic.digest(file)


@contextmanager
def regular_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file of a bundle itself: not through a link, and never a pipe or a device, which could block.

    Raises ``BundleError`` if it is no such file, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BundleError(f"'{path}' is not a regular file.", "A bundle holds plain files only.")
            with open(descriptor, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise BundleError(
            f"'{path.parent}' has no {path.name}.", "Build the bundle again, or copy it again."
        ) from error
    except OSError as error:
        if path.is_symlink():
            raise BundleError(f"'{path}' is a symbolic link.", "A bundle holds plain files only.") from error
        raise BundleError(f"'{path}' cannot be read ({error.strerror}).", "Check its permissions.") from error
