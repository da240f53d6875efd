"""Files of named class sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from expertc.errors import ExitCode, UsageError
from expertc.sets import read_sets


def test_texts_and_lists_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sets.toml"
    path.write_text('[sets]\nzebra = "sharks, rays"\nalpha = ["corals", "-eels"]\n')
    assert list(read_sets(path).items()) == [("zebra", "sharks, rays"), ("alpha", "corals,-eels")]


@pytest.mark.parametrize(
    "text",
    [
        "", "[sets]", "sets = 3", "[sets]\na = 3", "[sets]\na = []", "[sets]\na = [3]", "[sets]\na = {b = 'c'}",
        "[other]\na = 'b'", "[sets]\na = 'b'\n[more]", "[sets\n", "[sets]\n'../a' = 'b'", "[sets]\n'' = 'b'",
        "[sets]\n'a b' = 'b'", "[sets]\n'.a' = 'b'", "[sets]\n'\u001b[31m' = 'b'", "[sets]\na = 'b'\na = 'c'",
    ],
)  # fmt: skip
def test_what_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "sets.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_sets(path)
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.message.isprintable()
    assert caught.value.hint.endswith(".")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_sets(tmp_path / "none.toml")
