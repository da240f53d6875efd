"""A directory appears whole or not at all, whatever stops the process that writes it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import expertc
from expertc import atomic
from expertc.errors import FileSystemError

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(expertc.__file__).parent.parent)}

# Forks one child per step. The child replaces (or creates) a bundle and is stopped at its n-th system call, by SIGKILL
# or by SIGTERM as the command line handles it; what it leaves is judged, then the next build of the same output runs.
DRIVER = """
import json, os, signal, sys
from pathlib import Path
from expertc import atomic, bundle
from expertc.errors import ExpertcError

folder, scenario, exchange, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "exchange", sys.argv[4]
target = folder / "out.expert"
real = atomic._renameat2

def renameat2(*arguments):
    sys.audit("test.renameat2")
    return real(*arguments) if exchange else False

def fsync(descriptor):
    sys.audit("test.fsync")

atomic._renameat2, os.fsync = renameat2, fsync
STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.scandir", "fcntl.flock",
         "test.renameat2", "test.fsync"}

def build(which):
    scratch = folder / "scratch"
    scratch.write_text(which * 1000)
    files = {"expert.onnx": scratch, "labels.txt": which.encode()}
    bundle.write_bundle(target, files, {"which": which}, {}, force=True)

def stop(step):
    def interrupt(*_):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, interrupt)
    seen = []
    def hook(event, _):
        if event in STEPS:
            seen.append(event)
            if len(seen) == step:
                os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGTERM)
    sys.addaudithook(hook)

def state():
    try:
        found = bundle.open_bundle(target)
    except ExpertcError as error:
        return "absent" if not os.path.lexists(target) else f"broken: {error}"
    return found.manifest["which"]

results, step = [], 0
while True:
    step += 1
    if scenario == "replace":
        build("old")
    pid = os.fork()
    if pid == 0:
        stop(step)
        try:
            build("new")
        except KeyboardInterrupt:
            os._exit(3)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    found = state()
    left = sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("."))
    build("next")
    clean = sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("."))
    results.append({"status": status, "found": found, "left": left, "after": state(), "clean": clean})
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        break
    if scenario == "create":
        for file in target.iterdir():
            file.unlink()
        target.rmdir()
