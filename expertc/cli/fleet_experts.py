"""The experts of a fleet: cut as its groups ask for, into a folder beside its file, where the next run finds them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from . import options

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..deploy.fleet import Group
    from ..source import Source
    from ..stages import Stages


def experts(groups: Sequence[Group], folder: Path, *, rebuild: bool, progress: Stages) -> dict[str, Bundle]:
    """The bundle of every group. A model that several groups are cut from is read once.

    What an earlier run has cut in ``folder`` is taken as it is, so that a device which has it already has nothing to
    do; unless the group asks for something else now, or ``rebuild``. Raises what building and opening raise.
    """
    from ..bundle import open_bundle
    from ..errors import ExpertcError
    from ..source import open_source

    sources: dict[Path | None, Source] = {}

    def made(group: Group) -> Bundle:
        if group.bundle is not None:
            return open_bundle(group.bundle)
        if group.model not in sources:
            progress("read")
            sources[group.model] = open_source(group.model)
        return _cut(group, sources[group.model], folder, rebuild=rebuild, progress=progress)

    found = {}
    for group in groups:
        try:
            found[group.name] = made(group)
        except ExpertcError as error:
            if len(groups) == 1:
                raise
            raise type(error)(f"Group {group.name}: {error.message}", error.hint) from error
    return found


def _cut(group: Group, source: Source, folder: Path, *, rebuild: bool, progress: Stages) -> Bundle:
    from ..atomic import reported, save
    from ..bundle import open_bundle
    from ..compiler import build

    place, note = folder / f"{group.name}.expert", folder / f"{group.name}.request.json"
    request = json.dumps(_request(group, source), indent=2, sort_keys=True).encode("ascii")
    with reported(folder):
        folder.mkdir(exist_ok=True)
        if not rebuild and place.exists() and note.is_file() and note.read_bytes() == request:
            return open_bundle(place)
        note.unlink(missing_ok=True)
    photos = None if group.data is None else str(group.data)
    build(
        source, classes=group.classes or "", output=place, target=group.target or "cpu", verification=group.verify,
        precision=group.precision, images=partial(options.photos, data=photos), force=True, progress=progress,
        calibration=None if group.calib is None
        else partial(options.calibration, str(group.calib), baked=False, progress=progress),
    )  # fmt: skip
    save(note, request)
    return open_bundle(place)


def _request(group: Group, source: Source) -> dict[str, Any]:
    """What the expert depends on. Photos count by their folder's name: --rebuild says that they are others now."""
    return {
        "expertc": __version__,
        "model": source.sha256,
        "classes": group.classes,
        "target": group.target,
        "precision": group.precision,
        "verify": group.verify,
        "calib": None if group.calib is None else str(group.calib),
        "data": None if group.data is None else str(group.data),
    }
