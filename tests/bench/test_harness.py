"""What the harness says about itself, and about the checkout it runs from."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from itertools import accumulate, count, cycle
from pathlib import Path

import pytest

from expertc.bench import environment
from expertc.bench.checkout import UNKNOWN, commit, fingerprint
from expertc.bench.harness import BUDGET, Harness, look, step


def coarse(tick: int, reading: int = 30) -> Callable[[], int]:
    """A clock that moves in steps of ``tick`` ns while each reading takes ``reading``."""
    now = count(0, reading)
    return lambda: next(now) // tick * tick


@pytest.mark.parametrize(("tick", "seen"), [(1, 30e-9), (1000, 1e-6), (15_625_000, 15.625e-3)])
def test_the_step_of_a_clock(tick: int, seen: float) -> None:
    """What a reading takes counts too: nothing shorter can be told. The last is a clock as Windows had it."""
    reading = max(30, tick // 50)
    assert step(coarse(tick, reading)) == pytest.approx(seen)


def test_a_reading_that_was_disturbed_is_no_step() -> None:
    now = accumulate(cycle((50, 900, 700)))
    assert step(lambda: next(now)) == pytest.approx(50e-9)


def test_the_loop_around_a_call_is_measured() -> None:
    """A clock that a reading moves on by 300 ns: between two readings, of a call that does nothing, are 300 ns."""
    found = look(coarse(1, 300))
    assert (found.step, found.overhead) == pytest.approx((300e-9, 300e-9))
    assert found.least == pytest.approx(40 * 300e-9)  # a step's error is then below 2.5 %
    assert [*found.warnings()] == []
    (warning,) = Harness("", 1e-7, 2 * BUDGET).warnings()
    assert "40 µs of each call (budget 20 µs)" in warning


def test_this_machine() -> None:
    found = look()
    assert 0 < found.step < 1e-3
    assert 0 < found.overhead < 10 * BUDGET
    assert found.clock


# -- the checkout ------------------------------------------------------------------------------------------------------


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs git in a repository of two commits."""
    if shutil.which("git") is None:
        pytest.skip("there is no git on this machine")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")

    def run(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path / "source"), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "source").mkdir()
    run("init", "-b", "topic/long.name")
    for message in ("one", "two"):
        run("commit", "--allow-empty", "-m", message)
    return run


def test_the_commit_is_what_git_says(git: Callable[..., str], tmp_path: Path) -> None:
    source = tmp_path / "source"
    assert commit(source) == git("rev-parse", "HEAD")
    git("pack-refs", "--all")
    assert commit(source) == git("rev-parse", "HEAD")
    git("checkout", "--detach", "HEAD~1")
    assert commit(source) == git("rev-parse", "topic/long.name~1")
    git("worktree", "add", "-b", "beside", str(tmp_path / "beside"), "topic/long.name")
    assert commit(tmp_path / "beside") == git("rev-parse", "beside")
    git("commit", "--allow-empty", "-m", "three")
    assert commit(source) == git("rev-parse", "HEAD")


@pytest.mark.parametrize(
    "head", ["", "ref: refs/heads/none", "ref: refs/heads/../../secret", "ref: ../secret", "0123", "\x1b[2J" * 10]
)
def test_what_is_no_checkout_is_unknown(tmp_path: Path, head: str) -> None:
    assert commit(tmp_path) == UNKNOWN
    (tmp_path / ".git" / "refs" / "heads").mkdir(parents=True)
    (tmp_path / ".git" / "HEAD").write_text(head)
    for folder in (tmp_path, tmp_path / ".git"):
        (folder / "secret").write_text("5" * 40)
    assert commit(tmp_path) == UNKNOWN


def test_a_worktree_without_its_repository_is_unknown(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text(f"gitdir: {tmp_path / 'gone'}\n")
    assert commit(tmp_path) == UNKNOWN


def test_settings_are_stated() -> None:
    stated = environment.settings(3)
    assert (stated["threads"], stated["garbage_collector"]) == (3, "off while times are taken")
    assert environment.settings(None)["threads"] == environment.cores()


def test_the_same_code_has_the_same_fingerprint(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place / "sub").mkdir(parents=True)
        (tmp_path / place / "sub" / "x.py").write_text("x = 1")
        (tmp_path / place / f"{place}.txt").touch()
    a, b = tmp_path / "a", tmp_path / "b"
    assert fingerprint(a) == fingerprint(b) != fingerprint(tmp_path)
    before = fingerprint(a)
    (a / "sub" / "x.py").write_text("x = 2")  # not committed, as long as before
    assert fingerprint(a) != before
    (b / "sub" / "x.py").rename(b / "x.py")
    assert fingerprint(b) != before
