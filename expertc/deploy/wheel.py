"""The wheels that a device installs: this expertc's own, and with a wheelhouse everything that it needs."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path, PurePosixPath

import expertc

from ..atomic import digest
from ..errors import DeploymentError, FileSystemError, UsageError
from ..text import clean_text, shortened, shown

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}\.whl")
_LEFT_OUT = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")  # how it was installed here
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file in a repacked wheel: the same wheel has the same hash
_BUILD = "import sys, hatchling.build; hatchling.build.build_wheel(sys.argv[1])"


@dataclass(frozen=True)
class Wheels:
    """Wheels by file name. ``offline``: they are all that is needed, and no index is asked. ``extras`` of expertc are
    installed with it."""

    files: Mapping[str, Path]
    facts: Mapping[str, tuple[int, str]]
    offline: bool
    extras: tuple[str, ...] = ()

    @property
    def environment(self) -> str:
        """The ID of the environment that is made of them: the same wheels give the same one, 16 of 0-9a-f."""
        parts = [sorted(self.facts.items()), self.offline, sorted(self.extras)]
        return sha256(json.dumps(parts).encode("ascii")).hexdigest()[:16]


def in_house(folder: Path) -> tuple[Path, ...]:
    """The wheels in a folder that are not expertc's own. Raises ``UsageError`` if it is none."""
    if not folder.is_dir():
        raise UsageError(f"The wheelhouse '{folder}' is not a folder.", "Fill one with 'pip download -d DIR'.")
    return tuple(path for path in sorted(folder.glob("*.whl")) if not path.name.lower().startswith("expertc-"))


def collect(wheel: Path, others: Sequence[Path] | None = None, extras: Sequence[str] = ()) -> Wheels:
    """The ``wheel`` of expertc with what it needs; None if the device finds that itself.

    Raises ``UsageError`` for what is no wheel, ``FileSystemError`` if one cannot be read.
    """
    found = [wheel, *(others or ())]
    for path in found:
        if not _FILE.fullmatch(path.name) or not path.is_file():
            raise UsageError(f"{shown(str(path))} is not a wheel.", "Give a .whl file.")
    if not wheel.name.startswith("expertc-"):
        raise UsageError(f"{shown(wheel.name)} is not a wheel of expertc.", "Give the one that 'pip wheel .' makes.")
    try:
        facts = {path.name: facts_of(path) for path in found}
    except OSError as error:
        raise FileSystemError(f"A wheel cannot be read ({error.strerror}).", "Check its permissions.") from error
    return Wheels({path.name: path for path in found}, facts, others is not None, tuple(extras))


def make(folder: Path) -> Path:
    """A wheel of the expertc that runs here, in ``folder``: built from a checkout, or packed from what is installed.

    Raises ``DeploymentError`` if it can be neither.
    """
    package = Path(expertc.__file__).parent
    if (package.parent / "pyproject.toml").is_file():
        return _built(package.parent, folder)
    return _packed(metadata.distribution("expertc"), folder)


def _built(checkout: Path, folder: Path) -> Path:
    made = subprocess.run(  # noqa: S603 (our own interpreter and program)
        [sys.executable, "-c", _BUILD, str(folder.absolute())], cwd=checkout, capture_output=True, text=True
    )
    wheels = sorted(folder.glob("expertc-*.whl"))
    if made.returncode or not wheels:
        why = shortened(clean_text(made.stderr.strip().rpartition("\n")[2]), 200)
        raise DeploymentError(
            f"No wheel can be made from '{checkout}': {why}.", "pip install 'expertc[deploy]', or give one: --wheel."
        )
    return wheels[-1]


def _packed(found: metadata.Distribution, folder: Path) -> Path:
    """Pack an installed distribution as the wheel that it came in (binary distribution format, PyPA specifications)."""
    listed = [file for file in found.files or () if ".." not in file.parts and "__pycache__" not in file.parts]
    kept = sorted((file for file in listed if file.name not in _LEFT_OUT), key=str)
    about = next((file.parent for file in kept if file.name == "WHEEL"), None)
    if about is None:
        raise DeploymentError("This expertc was not installed from a wheel.", "Give one: --wheel.")
    place = folder / f"expertc-{found.version}-py3-none-any.whl"
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in kept:
            content = Path(str(file.locate())).read_bytes()
            _add(archive, PurePosixPath(file), content)
            named = base64.urlsafe_b64encode(sha256(content).digest()).rstrip(b"=").decode("ascii")
            rows.writerow((file.as_posix(), f"sha256={named}", len(content)))
        rows.writerow((f"{about}/RECORD", "", ""))
        _add(archive, PurePosixPath(about) / "RECORD", record.getvalue().encode("utf-8"))
    return place


def _add(archive: zipfile.ZipFile, name: PurePosixPath, content: bytes) -> None:
    entry = zipfile.ZipInfo(name.as_posix(), _EPOCH)
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED)


def facts_of(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file, as the device is told before it comes. Raises ``OSError``."""
    with path.open("rb") as file:
        return path.stat().st_size, digest(file)
