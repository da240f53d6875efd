"""What depends on where the output goes: a terminal, a pipe that is closed, a full disk. Real processes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rainbow import picture

COMMAND = (sys.executable, "-m", "expertc")


def environment(**more: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return plain | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TERM": "xterm-256color"} | more


def on_a_terminal(*arguments: object, piped: bool = False, **more: str) -> tuple[int, str, str]:
    """Run on a terminal of 80 columns; with ``piped`` stdout goes elsewhere. Returns code, terminal, pipe."""
    ours, theirs = pty.openpty()
    seen: list[bytes] = []

    def listen() -> None:
        try:
            while data := os.read(ours, 65536):
                seen.append(data)
        except OSError:  # what Linux says when the last writer is gone
            return

    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdin=theirs, stdout=subprocess.PIPE if piped else theirs, stderr=theirs,
        env=environment(**more),
    ) as process:  # fmt: skip
        os.close(theirs)
        listener = threading.Thread(target=listen)
        listener.start()
        out = process.stdout.read().decode() if process.stdout else ""
        code = process.wait(timeout=120)
    listener.join()
    os.close(ours)
    return code, b"".join(seen).decode().replace("\r\n", "\n"), out


@pytest.mark.parametrize("arguments", ["--help", "targets", "targets orin-nano-8gb --json", "build --help"])
def test_a_closed_pipe_is_no_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, *arguments.split()], stdout=writer, stderr=subprocess.PIPE, env=environment(), timeout=120
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


STOPS_EARLY = [('"$0" -m expertc classes "$1" | head -n 1', 0), ('"$0" -m expertc classes missing 2>&1 | true', 3)]


@pytest.mark.parametrize(("script", "code"), STOPS_EARLY)
def test_a_reader_that_stops_early(full, script, code):
    """What the command came to does not depend on who listens."""
    done = subprocess.run(
        ["bash", "-c", f"{script}; exit ${{PIPESTATUS[0]}}", sys.executable, str(full)],
        capture_output=True, text=True, env=environment(), timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (code, "")


def test_no_room_for_the_output():
    with open("/dev/full", "w") as device:
        done = subprocess.run(
            [*COMMAND, "targets"], stdout=device, stderr=subprocess.PIPE, env=environment(), timeout=120
        )
    assert done.returncode == 9
    assert b"disk is full" in done.stderr


def test_without_standard_output():
    done = subprocess.run(
        ["bash", "-c", '"$0" -m expertc targets >&-', sys.executable],
        capture_output=True,
        env=environment(),
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_encoding_that_lacks_a_character(tmp_path):
    done = subprocess.run(
        [*COMMAND, "classes", tmp_path / "ünïcödé-鯊.onnx"], capture_output=True, timeout=120,
        env=environment(PYTHONIOENCODING="latin-1", LC_ALL="C"),
    )  # fmt: skip
    assert done.returncode == 3
    assert b"cannot be read" in done.stderr


def test_colour_only_on_a_terminal_and_never_with_no_color():
    code, seen, _ = on_a_terminal("targets", "toaster")
    assert code == 2
    assert "\x1b[31m" in seen
    assert "\x1b[" in on_a_terminal("targets")[1]
    for arguments in (("targets", "toaster"), ("targets",)):
        assert "\x1b" not in on_a_terminal(*arguments, NO_COLOR="1")[1]
    _, seen, out = on_a_terminal("targets", piped=True)
    assert "\x1b" not in out
    assert seen == ""


def test_results_and_the_bar_do_not_mix(bundle, tmp_path):
    """Many images: the bar is on the terminal, the results are where stdout goes, each on a line of its own."""
    folder: Path = tmp_path / "photos"
    for number in range(20):
        picture(folder / f"{number:02}.png", "reds")
    (folder / "bad.png").write_bytes(b"no image")
    code, seen, out = on_a_terminal("predict", bundle, folder, piped=True)
    assert code == 10
    assert len(out.splitlines()) == 20
    assert "\x1b" not in out
    assert "classifying" in seen
    assert f"{folder}/bad.png: " in "".join(seen.split("\n"))
    code, seen, _ = on_a_terminal("predict", bundle, folder)
    assert code == 10
    for line in seen.split("\n"):
        assert line.count(": reds ") <= 1
        assert "classifying" not in line.partition(": reds ")[2]
    code, seen, out = on_a_terminal("predict", bundle, folder, "-q", piped=True)
    assert "classifying" not in seen


def test_stages_are_shown_while_a_bundle_is_built(full, tmp_path):
    arguments = ("--classes", "reds", "-o", tmp_path / "a.expert", "--verify", "off", "--measure", "0.3")
    code, seen, out = on_a_terminal("build", full, *arguments, piped=True)
    assert code == 0
    assert "measure" in seen
    assert out.splitlines()[-1].startswith("next: ")
