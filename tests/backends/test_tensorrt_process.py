"""Compiling in a child process: what comes back from it, what stops it, and that nothing of it stays.

**TensorRT, the driver and their memory are simulated**: the child imports a ``tensorrt`` of ours that plays a scene,
and brings a driver along. Processes, signals, pipes, files and full disks are real.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_tensorrt_build import classifier

from expertc.backends.tensorrt import process
from expertc.backends.tensorrt.options import Options
from expertc.backends.tensorrt.process import Progress, compile_plan
from expertc.errors import CompilationError, ExitCode, ExpertcError, FileSystemError, ModelError, UnsupportedError

FREE = 2**32  # bytes of memory that the simulated device has

PLAYED = """
import os, signal, sys, time, types
from fake_tensorrt import Scene, fake

class Driver:
    name = "540.4.0"
    def device(self, index):
        return types.SimpleNamespace(sm=(8, 7), name="Orin")
    def memory(self):
        return {free}, 2 * {free}

driver = types.ModuleType("expertc.backends.tensorrt.driver")
driver.Driver, driver.open_driver = Driver, Driver
sys.modules[driver.__name__] = driver
scene = Scene()
open({folder!r} + "/child.pid", "w").write(str(os.getpid()))

def workspace():
    return scene.called("IBuilderConfig.set_memory_pool_limit")[-1][1] // 2**20

