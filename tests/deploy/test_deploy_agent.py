"""The agent, as a process over pipes: the whole road of a release, and what happens where it breaks off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from on_pipes import AGENT, Talk, about, deliver, identity, listed, upload, variant

import expertc
from expertc.bundle import open_bundle

QUICK = {"seconds": 0.05}


@pytest.fixture(scope="module")
def bundles(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three releases of one expert; only to be read."""
    folder = tmp_path_factory.mktemp("bundles")
    return [variant(bundle, folder / note, note) for note in "abc"]


def test_the_whole_road(bundles: list[Path], tmp_path: Path) -> None:
    with Talk(tmp_path) as agent:
        assert agent.hello == {"expertc": expertc.__version__, "protocol": 1}
        facts = agent.ask("facts")
        assert (facts["packages"]["numpy"], facts["cores"]) == (np.__version__, os.cpu_count())
        assert agent.ask("list") == {"releases": []}

        first = bundles[0]
        needed = agent.ask("receive", **about(first))
        assert needed == {
            "present": False, "send": dict.fromkeys(listed(first), 0),
            "bytes": sum(size for size, _ in listed(first).values()),
        }  # fmt: skip
        upload(agent, first, needed["send"])
        release = agent.ask("commit", **about(first))["release"]
        assert (release["id"], release["accepted"], release["active"]) == (identity(first), False, False)
        assert listed(Path(release["path"])) == listed(first)
        assert not list((agent.share / "incoming").iterdir())
        assert agent.ask("receive", **about(first))["present"] is True

        assert "was not accepted" in agent.try_to("activate", name="cam", id=release["id"])["failed"]["message"]
        found = agent.ask("accept", name="cam", id=release["id"], max_p90_ms=5000, seconds=0.2)
        assert agent.said == ["verify", "bench"]
        assert (found["accepted"], found["why"], found["compiled"]) == (True, None, None)
        assert found["verified"]["passed"] is True
        assert 0 < found["bench"]["p50_ms"] <= found["bench"]["p90_ms"] < 5000
        assert found["bench"]["count"] >= 64
        assert found["device"]["expertc"] == expertc.__version__
        assert agent.ask("receive", **about(first)) == {"present": True, "send": {}, "bytes": 0}

        assert agent.ask("activate", name="cam", id=release["id"])["release"]["active"] is True
        for each in bundles[1:]:
            deliver(agent, each)
            agent.ask("accept", name="cam", id=identity(each), **QUICK)
            agent.ask("activate", name="cam", id=identity(each))
        ids = [identity(each) for each in bundles]
        assert [each["id"] for each in agent.ask("list", name="cam")["releases"]] == ids[::-1]
        assert agent.ask("rollback", name="cam")["release"]["id"] == ids[1]
        assert agent.ask("gc", name="cam", keep=1) | {"releases": None} == {"releases": None, "incoming": 0, "envs": []}
        assert [each["id"] for each in agent.ask("list")["releases"]] == [ids[1], ids[0]]
        assert [each["id"] for each in agent.ask("remove", name="cam", id=ids[0])["releases"]] == [ids[0]]
        assert [each["id"] for each in agent.ask("remove", name="cam")["releases"]] == [ids[1]]
        assert agent.ask("list") == {"releases": []}
    assert agent.process.returncode == 0


