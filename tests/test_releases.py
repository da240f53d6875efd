"""What a device runs: one whole release or none, whatever is asked of the store and whenever that is cut short."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import expertc
from expertc.bundle import open_bundle, write_bundle
from expertc.errors import BundleError, FileSystemError, UsageError
from expertc.releases import Store, release_id, require_name

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(expertc.__file__).parent.parent)}


def bundle(folder: Path, which: str) -> Path:
    """A bundle whose manifest says which it is."""
    files: dict[str, bytes | Path] = {"expert.onnx": which.encode() * 99, "labels.txt": b"a\nb\n"}
    return write_bundle(folder / f"{which}.expert", files, {"which": which}, {})


def put(store: Store, folder: Path, which: str, accepted: bool = True, name: str = "cam") -> str:
    """Install it; its ID."""
    return store.install(name, bundle(folder, which), {"accepted": accepted, "installed": f"2026-{which}"}).id


def which(path: Path | None) -> str | None:
    return None if path is None else str(open_bundle(path).manifest["which"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "experts")


# -- what it does ------------------------------------------------------------------------------------------------------


def test_the_road_of_an_expert(store: Store, tmp_path: Path) -> None:
    assert (store.names(), store.current("cam"), store.releases("cam")) == ((), None, ())
    first = put(store, tmp_path, "1")
    assert store.current("cam") is None
    store.activate("cam", first)
    second = put(store, tmp_path, "2")
    assert which(store.current("cam")) == "1"
    found = store.activate("cam", second)
    assert (found.active, found.accepted, store.names()) == (True, True, ("cam",))
    assert os.readlink(tmp_path / "experts/cam/current") == f"releases/{second}"
    assert store.rollback("cam").id == first
    with pytest.raises(UsageError, match="no earlier release"):
        store.rollback("cam")
    assert [(each.id, each.active) for each in store.releases("cam")] == [(first, True), (second, False)]
    listed = store.releases("cam")[0].to_mapping()
    assert json.loads(json.dumps(listed)) == listed
    assert listed["path"] == str(tmp_path / "experts/cam/releases" / first)
    store.remove("cam")
    assert (store.names(), store.current("cam")) == ((), None)
    assert not list((tmp_path / "experts").iterdir())


def test_what_was_taken_back_is_not_gone_back_to(store: Store, tmp_path: Path) -> None:
    good, bad, newer = (put(store, tmp_path, each) for each in ("1", "2", "3"))
    for each in (good, bad):
        store.activate("cam", each)
    assert store.rollback("cam").id == good
    store.activate("cam", newer)
    assert store.rollback("cam").id == good
    store.activate("cam", newer)
    assert [each.id for each in store.gc("cam", keep=1)] == [bad]


def test_going_back_skips_what_is_damaged_or_was_refused(store: Store, tmp_path: Path) -> None:
    ids = [put(store, tmp_path, each) for each in ("1", "2", "3", "4")]
    for each in ids:
        store.activate("cam", each)
    path = store.release("cam", ids[2]).path / "labels.txt"
    path.chmod(0o600)
    path.write_bytes(b"c\n")
    store.note("cam", ids[1], {"accepted": False})
    assert store.rollback("cam").id == ids[0]


def test_only_what_was_accepted_becomes_active(store: Store, tmp_path: Path) -> None:
    refused = put(store, tmp_path, "1", accepted=False)
    with pytest.raises(UsageError, match="not accepted"):
        store.activate("cam", refused)
    assert store.current("cam") is None
    assert store.activate("cam", refused, force=True).active


def test_gc_keeps_the_active_one_and_those_that_were_active_last(store: Store, tmp_path: Path) -> None:
    ids = {each: put(store, tmp_path, each) for each in ("1", "2", "3", "4")}
    refused = put(store, tmp_path, "5", accepted=False)
    for each in ("2", "1", "4"):
        store.activate("cam", ids[each])
    assert {each.id for each in store.gc("cam", keep=2)} == {refused, ids["3"]}
    assert [each.id for each in store.releases("cam")] == [ids["4"], ids["1"], ids["2"]]
    assert {each.name for each in (tmp_path / "experts/cam/records").iterdir()} == {
        f"{ids[each]}.json" for each in ("1", "2", "4")
    }
    assert [each.id for each in store.gc("cam", keep=0)] == [ids["1"], ids["2"]]
    with pytest.raises(UsageError, match="cannot be kept"):
        store.gc("cam", keep=-1)


def test_the_active_release_is_not_removed(store: Store, tmp_path: Path) -> None:
    first = put(store, tmp_path, "1")
    store.activate("cam", first)
    with pytest.raises(UsageError, match="is active"):
        store.remove("cam", first)
    assert which(store.current("cam")) == "1"


def test_a_bundle_that_is_here_already_is_no_other_release(store: Store, tmp_path: Path) -> None:
    first = put(store, tmp_path, "1")
    store.note("cam", first, {"bench": {"p50_ms": 1.5}})
    before = (store.release("cam", first).path / "expert.onnx").stat().st_ino
    assert store.install("cam", bundle(tmp_path, "1")).facts["bench"] == {"p50_ms": 1.5}
    assert (store.release("cam", first).path / "expert.onnx").stat().st_ino == before
    assert not (tmp_path / "1.expert").exists()


def test_a_damaged_release_is_replaced_even_while_it_is_active(store: Store, tmp_path: Path) -> None:
    first = put(store, tmp_path, "1")
    store.activate("cam", first)
    path = store.release("cam", first).path / "expert.onnx"
    path.chmod(0o600)
    path.write_bytes(b"rot")
    with pytest.raises(BundleError, match=r"expert\.onnx"):
        store.activate("cam", first)
    assert store.install("cam", bundle(tmp_path, "1")).active
    assert which(store.current("cam")) == "1"
    assert not (tmp_path / "1.expert").exists()


def test_releases_are_private_and_read_only(store: Store, tmp_path: Path) -> None:
    path = store.release("cam", put(store, tmp_path, "1")).path
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in (path, *path.iterdir())}
    assert modes.pop(path.name) == 0o700
    assert set(modes.values()) == {0o400}
    assert stat.S_IMODE((tmp_path / "experts/cam").stat().st_mode) == 0o700


def test_a_record_cannot_say_which_release_is_active(store: Store, tmp_path: Path) -> None:
    first = put(store, tmp_path, "1")
    store.note("cam", first, {"active": True, "name": "other", "id": "x", "path": "/"})
    told = store.release("cam", first).to_mapping()
    assert (told["active"], told["name"], told["id"]) == (False, "cam", first)


def test_a_damaged_record_is_none(store: Store, tmp_path: Path) -> None:
    first, second = (put(store, tmp_path, each) for each in ("1", "2"))
    for each in (first, second):
        store.activate("cam", each)
    (tmp_path / f"experts/cam/records/{second}.json").write_bytes(b"\0" * 300)  # as a power cut leaves files
    assert [each.accepted for each in store.releases("cam")] == [False, True]
    assert store.rollback("cam").id == first
    assert store.note("cam", second, {"accepted": True}).accepted


def test_who_changes_a_release_is_alone(store: Store, tmp_path: Path) -> None:
    first = put(store, tmp_path, "1")
    with open(tmp_path / "experts/cam/.lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for call in (lambda: store.activate("cam", first), lambda: store.gc("cam"), lambda: store.remove("cam")):
            with pytest.raises(FileSystemError, match="Another process"):
                call()
        assert [each.id for each in store.releases("cam")] == [first]  # reading does not wait
        put(store, tmp_path, "1", name="other")
    store.activate("cam", first)


def test_asking_leaves_no_trace(store: Store, tmp_path: Path) -> None:
    for call in (store.rollback, store.gc, store.remove):
        with pytest.raises(UsageError, match="no expert cam"):
            call("cam")
    with pytest.raises(UsageError, match="no release"):
        store.release("cam", "0" * 16)
    assert list(tmp_path.iterdir()) == []


# -- what is not taken -------------------------------------------------------------------------------------------------

ODD = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc",
    "a b",
    "a\n",
    "a\0",
    "ä",
    "A",
    "-a",
    ".a",
    "_a",
    "x" * 65,
    "a\u202eb",
    "$(id)",
]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_and_ids_touch_nothing(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        require_name(name)
    assert caught.value.message.isprintable()
    given = bundle(tmp_path, "1")
    calls = [
        lambda: store.install(name, given), lambda: store.current(name), lambda: store.releases(name),
        lambda: store.rollback(name), lambda: store.gc(name), lambda: store.remove(name),
        lambda: store.activate("cam", name), lambda: store.remove("cam", name), lambda: store.note("cam", name, {}),
        lambda: store.release("cam", name),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(UsageError):
            call()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["1.expert"]


def test_a_bundle_with_something_else_in_it_is_refused(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("mine")
    target.chmod(0o644)
    for step, make in enumerate((
        lambda folder: (folder / "link").symlink_to(target), lambda folder: os.mkfifo(folder / "pipe"),
        lambda folder: (folder / "deep").mkdir(), lambda folder: (folder / "more.txt").touch(),
    )):  # fmt: skip
        folder = bundle(tmp_path, str(step))
        make(folder)
        with pytest.raises(BundleError, match="does not list"):
            store.install("cam", folder)
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert store.names() == ()


def test_a_link_to_elsewhere_is_not_followed(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path, "1")
    (tmp_path / "experts/cam/current").symlink_to("/etc")
    for call in (store.current, store.releases, store.rollback):
        with pytest.raises(FileSystemError, match="does not point to a release"):
            call("cam")


# -- any sequence, as a plain model has it -----------------------------------------------------------------------------

STEP = st.tuples(st.sampled_from(["install", "refuse", "activate", "rollback", "gc", "remove"]), st.integers(0, 3))


@settings(max_examples=25, deadline=None)
@given(st.lists(STEP, max_size=14))
def test_any_sequence_of_operations_ends_as_in_the_model(tmp_path_factory: pytest.TempPathFactory, steps) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("store")
    store, ids = Store(folder / "experts"), {}
    accepted: dict[int, bool] = {}
    trail: list[int] = []  # what was active, the active one last; one taken back is off it
    for verb, number in steps:
        try:
            if verb in ("install", "refuse"):
                ids[number] = put(store, folder, str(number), accepted=verb == "install")
                accepted[number] = verb == "install"
            elif verb == "activate":
                store.activate("cam", ids.get(number, "0" * 16))
                assert accepted[number]
                trail = [each for each in trail if each != number] + [number]
            elif verb == "rollback":
                store.rollback("cam")
                while True:
                    trail.pop()
                    if accepted.get(trail[-1]):
                        break
            elif verb == "gc":
                gone = {each.id for each in store.gc("cam", keep=number)}
                assert len(gone) == max(0, len(accepted) - bool(trail) - number)
                accepted = {each: ok for each, ok in accepted.items() if ids[each] not in gone}
            else:
                store.remove("cam", ids.get(number, "0" * 16))
                del accepted[number]
        except UsageError:
            if verb == "rollback":
                assert not any(accepted.get(each) for each in trail[:-1])
            elif verb == "activate":
                assert not accepted.get(number)
            elif verb == "remove":
                assert number not in accepted or number == trail[-1]
            else:
                assert not (folder / "experts/cam").exists()
        assert which(store.current("cam")) == (str(trail[-1]) if trail else None)
        assert {each.id for each in store.releases("cam")} == {ids[each] for each in accepted}


# -- cut short at any moment -------------------------------------------------------------------------------------------

# Forks a child per step, which is killed at its n-th change of the file system. What it leaves is judged, then cleaned.
DRIVER = """
import errno, json, os, random, shutil, signal, sys
from pathlib import Path
from expertc import atomic, releases
from expertc.bundle import open_bundle, write_bundle
from expertc.errors import ExpertcError, FileSystemError, UsageError

