"""The experts of a fleet: cut as its groups ask for, into a folder beside its file, where the next run finds them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .. import __version__
from . import options

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..deploy.fleet import Group
    from ..source import Source
    from ..stages import Stages

T = TypeVar("T")


def experts(groups: Sequence[Group], folder: Path, *, rebuild: bool, progress: Stages) -> dict[str, Bundle]:
    """The bundle of every group. A model that several groups are cut from is read once.

    What an earlier run has cut in ``folder`` is taken as it is, so that a device which has it already has nothing to
    do; unless the group asks for something else now, or ``rebuild``. Raises what building and opening raise.
    """
    return _each(groups, partial(_cut, folder=folder, rebuild=rebuild, progress=progress), progress)


def check(groups: Sequence[Group]) -> None:
    """Raise what building and opening would, as far as that can be told without cutting anything."""
    from ..stages import silent

    def could(group: Group, source: Source) -> None:
        from ..audit import require_level
        from ..errors import UsageError
        from ..precise import require_precision
        from ..selection import resolve
        from ..targets import load_target
        from ..text import shown

        resolve(source.card.taxonomy, group.classes or "")
        require_level(group.verify)
        require_precision(group.precision, load_target(group.target or "cpu"))
        for place in (group.calib, group.data):
            if place is not None and not place.exists():
                raise UsageError(f"There is no {shown(str(place))}.", "Check the path.")

    _each(groups, could, silent)


def _each(groups: Sequence[Group], do: Callable[[Group, Source], T], progress: Stages) -> dict[str, T | Bundle]:
    """What ``do`` makes of every group and its model, which is read once; or the bundle that it names, opened."""
    from ..bundle import open_bundle
    from ..errors import BundleError, ExpertcError
    from ..source import open_source
    from ..text import shown

    sources: dict[Path | None, Source] = {}

    def made(group: Group) -> T | Bundle:
        if group.bundle is not None:
            bundle = open_bundle(group.bundle)
            if bundle.golden is None:
                raise BundleError(
                    f"The bundle {shown(bundle.path)} carries no golden record, so no device could check it.",
                    "Build it again, without --verify off.",
                )
            return bundle
        if group.model not in sources:
            progress("read")
            sources[group.model] = open_source(group.model)
        return do(group, sources[group.model])

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
