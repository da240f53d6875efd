"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = len(terminalreporter.stats.get("skipped", ()))
    terminalreporter.write_line(f"photos: {_find_data() or 'not found'}; tests skipped: {skipped}")