folder, mode, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
real = atomic._renameat2
def renameat2(*arguments):
    sys.audit("test.renameat2")
    return real(*arguments)
atomic._renameat2 = renameat2
os.fsync = lambda descriptor: sys.audit("test.fsync")
GROWS = {"os.mkdir", "os.rename", "os.symlink", "test.renameat2", "test.fsync"}
STEPS = {"open", "os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir", "os.chmod", "fcntl.flock",
         "test.renameat2", "test.fsync"}

def made(which):
    place = folder / "new.expert"
    shutil.rmtree(place, ignore_errors=True)
    write_bundle(place, {"expert.onnx": which.encode(), "labels.txt": b"x"}, {"which": which}, {})
    return place

def identity(which):
    place = made(which)
    return releases.release_id((place / "manifest.json").read_bytes())

base, work = folder / "base", folder / "work"
store = releases.Store(base)
A, B, C, D = (identity(each) for each in "ABCD")
for each in "ABC":
    store.install("cam", made(each), {"accepted": True})
store.activate("cam", A)
store.activate("cam", B)
store = releases.Store(work)

def damage():
    place = work / "cam" / "releases" / B / "labels.txt"
    place.chmod(0o600)
    place.write_bytes(b"y")

OPERATIONS = {
    "install": (lambda: store.install("cam", folder / "new.expert", {"accepted": True}), "D", None),
    "again": (lambda: store.install("cam", folder / "new.expert"), "A", None),
    "repair": (lambda: store.install("cam", folder / "new.expert"), "B", damage),
    "activate": (lambda: store.activate("cam", C), None, None),
    "rollback": (lambda: store.rollback("cam"), None, None),
    "note": (lambda: store.note("cam", B, {"seen": 1}), None, None),
    "remove": (lambda: store.remove("cam", C), None, None),
    "gc": (lambda: store.gc("cam", 0), None, None),
    "remove all": (lambda: store.remove("cam"), None, None),
}

