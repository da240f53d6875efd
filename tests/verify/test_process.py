"""The child process: what comes back from it, what stops it, and that nothing of it stays."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import branched
import numpy as np
import pytest
from branched import Case
from networks import card
from strangers import bomb, endless

from expertc.errors import (
    CardError,
    DataError,
    ExitCode,
    ExpertcError,
    FileSystemError,
    ModelError,
    UnsupportedError,
    VerificationError,
)  # fmt: skip
from expertc.limits import Limits
from expertc.verify import process
from expertc.verify.process import verifier, verify

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def options(case: Case) -> dict[str, Any]:
    return {"card_full": case.card, "indices": case.indices}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go during the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_child_says_what_the_ladder_says(temporary: Path) -> None:
    case = branched.separate()
    certificate = verify(case.full, case.cut, case.final, **options(case))
    here = case.climb()
    assert (certificate.verdict, certificate.level, certificate.inputs) == (here.verdict, here.level, here.inputs)
    assert certificate.steps[:2] == here.steps[:2]
    assert certificate.steps[2].name == "optimised"
    assert list(temporary.iterdir()) == []


def test_files_and_photos_reach_it_from_anywhere(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the working directory is not imported in place of the real one."""
    case = branched.grouped()
    folder = temporary / "somewhere"
    folder.mkdir()
    for name in ("numpy.py", "json.py", "expertc.py"):
        (folder / name).write_text("raise SystemExit('imported from the working directory')")
    (folder / "full.onnx").write_bytes(case.full)
    monkeypatch.chdir(folder)
    images = np.random.default_rng(0).random((9, 3, 8, 8), np.float32)
    certificate = verify(
        Path("full.onnx"), case.cut, case.final, **options(case), level="full", inputs=images, images=True
    )
    assert certificate.verdict == "verified"
    assert certificate.level == "full"
    assert certificate.steps[-1].numbers == {"images": 9, "agreed": 9, "undecided": 0}


def test_a_failed_step_is_an_error_with_its_exit_code() -> None:
    case = branched.separate().changed(lambda proto: branched.attribute(proto, "b1.bn", "epsilon", 1e-3))
    with pytest.raises(VerificationError, match=r"^Verification failed \(structure\): .*'epsilon'\.$") as caught:
        process._certificate({"certificate": case.climb().to_mapping()})
    assert caught.value.exit_code == ExitCode.VERIFICATION == 5


@pytest.mark.parametrize("kind", [ModelError, CardError, DataError, UnsupportedError])
def test_what_is_wrong_with_the_users_files_keeps_its_error(kind: type[ExpertcError]) -> None:
    with pytest.raises(kind, match="wrong") as caught:
        process._certificate({"error": kind.__name__, "message": "wrong", "hint": "right it"})
    assert caught.value.hint == "right it"


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    case = branched.separate()
    with pytest.raises(ModelError, match=r"none\.onnx' cannot be read"):
        verify(tmp_path / "none.onnx", case.cut, case.final, **options(case))


# -- programs of strangers -----------------------------------------------------------------------------------------


def test_a_model_that_asks_for_gigabytes_is_stopped() -> None:
    case = branched.case(bomb(), card(2), (0, 1))
    with pytest.raises(ModelError, match="memory"):
        verify(case.full, case.cut, case.final, **options(case), limits=Limits(2**32, 600))


def test_a_model_that_never_ends_is_stopped() -> None:
    case = branched.case(endless(), card(2), (0, 1))
    with pytest.raises(ModelError, match="longer"):
        verify(case.full, case.cut, case.final, **options(case), limits=Limits(2**34, 0.5))


@pytest.mark.parametrize(
    ("status", "words"),
    [(-signal.SIGKILL, "killed by SIGKILL, most likely for want of memory"), (-signal.SIGABRT, "memory"),
     (1, r"broke off: ValueError: oh \[31mno\.")],
)  # fmt: skip
def test_every_death_has_a_sentence(status: int, words: str, tmp_path: Path) -> None:
    (tmp_path / "complaint.txt").write_text("Traceback\n  somewhere\nValueError: oh \x1b[31mno\n")
    with pytest.raises(VerificationError, match=words):
        process._outcome(tmp_path, status)


def test_what_takes_too_long_is_the_models_fault(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="takes longer"):
        process._outcome(tmp_path, -signal.SIGALRM)


# -- nothing stays -------------------------------------------------------------------------------------------------


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_files_are_private_and_go_away(temporary: Path) -> None:
    case = branched.separate()
    with verifier(case.full, **options(case)):
        (folder,) = temporary.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(temporary.iterdir()) == []


def test_an_interruption_kills_the_child(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            started.append(self.pid)
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    case = branched.case(endless(), card(2), (0, 1))
    with pytest.raises(KeyboardInterrupt):
        verify(case.full, case.cut, case.final, **options(case))
    assert not is_alive(started[0])
    assert list(temporary.iterdir()) == []


def test_an_error_of_the_caller_kills_the_child(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = branched.separate()
    with pytest.raises(OSError, match="the caller's"), verifier(case.full, **options(case)):
        raise OSError("the caller's")
    assert list(temporary.iterdir()) == []


def test_the_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """The child is one that never gets to work, because the parent dies first."""
    program = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from expertc.verify.standby import running
        with running([sys.executable, "-c", "import os; os.read(0, 1)"], Path(sys.argv[1])) as child:
            print(child.process.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, check=False, env=ENVIRONMENT
    )
    assert done.returncode == -signal.SIGKILL
    for _ in range(600):
        if not is_alive(int(done.stdout)):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child outlived its parent by a minute")


@pytest.mark.parametrize("steps", [0, 1])
def test_the_files_go_with_a_parent_that_is_killed(temporary: Path, steps: int) -> None:
    """Before the child knows what to do, and when it has read the model and waits for the expert."""
    case = branched.separate()
    program = textwrap.dedent("""
        import os, signal, sys
        from expertc.card import Card
        from expertc.verify.process import verifier
        from expertc.verify.standby import standby
        full, card = sys.stdin.buffer.read().split(b"\\n\\n\\n", 1)
        with standby() as child:
            if int(sys.argv[1]):
                with verifier(full, card_full=Card.from_json(card.decode()), indices=[0], standing=child):
                    os.kill(os.getpid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert isinstance(case.full, bytes)
    done = subprocess.run(
        [sys.executable, "-c", program, str(steps)], check=False, env={**ENVIRONMENT, "TMPDIR": str(temporary)},
        input=case.full + b"\n\n\n" + options(case)["card_full"].to_json().encode(),
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    for _ in range(600):
        if not list(temporary.iterdir()):
            break
        time.sleep(0.1)
    assert list(temporary.iterdir()) == []


def test_a_full_disk_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    case = branched.separate()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileSystemError, match="No space left"):
        verify(case.full, case.cut, case.final, **options(case))
    assert list(temporary.iterdir()) == []


def test_the_child_imports_only_what_it_needs() -> None:
    program = "import sys, expertc.verify.child; print(*sys.modules)"
    listed = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, text=True, env=ENVIRONMENT
    ).stdout.split()
    assert "onnxruntime" in listed
    assert not {"torch", "timm", "click", "rich", "matplotlib", "onnx.reference", "onnxscript"} & set(listed)