{script}
sys.modules["tensorrt"] = fake({release!r}, scene)
"""

Play = Callable[..., None]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Has children import a scripted ``tensorrt``; temporary files and caches are the test's own."""
    for name in ("tmp", "cache", "site"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def write(script: str = "", release: str = "10.3") -> None:
        text = PLAYED.format(free=FREE, folder=str(tmp_path), script=textwrap.dedent(script), release=release)
        (tmp_path / "site" / "tensorrt.py").write_text(text)

    write()
    return write


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    path = tmp_path / "expert.onnx"
    path.write_bytes(classifier())
    return path


def gone(tmp_path: Path) -> bool:
    """Whether the child has ended and its files are away."""
    pid = int((tmp_path / "child.pid").read_text())
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        state = "gone"
    return state in ("gone", "Z") and list((tmp_path / "tmp").iterdir()) == []


def failing(kind: type[ExpertcError], onnx: Path, options: Options | None = None) -> ExpertcError:
    with pytest.raises(kind) as caught:
        compile_plan(onnx, options or Options())
    assert type(caught.value) is kind
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("release", ["8.5", "11.4"])
def test_a_plan_comes_back_and_the_next_build_knows_how_long_it_takes(
    release: str, play: Play, onnx: Path, tmp_path: Path
) -> None:
    play("scene.during = lambda: time.sleep(0.3)", release)
    heard: list[Progress] = []
    plan = compile_plan(onnx, Options(batch=(1, 1, 4)), told=heard.append)
    assert plan.data.startswith(b"fake plan\n")
    assert plan.layers[0]["Name"] == "Conv:conv"
    assert plan.tensors == ("image", "scores")
    assert plan.notes == ()
    assert plan.seconds >= heard[-1].elapsed > 0.3
    assert [each.elapsed for each in heard] == sorted(each.elapsed for each in heard)
    assert {"reading the model", "building the engine", "inspecting the engine"} <= {each.phase for each in heard}
    assert {each.expected for each in heard} == {None}
    heard.clear()
    assert compile_plan(onnx, Options(batch=(1, 1, 4)), told=heard.append).data == plan.data
    assert 0.3 <= float(heard[-1].expected or 0) <= plan.seconds
    assert gone(tmp_path)


def test_progress_is_told_where_tensorrt_says_nothing(play: Play, onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TICK", 0.05)
    play("scene.during = lambda: time.sleep(0.5)", "8.6")
    heard: list[Progress] = []
    compile_plan(onnx, Options(), told=heard.append)
    assert sum(each.phase == "building the engine" for each in heard) > 5


# -- memory ------------------------------------------------------------------------------------------------------------


def test_out_of_memory_is_tried_again_with_half_the_workspace(play: Play, onnx: Path) -> None:
    play("scene.memory = 300 * 2**20")
    heard: list[Progress] = []
    plan = compile_plan(onnx, Options(workspace_mb=1000), told=heard.append)
    assert plan.notes == ("With a workspace of 500 MB the memory ran out; it was built with 250 MB.",)
    assert any("out of memory, once more with a workspace of 500 MB" in each.phase for each in heard)


def test_the_number_of_tries_is_limited_and_the_diagnosis_is_said(
    play: Play, onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "TRIES", 2)
    play("scene.memory = 1")
    error = failing(CompilationError, onnx)
    least = FREE // 4 // 2**20 // 2 ** (process.TRIES - 1)  # a quarter of what is free at first
    assert f"memory does not suffice with a workspace of {least:,} MB" in error.message
    assert "Cuda Runtime (out of memory)" in error.message
    assert error.exit_code == ExitCode.COMPILATION == 6
    assert "with a workspace of 16 MB" in failing(CompilationError, onnx, Options(workspace_mb=20)).message


@pytest.mark.parametrize(
    "death",
    ["os.kill(os.getpid(), signal.SIGKILL)",
     "(os.write(2, b\"terminate called after throwing an instance of 'std::bad_alloc'\\n\"), os.abort())",
     "(_ for _ in ()).throw(MemoryError)"],
)  # fmt: skip
def test_a_kill_for_want_of_memory_is_one_too(death: str, play: Play, onnx: Path) -> None:
    play(f"scene.during = lambda: {death} if workspace() > 300 else None")
    assert "it was built with 256 MB" in compile_plan(onnx, Options(workspace_mb=512)).notes[0]


def test_what_always_dies_says_how(play: Play, onnx: Path, tmp_path: Path) -> None:
    play("scene.during = lambda: os.kill(os.getpid(), signal.SIGKILL)")
    assert "The system killed TensorRT while " in failing(CompilationError, onnx, Options(workspace_mb=16)).message
    play("scene.during = lambda: (os.write(2, b'\\x1b[31mboom\\n'), os.kill(os.getpid(), signal.SIGSEGV))")
    assert "died of SIGSEGV while Building Engine" in failing(CompilationError, onnx).message
    assert "(boom)" in failing(CompilationError, onnx).message.replace("[31m", "")
    play("scene.during = lambda: 1 / 0")
    assert "broke off: ZeroDivisionError" in failing(CompilationError, onnx).message
    assert gone(tmp_path)


# -- errors keep what they are -----------------------------------------------------------------------------------------


def test_errors_come_through_as_what_they_are(play: Play, onnx: Path, tmp_path: Path) -> None:
    failing(ModelError, tmp_path / "none.onnx")
    play("scene.unread = ('Relu',)")
    assert "Plugin not found" in failing(UnsupportedError, onnx).message
    play(
        """
        from expertc.errors import UnsupportedError
        class NoDriver(UnsupportedError): pass
        def open_driver(): raise NoDriver("There is no CUDA driver.", "Install it.")
        driver.open_driver = open_driver
        """
    )
    assert failing(UnsupportedError, onnx).message == "There is no CUDA driver."
    (tmp_path / "site" / "tensorrt.py").write_text("raise ModuleNotFoundError(name='tensorrt')")
    assert "not installed for this Python" in failing(UnsupportedError, onnx).message


def test_a_disk_that_is_full_in_the_middle(
    play: Play, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play("scene.during = lambda: os.symlink('/dev/full', os.path.join(sys.argv[1], 'engine.plan'))")
    error = failing(FileSystemError, onnx)
    assert "cannot be written (No space left on device)" in error.message
    assert error.exit_code == ExitCode.FILE_SYSTEM == 9
    assert gone(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert "temporary files" in failing(FileSystemError, onnx).message


def test_nothing_is_imported_from_the_working_directory(
    play: Play, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "somewhere"
    folder.mkdir()
    for name in ("numpy.py", "json.py", "expertc.py", "tensorrt.py"):
        (folder / name).write_text("raise SystemExit('imported from the working directory')")
    (folder / "expert.onnx").write_bytes(onnx.read_bytes())
    monkeypatch.chdir(folder)
    assert compile_plan(Path("expert.onnx"), Options()).data


# -- stopping it -------------------------------------------------------------------------------------------------------


def test_an_interruption_ends_the_child_and_leaves_nothing(play: Play, onnx: Path, tmp_path: Path) -> None:
    """Even one that does nothing any more, and so cannot end by itself."""
    play("scene.during = lambda: os.kill(os.getpid(), signal.SIGSTOP)")

    def interrupt(progress: Progress) -> None:
        if progress.phase.startswith("Building Engine"):
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        compile_plan(onnx, Options(), told=interrupt)
    assert time.monotonic() - began < 30
    assert gone(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_end_parent_and_child(number: signal.Signals, play: Play, onnx: Path, tmp_path: Path) -> None:
    """SIGINT and SIGTERM as the command line takes them; after SIGKILL the child notices by itself."""
    play(f"scene.during = lambda: (open({str(tmp_path / 'building')!r}, 'w').close(), time.sleep(60))")
    program = f"""
        import sys
        from pathlib import Path
        from expertc.backends.tensorrt.options import Options
        from expertc.backends.tensorrt.process import compile_plan
        from expertc.cli.main import _terminate_like_interrupt
        try:
            with _terminate_like_interrupt():
                compile_plan(Path({str(onnx)!r}), Options())
        except KeyboardInterrupt:
            sys.exit(130)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], env=environment)
    try:
        until(lambda: (tmp_path / "building").exists())
        parent.send_signal(number)
        assert parent.wait(30) == (-9 if number == signal.SIGKILL else ExitCode.INTERRUPTED)
        until(lambda: gone(tmp_path))
    finally:
        parent.kill()
        parent.wait()


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)