def killed(call, step):
    pid = os.fork()
    if pid == 0:
        left = step
        def hook(event, given):
            nonlocal left
            if event in STEPS and (how == "kill" or event in GROWS or (event == "open" and (given[2] or 0) & 3)):
                left -= 1
                if left == 0 and how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if left == 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
        code = 7
        try:
            sys.addaudithook(hook)
            call()
            code = 0 if left > 0 else 3  # nobody was disturbed
        except (FileSystemError, UsageError):  # in a sequence, what it works on may be gone
            code = 1
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            raise
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]

def state():
    try:
        current = store.current("cam")
        if current is not None and not current.is_dir():
            return "missing", str(current)
        listed = {open_bundle(each.path).manifest["which"]: each.active for each in store.releases("cam")}
        active = None if current is None else open_bundle(current).manifest["which"]
        assert active is None or listed[active], listed
        return active, "".join(sorted(listed))
    except (ExpertcError, AssertionError) as error:
        return "broken", str(error)

def strays():
    return sorted(str(each.relative_to(work)) for each in work.rglob("*")
                  if each.name.startswith((".gone", ".current")) or each.name.endswith(".partial"))

results = []
def judge(call, step):
    status = killed(call, step)
    found = state()
    try:
        store.gc("cam", 9)
    except ExpertcError as error:
        if store.names():
            found = "broken", str(error)
    left = strays() if store.names() else []
    return {"status": status, "found": found, "strays": left}

