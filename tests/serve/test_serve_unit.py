"""The systemd unit, against systemd's own reading of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from served import ENVIRONMENT

from expertc.errors import UsageError
from expertc.serve.unit import here, quoted, unit, unit_name

ANALYZE = shutil.which("systemd-analyze")


def test_the_command_prints_it(cli, tmp_path: Path) -> None:
    code, out, err = cli(
        "serve", "sharks-rays", "--unit", "--host", "0.0.0.0", "--gain", "a=1", "--gain", "b c=2", "--store", tmp_path
    )
    assert (code, err) == (0, "")
    words = ["serve", "sharks-rays", "--host=0.0.0.0", f"--store={tmp_path}", "--gain=a=1", "--gain=b c=2"]
    (line,) = [line for line in out.splitlines() if line.startswith("ExecStart=")]
    assert line == "ExecStart=" + " ".join(f'"{word}"' for word in [*here(), *words])
    assert out == unit("sharks-rays", words[2:])
    assert {"Restart=on-failure", "WantedBy=default.target", "Type=notify"} <= {*out.splitlines()}


def test_what_it_starts_is_this_expertc() -> None:
    done = subprocess.run([*here(), "--version"], capture_output=True, text=True, check=True, cwd="/", env=ENVIRONMENT)
    assert done.stdout.startswith("expertc, version")
    assert Path(here()[0]).parent == Path(sys.executable).parent
    assert Path(here()[0]).is_absolute()


@pytest.mark.parametrize(
    ("word", "written"),
    [("a b", '"a b"'), ('"', '"\\""'), ("\\", '"\\\\"'), ("100%", '"100%%"'), ("$HOME", '"$$HOME"'), ("é;'", '"é;\'"')],
)
def test_quotes(word: str, written: str) -> None:
    assert quoted(word) == written


@pytest.mark.parametrize("name", ["a\nExecStartPre=/bin/sh", "../a", "", "A", "a b", "a" * 65, "é"])
def test_a_name_that_none_may_have(name: str) -> None:
    for make in (unit, unit_name):
        with pytest.raises(UsageError):
            make(name)


@pytest.mark.parametrize("word", ["a\nb", "a\0b", "a\u202eb", "\ud800"])
def test_a_word_that_no_line_holds(word: str) -> None:
    with pytest.raises(UsageError):
        unit("a", [word])


def test_a_bundle_has_none(cli, bundle: Path) -> None:
    code, out, err = cli("serve", bundle, "--unit")
    assert (code, out) == (2, "")
    assert "Give its name" in err


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("arguments", [[], ["--gain=a b=1", "--gain=50%=2", '--gain=$A"\\=3']])
def test_systemd_reads_it(tmp_path: Path, arguments: list[str]) -> None:
    path = tmp_path / unit_name("sharks-rays")
    path.write_text(unit("sharks-rays", arguments))
    assert ANALYZE is not None
    environment = {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [ANALYZE, "verify", "--user", "--man=no", str(path)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    path.write_text(unit("sharks-rays").replace("Restart=on-failure", "Restart=perhaps"))
    done = subprocess.run(
        [ANALYZE, "verify", "--user", "--man=no", str(path)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert "perhaps" in done.stderr  # it looks
