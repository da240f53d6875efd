"""Small wheels made by hand, as the binary distribution format has them."""

from __future__ import annotations

import hashlib
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path


def wheel(
    folder: Path, name: str, version: str = "99.0", files: Mapping[str, bytes] | None = None, needs: Sequence[str] = ()
) -> Path:
    """A wheel with these ``files`` that needs other distributions."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Provides-Extra: serve"]
    metadata += [f"Requires-Dist: {each}" for each in needs]
    contents = {
        **(files or {}),
        f"{info}/METADATA": "\n".join([*metadata, ""]).encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [
        f"{path},sha256={urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for path, data in contents.items()
    ]
    contents[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    made = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in contents.items():
            archive.writestr(path, data)
    return made


def expertc_like(folder: Path, needs: Sequence[str] = ()) -> Path:
    """A wheel called expertc that has an agent which says hello, and nothing else."""
    hello = b"import json\nif __name__ == '__main__':\n    print(json.dumps({'expertc': 'tiny', 'protocol': 1}))\n"
    files = {"expertc/__init__.py": b"", "expertc/deploy/__init__.py": b"", "expertc/deploy/agent.py": hello}
    return wheel(folder, "expertc", "0.0.1", files, needs)