def test_what_is_here_is_not_sent_and_what_is_damaged_is_sent_again(bundles: list[Path], tmp_path: Path) -> None:
    with Talk(tmp_path) as agent:
        deliver(agent, bundles[0])
        second = bundles[1]
        needed = agent.ask("receive", **about(second, "other"))  # for another expert, even
        unlisted = {"manifest.json", "report.json", "golden.npz"}
        assert set(needed["send"]) == unlisted
        assert needed["bytes"] == sum(listed(second)[name][0] for name in unlisted)
        folder = agent.share / "incoming" / identity(second)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (folder / "expert.onnx").stat().st_nlink == 1

        for name in unlisted:
            (folder / f"{name}.part").write_bytes((second / name).read_bytes())
        manifest = (second / "manifest.json").read_bytes()
        (folder / "manifest.json.part").write_bytes(manifest[:-2] + b"x}")
        (folder / "golden.npz.part").unlink()
        assert agent.ask("commit", **about(second, "other")) == {"damaged": ["golden.npz", "manifest.json"]}
        needed = agent.ask("receive", **about(second, "other"))
        assert needed["send"] == {"golden.npz": 0, "manifest.json": 0}
        upload(agent, second, needed["send"])
        assert agent.ask("commit", **about(second, "other"))["release"]["name"] == "other"
        assert agent.ask("commit", **about(second, "other"))["release"]["name"] == "other"  # asked twice


def test_an_upload_that_broke_off_goes_on_where_it_was(bundles: list[Path], tmp_path: Path) -> None:
    bundle, sizes = bundles[0], listed(bundles[0])
    with Talk(tmp_path) as agent:
        agent.ask("receive", **about(bundle))
        folder = agent.share / "incoming" / identity(bundle)
        for name, size in (("expert.onnx", 100), ("labels.txt", sizes["labels.txt"][0]), ("report.json", 10**5)):
            (folder / f"{name}.part").write_bytes((bundle / name).read_bytes()[:size].ljust(min(size, 10**5), b"x"))
        (folder / "stray").write_text("?")
        (folder / "expert.onnx").symlink_to("/etc/passwd")
        agent.process.kill()
    with Talk(tmp_path) as agent:
        needed = agent.ask("receive", **about(bundle))
        assert needed["send"]["expert.onnx"] == 100
        assert "labels.txt" not in needed["send"]  # all of it had come
        assert needed["send"]["report.json"] == 0  # longer than it can be
        assert needed["bytes"] == sum(sizes[name][0] - offset for name, offset in needed["send"].items())
        assert not (folder / "stray").exists()
        upload(agent, bundle, needed["send"])
        assert agent.ask("commit", **about(bundle))["release"]["id"] == identity(bundle)