print(json.dumps(results))
"""


def make(place: Path, files: dict[str, bytes], last: Callable[[], object] | None = None) -> None:
    """Put the files into a new directory at ``place``, then do something just before it is finished."""
    with atomic.staged(place) as folder:
        for name, content in files.items():
            atomic.put(folder / name, content)
        if last is not None:
            last()


def run(*arguments: str | Path, code: str = DRIVER) -> list[dict[str, object]]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("way", ["exchange", "renames"])
@pytest.mark.parametrize("scenario", ["create", "replace"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_or_nothing(tmp_path: Path, scenario: str, way: str) -> None:
    *stopped, finished = run(tmp_path, scenario, way, "kill")
    assert len(stopped) > 20
    assert finished["found"] == "new"
    assert finished["left"] == []
    assert all(os.WIFSIGNALED(int(str(each["status"]))) for each in stopped)
    before = "old" if scenario == "replace" else "absent"
    found = [each["found"] for each in stopped]
    assert found[0] == before
    assert found[-1] == "new"
    allowed = {before, "new"}
    if (scenario, way) == ("replace", "renames"):
        allowed.add("absent")  # between two renames; it must then lie beside, whole
        beside = [each["left"] for each in stopped if each["found"] == "absent"]
        assert beside
        assert all(any(".old-" in name for name in names) for names in beside)  # type: ignore[attr-defined]
    assert set(found) == allowed
    assert all(each["after"] == "next" and each["clean"] == [] for each in stopped)


@pytest.mark.parametrize("way", ["exchange", "renames"])
@pytest.mark.parametrize("scenario", ["create", "replace"])
def test_an_interrupt_at_any_step_cleans_up(tmp_path: Path, scenario: str, way: str) -> None:
    *stopped, _ = run(tmp_path, scenario, way, "terminate")
    assert len(stopped) > 20
    assert {each["status"] for each in stopped} == {3 << 8}
    before = "old" if scenario == "replace" else "absent"
    assert {each["found"] for each in stopped} <= {before, "new"}
    # Only an interrupt of the cleaning up itself leaves something, which the next build then removes.
    assert sum(each["left"] != [] for each in stopped) <= 12
    assert all(each["after"] == "next" and each["clean"] == [] for each in stopped)


def test_a_half_finished_replacement_is_undone_by_the_next_holder(tmp_path: Path) -> None:
    (tmp_path / ".out.old-0123abcd").mkdir()
    (tmp_path / ".out.old-0123abcd" / "file").write_text("old")
    (tmp_path / ".out.new-0123abcd").mkdir()
    (tmp_path / ".out.lock").touch()
    with atomic.exclusive(tmp_path / "out") as place:
        assert (place / "file").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_only_its_own_temporaries_are_tidied(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    kept = [".other.new-0123abcd", ".out.new-0123abc", ".out.new-0123abcdx", ".out.notes", ".outxnew-0123abcd"]
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / ".out.new-00000000").symlink_to(elsewhere)
    (tmp_path / ".out.old-00000000").symlink_to(elsewhere)
    (tmp_path / ".out.new-11111111").write_text("a file")
    with atomic.exclusive(tmp_path / "out"):
        pass
    assert all((tmp_path / name).is_dir() for name in kept)
    assert (elsewhere / "precious").exists()
    assert (tmp_path / ".out.new-11111111").read_text() == "a file"
    assert not (tmp_path / "out").exists()


def test_two_at_once(tmp_path: Path) -> None:
    with atomic.exclusive(tmp_path / "out"):
        with pytest.raises(FileSystemError, match="Another process is writing"), atomic.exclusive(tmp_path / "out"):
            pytest.fail("two hold the lock")
        with atomic.exclusive(tmp_path / "other"):
            pass
    with atomic.exclusive(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    hold = (
        "import sys; from pathlib import Path; from expertc import atomic\n"
        "with atomic.exclusive(Path(sys.argv[1])), atomic.staged(Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / "out")]
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(FileSystemError), atomic.exclusive(tmp_path / "out"):
            pytest.fail("two hold the lock")
        assert len(list(tmp_path.iterdir())) == 2  # its lock and its directory: a living process keeps them
        child.send_signal(signal.SIGKILL)
        child.wait()
        with atomic.exclusive(tmp_path / "out"):
            assert [entry.name for entry in tmp_path.iterdir()] == [".out.lock"]
    assert list(tmp_path.iterdir()) == []


def test_many_threads_never_hold_it_together(tmp_path: Path) -> None:
    inside: list[int] = []
    together, held = [], []

    def compete(number: int) -> None:
        for _ in range(150):
            with contextlib.suppress(FileSystemError), atomic.exclusive(tmp_path / "out"):
                inside.append(number)
                together.append(len(inside))
                inside.remove(number)
                held.append(number)

    threads = [threading.Thread(target=compete, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held
    assert set(together) == {1}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["missing/out", "file/out", "..", ".", "/"])
def test_a_place_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    words = r"does not exist|is not a folder|does not name"
    with pytest.raises(FileSystemError, match=words), atomic.exclusive(Path(target)):
        pytest.fail("it was accepted")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(FileSystemError, match="too long"), atomic.exclusive(tmp_path / ("x" * 252)):
        pytest.fail("it was accepted")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EFBIG, "disk is full"),
        (errno.EACCES, "cannot be written"),
        (errno.EROFS, "cannot be written"),
        (errno.EIO, "cannot be written"),
        (errno.EEXIST, "already exists"),
    ],
)
@pytest.mark.parametrize("when", ["mkdir", "fsync", "rename", "inside"])
def test_system_errors_become_ours_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str, when: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with atomic.exclusive(tmp_path / "out") as place:
        if when == "rename":
            monkeypatch.setattr(atomic, "_renameat2", fail)
        elif when != "inside":
            monkeypatch.setattr(os, when, fail)
        with pytest.raises(FileSystemError, match=words) as caught:
            make(place, {"file": b"text"}, fail if when == "inside" else None)
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_everything_is_on_the_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, renameat2 = os.fsync, atomic._renameat2

    def note_fsync(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def note_rename(source: Path, target: Path, flags: int) -> bool:
        events.append("rename")
        return renameat2(source, target, flags)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(atomic, "_renameat2", note_rename)
    with atomic.exclusive(tmp_path / "out") as place, atomic.staged(place) as folder:
        (folder / "a").touch()
        (folder / "b").touch()
        temporary = folder.name
    assert set(events[:2]) == {"a", "b"}
    assert events[2:] == [temporary, "rename", tmp_path.name]


def test_without_a_rule_nothing_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        atomic.exclusive(tmp_path / "out") as place,
        pytest.raises(FileSystemError, match="already exists"),
        atomic.staged(place),
    ):
        pytest.fail("the work was begun")


@pytest.mark.parametrize("there", ["directory", "file", "link"])
def test_what_appears_meanwhile_is_not_overwritten(tmp_path: Path, there: str) -> None:
    def appear() -> None:
        if there == "directory":
            (tmp_path / "out").mkdir()  # rename(2) alone would replace an empty directory
        elif there == "file":
            (tmp_path / "out").write_text("mine")
        else:
            (tmp_path / "out").symlink_to("nowhere")

    with atomic.exclusive(tmp_path / "out") as place, pytest.raises(FileSystemError, match="already exists"):
        make(place, {"file": b"new"}, appear)
    (found,) = tmp_path.iterdir()
    assert (found.name, found.is_symlink()) == ("out", there == "link")


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_a_late_objection_undoes_the_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    looks: list[str] = []

    def replaceable(folder: Path) -> None:
        looks.append(folder.name)
        if folder.name != "out":
            raise FileSystemError("Something was put in while it was exchanged.")

    if way == "renames":
        monkeypatch.setattr(atomic, "_renameat2", lambda *_: False)
    with (
        atomic.exclusive(tmp_path / "out") as place,
        pytest.raises(FileSystemError, match="was put in"),
        atomic.staged(place, replaceable) as folder,
    ):
        (folder / "new").touch()
    assert looks[:2] == ["out", "out"]
    assert [str(entry.relative_to(tmp_path)) for entry in tmp_path.rglob("*")] == ["out", "out/mine"]


def test_a_moved_file_gets_the_modes_of_a_new_one(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("text")
    source.chmod(0o600)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "fresh").touch()
    atomic.put(folder / "moved", source)
    assert not source.exists()
    assert (folder / "moved").read_text() == "text"
    assert (folder / "moved").stat().st_mode == (folder / "fresh").stat().st_mode


def test_a_file_on_another_disk_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_text("text")

    def rename(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "rename", rename)
    atomic.put(tmp_path / "copied", source)
    assert (tmp_path / "copied").read_text() == source.read_text() == "text"


@pytest.mark.parametrize("kind", ["link", "directory", "missing"])
def test_only_regular_files_are_moved(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    if kind == "link":
        source.symlink_to("/etc/passwd")
    elif kind == "directory":
        source.mkdir()
    with pytest.raises(FileSystemError, match="not a regular file"):
        atomic.put(tmp_path / "moved", source)


# -- real disks --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["small", "read-only"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A real file system of 256 KiB, or one mounted read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = "size=256k" if request.param == "small" else "ro"
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("only root may mount a file system")
    yield request.param, folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_or_read_only(disk: tuple[str, Path]) -> None:
    kind, folder = disk
    words = "disk is full" if kind == "small" else "cannot be written"
    with pytest.raises(FileSystemError, match=words), atomic.exclusive(folder / "out") as place:
        make(place, {"small": b"1", "large": bytes(2**20)})
    assert list(folder.iterdir()) == []


LIMITED = """
import json, resource, signal, sys
from pathlib import Path
from expertc import atomic
from expertc.errors import FileSystemError

