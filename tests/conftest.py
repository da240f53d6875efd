"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from expertc.cli import run

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-data", action="store_true", help="fail instead of skipping where the photos are absent")


def _find_data() -> Path | None:
    named = os.environ.get("EXPERTC_DATA")
    for folder in (Path(named) if named else None, ROOT.parent / "shared" / "data"):
        if folder is not None and (folder / "sea-animals-128" / "meta.json").is_file():
            return folder
    return None


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    """The folder with the photo sets, or a skip with the reason."""
    found = _find_data()
    if found is None:
        reason = "the photos are not here: set EXPERTC_DATA to the folder that holds sea-animals-128"
        if request.config.getoption("--require-data"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class Run(NamedTuple):
    """What a command line came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Runs a command line in this process: ``cli("build", model, "--classes", "sharks")``."""

    def call(*arguments: object) -> Run:
        capsys.readouterr()
        code = int(run([str(argument) for argument in arguments]))
        return Run(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small full model with a card; only to be read."""
    from rainbow import rainbow

    path = tmp_path_factory.mktemp("full") / "rainbow.onnx"
    path.write_bytes(rainbow().bytes())
    return path


@pytest.fixture(scope="session")
def built(full: Path) -> Any:
    """The warm half of it, built and verified once; the bundle is only to be read."""
    from expertc import build

    return build(full, classes="warm", output=full.parent / "warm.expert", measure_seconds=0.05)


@pytest.fixture(scope="session")
def bundle(built: Any) -> Path:
    """That bundle's directory."""
    found: Path = built.path
    return found


@pytest.fixture
def jetson(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A simulated device with TensorRT in place of this machine; see ``on_device``."""
    from on_device import installed

    return installed(monkeypatch, tmp_path)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = len(terminalreporter.stats.get("skipped", ()))
    terminalreporter.write_line(f"photos: {_find_data() or 'not found'}; tests skipped: {skipped}")