def test_what_is_damaged_here_is_sent_all_the_same(bundles: list[Path], tmp_path: Path) -> None:
    with Talk(tmp_path) as agent:
        deliver(agent, bundles[0])
        rotten = agent.share / "experts/cam/releases" / identity(bundles[0]) / "expert.onnx"
        rotten.chmod(0o600)
        rotten.write_bytes(b"x" * rotten.stat().st_size)
        folder = agent.share / "incoming" / identity(bundles[1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "expert.onnx.part").write_bytes((bundles[1] / "expert.onnx").read_bytes()[:100])
        needed = agent.ask("receive", **about(bundles[1]))
        assert needed["send"]["expert.onnx"] == 0
        upload(agent, bundles[1], needed["send"])
        agent.ask("commit", **about(bundles[1]))
        assert agent.ask("receive", **about(bundles[0]))["present"] is False
        deliver(agent, bundles[0])
        assert open_bundle(rotten.parent).manifest["note"] == "a"


def test_what_is_no_bundle_is_refused_and_forgotten(bundles: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundles[0], broken)
    (broken / "labels.txt").write_text("not what the manifest says\n")
    with Talk(tmp_path) as agent:
        upload(agent, broken, agent.ask("receive", **about(broken))["send"])
        failed = agent.try_to("commit", **about(broken))["failed"]
        assert (failed["kind"], failed["exit_code"]) == ("BundleError", 3)
        assert not list((agent.share / "incoming").iterdir())
        assert agent.ask("list") == {"releases": []}


# -- acceptance --------------------------------------------------------------------------------------------------------


def test_a_release_that_is_too_slow_is_not_accepted(bundles: list[Path], tmp_path: Path) -> None:
    with Talk(tmp_path) as agent:
        release = deliver(agent, bundles[0])
        found = agent.ask("accept", name="cam", id=release, max_p90_ms=1e-4, **QUICK)
        assert found["accepted"] is False
        assert found["why"] == f"Its p90 is {found['bench']['p90_ms']:.3g} ms, and 0.0001 ms are allowed."
        (kept,) = agent.ask("list", name="cam")["releases"]
        assert (kept["accepted"], kept["why"]) == (False, found["why"])
        assert "not accepted" in agent.try_to("activate", name="cam", id=release)["failed"]["message"]
        assert agent.ask("accept", name="cam", id=release, **QUICK)["accepted"] is True


def test_a_release_whose_golden_record_disagrees_is_not_accepted(bundles: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(bundles[0], other)
    with np.load(other / "golden.npz") as record:
        arrays = dict(record)
    arrays["output_0"] = arrays["output_0"] + 1
    np.savez_compressed(other / "golden.npz", **arrays)
    with Talk(tmp_path) as agent:
        release = deliver(agent, other)
        found = agent.ask("accept", name="cam", id=release, **QUICK)
        assert (found["accepted"], found["verified"]["passed"], found["bench"]) == (False, False, None)
        assert found["why"].startswith("It does not do here what it did where it was built.")
        assert agent.ask("accept", name="cam", id=release, verify=False, **QUICK)["accepted"] is True

        agent.ask("accept", name="cam", id=release, **QUICK)
        needed = agent.ask("receive", **about(bundles[0]))  # the same release, with a sound record
        assert needed["present"] is False
        upload(agent, bundles[0], needed["send"])
        agent.ask("commit", **about(bundles[0]))
        assert agent.ask("accept", name="cam", id=release, **QUICK)["accepted"] is True


def test_a_release_without_a_golden_record_is_not_accepted(bundles: list[Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(bundles[0], bare)
    (bare / "golden.npz").unlink()
    with Talk(tmp_path) as agent:
        release = deliver(agent, bare)
        found = agent.ask("accept", name="cam", id=release, **QUICK)
        assert found["accepted"] is False
        assert "golden record" in found["why"]


CRASH = """
import os, signal, sys
if any("trial" in word for word in sys.orig_argv):
    os.write(2, b"TensorRT: \\x1b[31mout of luck\\n")
    os.kill(os.getpid(), signal.SIGSEGV)
"""


def test_a_crash_while_it_is_tried_is_an_answer(bundles: list[Path], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CRASH)
    paths = os.pathsep.join([str(tmp_path), str(Path(expertc.__file__).parents[1])])
    with Talk(tmp_path, PYTHONPATH=paths) as agent:
        release = deliver(agent, bundles[0])
        found = agent.ask("accept", name="cam", id=release, **QUICK)
        assert found["accepted"] is False
        assert found["why"].startswith("What tried it was killed by SIGSEGV (TensorRT: [31mout of luck).")
        assert agent.ask("list")["releases"][0]["accepted"] is False


def test_an_expert_for_a_gpu_that_is_not_here_runs_on_the_processor(full: Path, tmp_path: Path) -> None:
    made = expertc.build(
        full, classes="warm", target="orin-nano-8gb", output=tmp_path / "nano.expert", measure_seconds=0.05
    )
    with Talk(tmp_path) as agent:
        release = deliver(agent, made.path)
        found = agent.ask("accept", name="cam", id=release, **QUICK)
        if found["compiled"] is not None:
            pytest.skip("this machine has TensorRT and such a GPU")
        assert (found["accepted"], found["verified"]["passed"]) == (True, True)
        assert "This runs on the processor with ONNX Runtime" in found["notes"][0]


# -- breaks ------------------------------------------------------------------------------------------------------------


def children(process: int) -> list[int]:
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True)
    return [int(each) for each in done.stdout.split()]


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("how", ["eof", "kill"])
def test_nobody_tries_on_when_nobody_listens(bundles: list[Path], tmp_path: Path, how: str) -> None:
    with Talk(tmp_path) as agent:
        release = deliver(agent, bundles[0])
        agent.send(json.dumps({"do": "accept", "name": "cam", "id": release, "seconds": 300}).encode() + b"\n")
        while agent.line().get("said") != "bench":
            pass
        (child,) = children(agent.process.pid)
        if how == "eof":
            agent.end()
        else:
            agent.process.kill()
        assert agent.process.wait(60) == (1 if how == "eof" else -signal.SIGKILL)
        for _ in range(600):
            if gone(child):
                break
            time.sleep(0.05)
        assert gone(child)
    with Talk(tmp_path) as agent:
        assert agent.ask("list")["releases"][0]["accepted"] is False
        assert agent.ask("accept", name="cam", id=release, **QUICK)["accepted"] is True


def test_killed_while_it_commits_then_once_more(bundles: list[Path], tmp_path: Path) -> None:
    """Wherever SIGKILL hits, the active release is whole, and the next try ends well."""
    first, second = bundles[:2]
    with Talk(tmp_path) as agent:
        deliver(agent, first)
        agent.ask("accept", name="cam", id=identity(first), **QUICK)
        agent.ask("activate", name="cam", id=identity(first))
        current = agent.share / "experts/cam/current"
    killer = tmp_path / "killer.py"
    killer.write_text(
        "import os, runpy, signal, sys\n"
        "left = [int(sys.argv[1])]\n"
        "def hook(event, arguments):\n"
        "    if event in ('os.rename', 'os.remove', 'os.mkdir', 'os.chmod', 'os.symlink', 'open', 'os.rmdir'):\n"
        "        if event != 'open' or '.local' in str(arguments[0]):\n"
        "            left[0] -= 1\n"
        "            if not left[0]:\n"
        "                os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(hook)\n"
        "runpy.run_module('expertc.deploy.agent', run_name='__main__')\n"
    )
    for step in (3, 17, 29, 41):
        with Talk(tmp_path, [sys.executable, str(killer), str(step)]) as agent:
            agent.send(json.dumps({"do": "receive", **about(second)}).encode() + b"\n")
            line = agent.process.stdout.readline()  # type: ignore[union-attr]
            if line:
                upload(agent, second, json.loads(line)["done"]["send"])
                agent.send(json.dumps({"do": "commit", **about(second)}).encode() + b"\n")
                agent.process.stdout.readline()  # type: ignore[union-attr]
            assert agent.process.wait(60) == -signal.SIGKILL
        assert open_bundle(current).manifest["note"] == "a"
    with Talk(tmp_path) as agent:
        deliver(agent, second)
        assert agent.ask("accept", name="cam", id=identity(second), **QUICK)["accepted"] is True
        agent.ask("activate", name="cam", id=identity(second))
    assert open_bundle(current).manifest["note"] == "b"


def test_a_full_disk_is_said_before_anything_is_sent(bundles: list[Path], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no right to mount: {mounted.stderr.strip()}")
    try:
        with Talk(disk) as agent:
            failed = agent.try_to("receive", **about(bundles[0]))["failed"]
            assert (failed["kind"], failed["exit_code"]) == ("FileSystemError", 9)
            assert " MB, " in failed["message"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_libraries_print_is_no_message(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('Welcome', flush=True)\n")
    noisy = "import os, sys; sys.argv = ['x']\nfrom expertc.deploy import agent, bootstrap\n"
    noisy += "def answer(line, say): os.write(1, b'noise'); print('more', flush=True); return agent.answer(line, say)\n"
    noisy += "sys.exit(bootstrap.listen('x', answer))"
    with Talk(tmp_path, [sys.executable, "-c", noisy]) as agent:
        assert agent.ask("list") == {"releases": []}


def test_it_starts_without_anything_heavy() -> None:
    code = "import sys, expertc.deploy.agent; print(sorted(sys.modules))"
    done = subprocess.run([*AGENT[:1], "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "onnx", "onnxruntime", "PIL", "click", "asyncssh"} & set(eval(done.stdout))
