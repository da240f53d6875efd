"""A build that is killed, whenever it is: what it was to write is absent, as it was, or complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

import expertc

# Everything is imported once; each build is a fork of this process, killed after a random time that it reports to have
# spent in a random stage. Prints what was found after each kill, and after the build that followed.
DRIVER = """
import json, os, random, select, shutil, signal, sys, time
from pathlib import Path
import numpy, onnx, onnxruntime  # so that a fork need not
from expertc import build, bundle
from expertc.errors import ExpertcError

model, folder, scenario, level, kills = sys.argv[1], Path(sys.argv[2]), *sys.argv[3:5], int(sys.argv[6])
draw = random.Random(int(sys.argv[5]))
target = folder / "out.expert"
STAGES = ("read", "cut", "finish", "write", *(() if level == "off" else ("verify", "verify", "verify")))

def fork(classes, progress):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        build(model, classes=classes, output=target, verification=level, force=scenario == "replace",
              measure_seconds=0, progress=progress)
        code = 0
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
    finally:
        os._exit(code)

def whole(classes):
    # Durations of the stages, by name, of a build that nobody stops.
    reading, writing = os.pipe()
    pid = fork(classes, lambda stage: os.write(writing, f"{stage} {time.monotonic()}\\n".encode()))
    status, end = os.waitpid(pid, 0)[1], time.monotonic()
    os.close(writing)
    with open(reading) as lines:
        told = [line.split() for line in lines]
    ends = [float(at) for _, at in told[1:]] + [end]
    return status, {name: after - float(at) for (name, at), after in zip(told, ends)}

def killed(stage, seconds):
    reading, writing = os.pipe()
    pid = fork("cold", lambda name: name == stage and os.write(writing, b"!"))
    os.close(writing)
    os.read(reading, 1)  # nothing comes if the stage was never reached
    os.close(reading)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]

def state():
    try:
        found = bundle.open_bundle(target)
    except ExpertcError as error:
        return "absent" if not os.path.lexists(target) else f"broken: {error}"
    return ",".join(found.labels)

def hidden():
    return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("."))

def children():
    # Processes that still work for a build that is gone: those that read from our model or the folder.
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"expertc.verify.child" in words and os.environ["TMPDIR"].encode() in words:
                found.append(entry.name)
    return found

results = []
# A build that ends before its moment comes was not killed; another moment is drawn.
while sum(result["killed"] for result in results) < kills and len(results) < 4 * kills:
    if scenario == "create" and target.exists():
        shutil.rmtree(target)
    if not results:
        status, seconds = whole("warm")
        before = state()
        if scenario == "create":
            shutil.rmtree(target)
            before = state()
    stage = draw.choice(STAGES)
    status = killed(stage, draw.random() * 1.2 * seconds[stage])
    found, left = state(), hidden()
    if scenario == "create" and target.exists():
        shutil.rmtree(target)
    after, _ = whole("warm")
    results.append({"stage": stage, "killed": os.WIFSIGNALED(status), "before": before, "found": found, "left": left,
                    "status": after, "after": state(), "clean": hidden()})
deadline = time.monotonic() + 10
while children() and time.monotonic() < deadline:
    time.sleep(0.05)
print(json.dumps([results, children()]))
"""


class Outcome(NamedTuple):
    """What one kill left, and the build after it."""

    stage: str
    killed: bool
    before: str
    found: str
    left: Sequence[str]
    status: int
    after: str
    clean: Sequence[str]


WARM, COLD = "reds,yellows", "greens,blues"


def kills(full: Path, folder: Path, scenario: str, level: str, count: int, seed: int) -> list[Outcome]:
    temporary, work = folder / "temporary", folder / "work"
    temporary.mkdir()
    work.mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(expertc.__file__).parent.parent), "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", DRIVER, full, work, scenario, level, seed, count]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr, done.stderr
    results, children = json.loads(done.stdout)
    assert children == []
    assert {entry.name for entry in work.iterdir()} <= {"out.expert"}
    assert {entry.name for entry in folder.iterdir()} == {"temporary", "work"}
    return [Outcome(**result) for result in results]


@pytest.mark.parametrize(
    ("scenario", "level", "count"),
    [("create", "off", 24), ("replace", "off", 24), ("create", "fast", 2), ("replace", "fast", 2)],
)
def test_a_killed_build_leaves_nothing_or_the_old_or_the_new(
    full: Path, tmp_path: Path, scenario: str, level: str, count: int
) -> None:
    found = kills(full, tmp_path, scenario, level, count, seed=1)
    assert sum(outcome.killed for outcome in found) == count
    for outcome in found:
        assert outcome.before == ("absent" if scenario == "create" else WARM)
        assert outcome.found in (outcome.before, COLD)
        assert (outcome.status, outcome.after, outcome.clean) == (0, WARM, [])
    if count > 20:
        kinds = Counter(outcome.found for outcome in found)
        assert kinds[found[0].before], kinds