if mode == "sequence":
    draw = random.Random(int(sys.argv[4]))
    shutil.copytree(base, work, symlinks=True)
    for _ in range(40):
        name = draw.choice(sorted(OPERATIONS)[:-3] + ["gc", "remove"])
        call, which, _ = OPERATIONS[name]
        if which is not None:
            made(which)
        results.append({"name": name, **judge(call, draw.randint(1, 90))})
else:
    call, which, before = OPERATIONS[mode]
    for step in range(1, 1000):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(base, work, symlinks=True)
        if which is not None:
            made(which)
        if before is not None:
            before()
        results.append(judge(call, step))
        if results[-1]["status"] == 0:
            break
print(json.dumps(results))
"""


def driven(*arguments: str | Path) -> list[dict[str, object]]:
    command = [sys.executable, "-c", DRIVER, *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


OUTCOMES = {  # what is active and what is there: before, and after
    "install": [["B", "ABC"], ["B", "ABCD"]],
    "again": [["B", "ABC"]],
    "activate": [["B", "ABC"], ["C", "ABC"]],
    "rollback": [["B", "ABC"], ["A", "ABC"]],
    "note": [["B", "ABC"]],
    "remove": [["B", "ABC"], ["B", "AB"]],
    "gc": [["B", "ABC"], ["B", "AB"], ["B", "B"]],
    "remove all": [["B", "ABC"], [None, ""]],
}


@pytest.mark.parametrize("operation", OUTCOMES)
def test_a_kill_at_any_step_leaves_a_whole_active_release(tmp_path: Path, operation: str) -> None:
    *stopped, finished = driven(tmp_path, operation, "kill")
    assert len(stopped) > 8
    found = [each["found"] for each in stopped]
    outcomes = OUTCOMES[operation]
    assert all(each in outcomes for each in found), [each for each in found if each not in outcomes]
    assert found == sorted(found, key=outcomes.index)  # never back
    assert (found[0], finished["found"], finished["status"]) == (outcomes[0], outcomes[-1], 0)
    assert not [each for each in stopped if each["strays"]]


def test_a_damaged_release_becomes_whole_in_one_step(tmp_path: Path) -> None:
    *stopped, finished = driven(tmp_path, "repair", "kill")
    found = ["broken" if each["found"][0] == "broken" else each["found"] for each in stopped]  # type: ignore[index]
    assert "missing" not in {str(each[0]) for each in found}
    change = found.index(["B", "ABC"])
    assert change > 8
    assert found == ["broken"] * change + [["B", "ABC"]] * (len(found) - change)
    assert (finished["found"], finished["strays"]) == (["B", "ABC"], [])


@pytest.mark.parametrize("operation", ["install", "activate", "gc"])
def test_a_disk_that_fills_up_at_any_step_is_said_and_leaves_a_whole_active_release(
    tmp_path: Path, operation: str
) -> None:
    *stopped, finished = driven(tmp_path, operation, "full")
    assert {each["status"] for each in stopped} <= {1 << 8, 3 << 8}  # a folder that is there need not be made
    assert all(each["found"] in OUTCOMES[operation] for each in stopped)
    assert (finished["found"], finished["strays"]) == (OUTCOMES[operation][-1], [])


@pytest.mark.parametrize("seed", range(2))
def test_a_sequence_of_operations_that_are_killed_keeps_a_whole_release_active(tmp_path: Path, seed: int) -> None:
    steps = driven(tmp_path, "sequence", "kill", str(seed))
    assert {os.WIFSIGNALED(int(str(each["status"]))) for each in steps} == {True, False}
    assert all(each["found"][0] in ("A", "B", "C") for each in steps), steps  # type: ignore[index]
    assert len({str(each["found"]) for each in steps}) > 3
    assert not [each for each in steps if each["strays"]]


def test_the_id_is_the_hash_of_the_manifest(tmp_path: Path) -> None:
    done = subprocess.run(["sha256sum", bundle(tmp_path, "1") / "manifest.json"], capture_output=True, text=True)
    assert release_id((tmp_path / "1.expert/manifest.json").read_bytes()) == done.stdout[:16]
