"""The folder of a report: JSON for programs, Markdown for people, a page to look at; all of them or none."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import atomic
from ..errors import FileSystemError

FILES = ("report.json", "report.md", "report.html")


@dataclass(frozen=True)
class ReportFolder:
    """Folders of reports whose ``format`` begins with ``family``; ``kind`` is what a person calls one."""

    family: str
    kind: str

    def write(self, path: Path, *contents: str) -> Path:
        """Write ``FILES`` into the directory ``path``, all or none, and return ``path``.

        An earlier report of the family is replaced. Raises ``FileSystemError`` if ``path`` holds anything else or
        cannot be written.
        """
        with atomic.exclusive(path) as place, atomic.staged(place, self._refuse_foreign) as folder:
            for name, content in zip(FILES, contents, strict=True):
                atomic.put(folder / name, content.encode())
        return path

    def refuse_place(self, path: Path) -> None:
        """Raise the ``FileSystemError`` of ``write`` before anything is done in vain."""
        with atomic.exclusive(path) as place:
            atomic.refuse_unless(place, self._refuse_foreign)

    def _refuse_foreign(self, place: Path) -> None:
        own = place.is_dir() and not place.is_symlink() and {entry.name for entry in place.iterdir()} <= set(FILES)
        try:
            own = own and json.loads((place / FILES[0]).read_bytes())["format"].startswith(self.family)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._foreign(place) from error
        if not own:
            raise self._foreign(place)

    def _foreign(self, place: Path) -> FileSystemError:
        return FileSystemError(f"'{place}' exists and is not an earlier {self.kind}.", "Choose another directory.")


def to_json(report: Mapping[str, Any]) -> str:
    """A report as text to read: indented, but a list of numbers on one line."""
    text = json.dumps(report, indent=2, allow_nan=False)
    # No line ends within a JSON string, so that nothing but a list of numbers looks like this.
    return re.sub(r"\[\n([\d\s.,e+-]+)\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def cell(text: str) -> str:
    """A stranger's text in Markdown: no cell, link, code or HTML begins in it."""
    return re.sub(r"[\\|\[`]", r"\\\g<0>", text).replace("<", "&lt;")
