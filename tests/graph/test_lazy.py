"""Laziness: a cut reads the weights it keeps, of a file of any size."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import expertc
from expertc.graph import to_bytes
from expertc.graph.external import External
from expertc.source import open_source
from expertc.surgery.owners import ownership
from expertc.surgery.prune import prune

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def write_model() -> Callable[..., Path]:
    """The benchmarks' generator of branched models."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(ROOT))
        from benchmarks import synthetic
    return synthetic.write_model


@pytest.fixture(scope="module")
def path(write_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty branches of 40 kB each in a file of their own."""
    return write_model(tmp_path_factory.mktemp("synthetic"), branches=20, total_bytes=800_000)


def test_only_kept_weights_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []
    original = External.values

    def values(external: External) -> Any:
        read.append(external.shape)
        return original(external)

    monkeypatch.setattr(External, "values", values)
    source = open_source(path)
    ownership(source.model, source.card)
    assert read == []
    to_bytes(prune(source.model, source.card, [3, 7]).model)
    outside = [name for name, tensor in source.model.constants.items() if tensor.nbytes > 1024]  # convolutions
    kept = [name for name in outside if name.startswith(("trunk", "branch.3.", "branch.7."))]
    assert (len(outside), len(kept)) == (1 + 2 * 20, 1 + 2 * 2)
    assert 0 < len(read) <= 2 * len(kept)  # once for the digest of its name, once to be written


def test_three_gigabytes_are_cut_in_little_memory(write_model: Callable[..., Path], tmp_path: Path) -> None:
    """A hundred branches of 30 MB, of which two stay; holes in the file, so that it takes no room on the disk."""
    path = write_model(tmp_path, branches=100, total_bytes=3 * 10**9, hollow=True)
    program = """
        import re, sys
        from pathlib import Path
        from expertc.graph import to_bytes
        from expertc.source import open_source
        from expertc.surgery.owners import ownership
        from expertc.surgery.prune import prune
        source = open_source(Path(sys.argv[1]))
        ownership(source.model, source.card)
        expert = to_bytes(prune(source.model, source.card, [3, 77]).model)
        peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())  # not the parent's
        print(len(expert), 1024 * int(peak[1]))
    """
    root = str(Path(expertc.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)],
        env={"PYTHONPATH": root, "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expert, peak = map(int, done.stdout.split())
    assert 59e6 < expert < 62e6
    assert peak < 400e6
