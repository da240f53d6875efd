"""An earlier build, to be made again: its classes, its forms and its precision are taken over, nothing is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import manifest
from .bundle import MANIFEST, Bundle, open_bundle
from .errors import BundleError
from .finish import Finish
from .machine import target_of
from .source import Source
from .targets import Target
from .text import parse_json, read_text, shown


@dataclass(frozen=True)
class Earlier:
    """What a manifest says about how its expert was made."""

    about: Mapping[str, Any]
    target: Target
    finish: Finish
    embedded: Mapping[str, tuple[float, ...]]

    @property
    def classes(self) -> str:
        """The selected classes, as ``--classes`` takes them."""
        return ",".join(f"#{index}" for index in self.about["selection"]["indices"])

    def require(self, source: Source) -> None:
        """Raise ``BundleError`` if it was made of another model."""
        if self.about["source"]["sha256"] != source.sha256:
            raise BundleError(
                f"The earlier expert was built from another model, {shown(self.about['source']['name'])}, "
                f"SHA-256 {shown(self.about['source']['sha256'][:12] + '…')}.",
                "Give the full model it was built from.",
            )

    def options(self) -> dict[str, Any]:
        """The arguments of ``compiler.build`` that say how."""
        return {
            "batch": self.finish.batch,
            "embed": dict(self.embedded) if self.finish.embed else None,
            "bake": self.finish.bake,
            "fuse": self.finish.fuse,
            "exits": self.finish.exits,
            "recipe": self.about.get("conversion"),
            "max_drop": self.about.get("max_drop"),
        }


def read_earlier(path: str | Path) -> Earlier:
    """Read the manifest of the bundle, or the manifest, at ``path``. Raises ``BundleError`` if it is none."""
    path = Path(path)
    if path.is_dir():
        bundle = open_bundle(path)
    else:
        text = read_text(path, "The manifest", BundleError)
        found = parse_json(text, f"The manifest {shown(path)}", BundleError)
        bundle = Bundle(path.parent, found) if path.name == MANIFEST else Bundle(path, found)
    about = manifest.read(bundle)
    embedded = {control.name: control.default for control in bundle.embedded}
    return Earlier(about, target_of(bundle), Finish.from_mapping(about["forms"], embed=bool(embedded)), embedded)