place = Path(sys.argv[1])
if sys.argv[2] == "killed":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with atomic.exclusive(place) as held, atomic.staged(held) as folder:
        atomic.put(folder / "large", bytes(2**20))
except FileSystemError as error:
    print(json.dumps([str(error)]))
"""


def test_a_file_too_large_for_the_limit(tmp_path: Path) -> None:
    (said,) = run(tmp_path / "out", "told", code=LIMITED)
    assert "disk is full" in str(said)
    assert list(tmp_path.iterdir()) == []


def test_a_process_killed_in_the_middle_of_a_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "out"), "killed"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGXFSZ
    (half,) = tmp_path.rglob("large")
    assert half.stat().st_size == 100_000
    assert not (tmp_path / "out").exists()
    with atomic.exclusive(tmp_path / "out") as place, atomic.staged(place) as folder:
        atomic.put(folder / "small", b"1")
    assert [str(entry.relative_to(tmp_path)) for entry in tmp_path.rglob("*")] == ["out", "out/small"]


def test_a_file_appears_whole_and_replaces_only_with_force(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    assert atomic.save(path, b"first") == path
    with pytest.raises(FileSystemError, match="already exists"):
        atomic.save(path, b"second")
    assert path.read_bytes() == b"first"
    atomic.save(path, b"third", force=True)
    assert path.read_bytes() == b"third"
    assert os.listdir(tmp_path) == ["picture.png"]


@pytest.mark.parametrize("exchange", [True, False], ids=["renameat2", "plain"])
def test_a_file_that_somebody_else_made_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    path = tmp_path / "picture.png"
    real = os.fsync

    def late(descriptor: int) -> None:
        path.write_bytes(b"theirs")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", late)
    if not exchange:
        monkeypatch.setattr(atomic, "_renameat2", lambda *_: False)
    with pytest.raises(FileSystemError, match="already exists"):
        atomic.save(path, b"ours")
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["picture.png"]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "no" / "file", tmp_path / "folder", tmp_path / ("x" * 300)):
        with pytest.raises(FileSystemError):
            atomic.save(path, b"content", force=True)
    assert os.listdir(tmp_path) == ["folder"]
