"""Clocks that are locked and given free again, with programs that only write down what they are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from expertc.bench.watch import locked_clocks
from expertc.errors import ExitCode, FileSystemError, UnsupportedError, UsageError

Program = Callable[[str, str], None]

JETSON = """echo "jetson_clocks $*" | sed "s|/.*/||" >> {log}
case "$1" in
--store) echo stored > "$2";;
--restore) [ "$(cat "$2")" = stored ] || exit 5; {restore};;
*) {lock};;
esac"""


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log").touch()
    return tmp_path / "log"


def jetson(program: Program, log: Path, restore: str = "true", lock: str = "true") -> None:
    program("jetson_clocks", JETSON.format(log=log, restore=restore, lock=lock))


LOCKED = ["jetson_clocks --store stored.conf", "jetson_clocks"]
FREED = [*LOCKED, "jetson_clocks --restore stored.conf"]


def said(log: Path) -> list[str]:
    return [line.strip() for line in log.read_text().splitlines()]


def governors(root: Path, *values: str) -> list[Path]:
    files = [root / f"sys/devices/system/cpu/cpufreq/policy{i}/scaling_governor" for i in range(len(values))]
    for file, value in zip(files, values, strict=True):
        file.parent.mkdir(parents=True)
        file.write_text(f"{value}\n")
    return files


def test_only_root(tmp_path: Path, program: Program, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    jetson(program, log)
    (file,) = governors(tmp_path, "schedutil")
    with pytest.raises(UsageError, match="rights of root") as caught, locked_clocks(root=tmp_path):
        pass
    assert "sudo" in caught.value.hint
    assert caught.value.exit_code == ExitCode.USAGE
    assert said(log) == []
    assert file.read_text() == "schedutil\n"


def test_a_jetson(tmp_path: Path, program: Program, log: Path) -> None:
    jetson(program, log)
    (file,) = governors(tmp_path, "schedutil")
    with locked_clocks(root=tmp_path) as done:
        assert said(log) == LOCKED
        assert file.read_text() == "schedutil\n"  # jetson_clocks does that
    assert said(log) == FREED
    assert len(done) == 1
    assert done[0].startswith("jetson_clocks")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, UsageError("a", "b")])
def test_put_back_whatever_happens(tmp_path: Path, program: Program, log: Path, error: type[BaseException]) -> None:
    jetson(program, log)
    with pytest.raises(error if isinstance(error, type) else type(error)), locked_clocks(root=tmp_path):
        raise error
    assert said(log) == FREED


def test_governors(tmp_path: Path, program: Program) -> None:
    files = governors(tmp_path, "schedutil", "powersave", "performance")
    with pytest.raises(KeyboardInterrupt), locked_clocks(root=tmp_path) as done:  # noqa: PT012
        assert [file.read_text().strip() for file in files] == ["performance"] * 3
        raise KeyboardInterrupt
    assert [file.read_text().strip() for file in files] == ["schedutil", "powersave", "performance"]
    assert done == ("cpufreq governor: performance instead of powersave, schedutil",)


def test_nothing_to_lock(tmp_path: Path, program: Program) -> None:
    with pytest.raises(UnsupportedError, match="no clocks"), locked_clocks(root=tmp_path):
        pass


def test_a_card(tmp_path: Path, program: Program, log: Path) -> None:
    program("nvidia-smi", f'echo "$*" >> {log}; case "$*" in *query*) echo 1980;; esac')
    with locked_clocks(gpu=True, root=tmp_path) as done:
        assert said(log)[1:] == ["-i 0 --lock-gpu-clocks=1980"]
    assert said(log)[2:] == ["-i 0 --reset-gpu-clocks"]
    assert done == ("nvidia-smi: clock of gpu 0 locked at 1980 MHz",)
    with pytest.raises(UnsupportedError), locked_clocks(root=tmp_path):  # not used, not touched
        pass
    program("nvidia-smi", "echo '[N/A]'")
    with pytest.raises(UnsupportedError), locked_clocks(gpu=True, root=tmp_path):
        pass


def test_a_lock_that_fails_is_undone(tmp_path: Path, program: Program, log: Path) -> None:
    jetson(program, log, lock="echo 'No such device' >&2; exit 1")
    with pytest.raises(FileSystemError, match="No such device"), locked_clocks(root=tmp_path):
        pytest.fail("not locked")
    assert said(log) == FREED


def test_what_cannot_be_put_back_is_said_and_the_rest_put_back(tmp_path: Path, program: Program, log: Path) -> None:
    jetson(program, log, restore="echo 'Oh no'; exit 1")
    program("nvidia-smi", f'echo "nvidia-smi $*" >> {log}; case "$*" in *query*) echo 1980;; esac')
    with pytest.raises(FileSystemError, match="Oh no"), locked_clocks(gpu=True, root=tmp_path):
        pass
    assert said(log)[-2:] == ["nvidia-smi -i 0 --reset-gpu-clocks", FREED[-1]]


def test_a_second_interrupt_waits(tmp_path: Path, program: Program, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    jetson(program, log, restore=f"kill -INT $PPID; kill -TERM $PPID; sleep 0.2; echo done >> {log}")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), locked_clocks(root=tmp_path):
        raise KeyboardInterrupt
    assert said(log) == [*FREED, "done"]
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.glob("expertc-clocks-*"))


BENCH = """
import os, sys
os.geteuid = lambda: 0
from expertc.cli.main import run
sys.exit(run(["bench", sys.argv[1], "--duration", "60", "--lock-clocks"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_at_a_real_process(program: Program, log: Path, full: Path, number: int) -> None:
    jetson(program, log)
    command = [sys.executable, "-c", BENCH, str(full)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 60
        while said(log) != LOCKED and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert said(log) == FREED


def test_asked_for_on_the_command_line(cli, full, tmp_path, program, log, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    jetson(program, log)
    out = cli("bench", full, "--duration", "0.05", "--lock-clocks").out
    assert said(log) == FREED
    assert "jetson_clocks: processor" in out
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, out, err = cli("bench", full, "--duration", "0.05", "--lock-clocks")
    assert (code, out) == (2, "")
    assert "root" in err
    assert said(log) == FREED
