"""The bootstrap, as a process on a device of its own: facts, installing without a network, and all that ends it."""

from __future__ import annotations

import ast
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest
from on_pipes import BOOTSTRAP, Talk, listed
from on_pipes import deliver as deliver_bundle
from small_wheels import expertc_like, wheel

from expertc.deploy.wheel import make

COMMAND = (sys.executable, str(BOOTSTRAP))
ENV = "0123456789abcdef"


def asked(house: Path) -> dict[str, Any]:
    return {"env": ENV, "wheels": listed(house)}


def deliver(device: Talk, house: Path) -> None:
    """Upload what is missing."""
    for name, offset in device.ask("facts", **asked(house))["missing"].items():
        with (device.share / "wheels" / ENV / f"{name}.part").open("ab") as part:
            part.write((house / name).read_bytes()[offset:])


def house(folder: Path, *needs: str) -> Path:
    folder.mkdir()
    expertc_like(folder, needs)
    return folder


def wrapped(folder: Path, patch: str) -> list[str]:
    """The bootstrap in a Python of which something was changed first."""
    program = f"import sys, runpy, importlib.util\n{patch}\nrunpy.run_path({str(BOOTSTRAP)!r}, run_name='__main__')\n"
    (folder / "wrapped.py").write_text(program)
    return [sys.executable, str(folder / "wrapped.py")]


# -- one file that any Python reads ------------------------------------------------------------------------------------


def test_an_old_python_can_read_it() -> None:
    tree = ast.parse(BOOTSTRAP.read_text(encoding="utf-8"), feature_version=(3, 6))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    froms = [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names + froms} <= sys.stdlib_module_names
    assert "__future__" not in froms  # annotations is not a feature of 3.6
    evaluated = [node.annotation for node in ast.walk(tree) if isinstance(node, ast.AnnAssign | ast.arg)]
    evaluated += [node.returns for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for annotation in filter(None, evaluated):  # what has brackets or bars would fail there
        assert isinstance(annotation, ast.Constant | ast.Name | ast.Attribute), ast.dump(annotation)


def test_too_old_is_a_sentence(tmp_path: Path) -> None:
    patch = "import platform\nsys.version_info = (3, 8, 10, 'final', 0)\nplatform.python_version = lambda: '3.8.10'"
    with Talk(tmp_path, wrapped(tmp_path, patch)) as device:
        assert device.hello == {"expertc": None, "protocol": 1}
        failed = device.try_to("facts", **asked(house(tmp_path / "house")))["failed"]
        assert failed["message"] == "Python 3.8.10 on the device is too old: expertc needs 3.10 or newer."
        assert (failed["kind"], failed["exit_code"]) == ("UnsupportedError", 4)


def old_pythons() -> list[str]:
    """Interpreters from 3.6 to 3.9 that are on this machine."""
    named = [shutil.which(f"python3.{minor}", path="/usr/bin:/usr/local/bin") for minor in range(6, 10)]
    return [*filter(None, named), *map(str, sorted(Path.home().glob(".pyenv/versions/3.[6-9].*/bin/python3")))]


def test_real_old_pythons_say_so(tmp_path: Path) -> None:
    found = old_pythons()
    if not found:
        pytest.skip("no Python from 3.6 to 3.9 is on this machine")
    request = asked(house(tmp_path / "house"))
    for python in found:
        with Talk(tmp_path, [python, "-W", "error", str(BOOTSTRAP)], PYTHONPATH="") as device:
            assert device.try_to("facts", **request)["failed"]["message"].endswith("expertc needs 3.10 or newer.")


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_without_venv_it_says_what_to_install(tmp_path: Path, module: str) -> None:
    patch = "find = importlib.util.find_spec\n"
    patch += f"importlib.util.find_spec = lambda name, *more: None if name == {module!r} else find(name, *more)"
    with Talk(tmp_path, wrapped(tmp_path, patch)) as device:
        failed = device.try_to("facts", **asked(house(tmp_path / "house")))["failed"]
        assert f"has no {module}" in failed["message"]
        minor = "{}.{}".format(*sys.version_info[:2])
        assert failed["hint"] == f"Install it there: sudo apt install python{minor}-venv"
        assert failed["exit_code"] == 4


def test_facts_and_what_is_missing(tmp_path: Path) -> None:
    wheels = house(tmp_path / "house", "dep")
    wheel(wheels, "dep")
    dep, own = sorted(listed(wheels))
    with Talk(tmp_path, COMMAND) as device:
        found = device.ask("facts", **asked(wheels))
        assert (found["python"], found["machine"]) == (platform.python_version(), platform.machine())
        assert (found["system"], found["jetson"], found["ready"]) == (
            "Linux",
            os.path.exists("/etc/nv_tegra_release"),
            False,
        )
        assert abs(found["disk_free"] - shutil.disk_usage(tmp_path).free) < 2**30
        assert found["missing"] == {dep: 0, own: 0}

        folder = device.share / "wheels" / ENV
        (folder / f"{dep}.part").write_bytes((wheels / dep).read_bytes()[:100])
        shutil.copy(wheels / own, folder / f"{own}.part")
        assert device.ask("facts", **asked(wheels))["missing"] == {dep: 100}
        assert [path.name for path in sorted(folder.iterdir())] == [f"{dep}.part", own]
        (folder / f"{dep}.part").write_bytes(b"x" * (wheels / dep).stat().st_size)
        (folder / own).write_bytes(b"rot")
        assert device.ask("facts", **asked(wheels))["missing"] == {dep: 0, own: 0}
        assert list(folder.iterdir()) == []
        (folder / own).symlink_to(wheels / own)
        (folder / f"{dep}.part").symlink_to(wheels / dep)
        assert device.ask("facts", **asked(wheels))["missing"] == {dep: 0, own: 0}
        assert (wheels / dep).is_file()


# -- installing --------------------------------------------------------------------------------------------------------


def test_an_installation_without_a_network(tmp_path: Path) -> None:
    """Damaged, then incomplete, then killed in the middle, then two at once: each ends well or says why it does not."""
    wheels = house(tmp_path / "house", "dep")
    with Talk(tmp_path, COMMAND) as device:
        deliver(device, wheels)
        (own,) = listed(wheels)
        part = device.share / "wheels" / ENV / f"{own}.part"
        part.write_bytes(b"x" * part.stat().st_size)
        failed = device.try_to("install", **asked(wheels), offline=True)["failed"]
        assert (failed["kind"], failed["message"]) == ("DeploymentError", f"{own} did not arrive whole.")

        deliver(device, wheels)
        failed = device.try_to("install", **asked(wheels), offline=True)["failed"]
        assert (failed["kind"], failed["exit_code"]) == ("DeploymentError", 8)
        assert "pip could not install expertc: ERROR: " in failed["message"]
        assert "dep" in failed["message"]
        assert "--wheelhouse" in failed["hint"]
        assert device.ask("facts", **asked(wheels))["ready"] is False

        wheel(wheels, "dep")
        deliver(device, wheels)
        device.send(json.dumps({"do": "install", **asked(wheels), "offline": True}).encode() + b"\n")
        while device.line() != {"said": "make the environment", "share": None}:
            pass
        device.process.kill()
    with Talk(tmp_path, COMMAND) as one, Talk(tmp_path, COMMAND) as two:
        for device in (one, two):
            device.send(json.dumps({"do": "install", **asked(wheels), "offline": True}).encode() + b"\n")
        answers = [device.reply()["done"] for device in (one, two)]
        python = tmp_path / ".local/share/expertc/envs" / ENV / "bin/python"
        assert [each["python"] for each in answers] == [str(python)] * 2
        assert sum("install expertc" in device.said for device in (one, two)) == 1
        assert any("wait: another deployment installs here" in device.said for device in (one, two))
        assert one.ask("facts", **asked(wheels)) | {"disk_free": 0} == {
            "python": platform.python_version(), "machine": platform.machine(), "system": "Linux", "disk_free": 0,
            "jetson": False, "ready": True, "missing": {},
        }  # fmt: skip
        assert not (one.share / "wheels" / ENV / own).exists()
    done = subprocess.run([python, "-I", "-m", "expertc.deploy.agent"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"expertc": "tiny", "protocol": 1}


def test_when_nobody_listens_nothing_goes_on(tmp_path: Path) -> None:
    wheels = house(tmp_path / "house")
    with Talk(tmp_path, COMMAND) as device:
        deliver(device, wheels)
        device.send(json.dumps({"do": "install", **asked(wheels), "offline": True}).encode() + b"\n")
        while device.line() != {"said": "make the environment", "share": None}:
            pass
        env = device.share / "envs" / ENV
        while not (env / "pyvenv.cfg").exists():
            time.sleep(0.01)
        device.end()
        assert device.process.wait(60) == 1
    working = subprocess.run(["pgrep", "-f", str(env)], capture_output=True, text=True).stdout.split()
    for process in working:  # killed, but perhaps not gone yet
        for _ in range(200):
            if not Path(f"/proc/{process}").exists():
                break
            time.sleep(0.02)
        assert not Path(f"/proc/{process}").exists()
    assert not (env / "ready").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A home on a disk of 72 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=72m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no right to mount: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    wheels = house(tmp_path / "house", "large")
    wheel(wheels, "large", files={"large.bin": bytes(70 * 2**20)})  # a few kB of wheel
    with Talk(small_disk, COMMAND) as device:
        deliver(device, wheels)
        failed = device.try_to("install", **asked(wheels), offline=True)["failed"]
        assert "install expertc" in device.said
        assert (failed["kind"], failed["exit_code"]) == ("FileSystemError", 9)
        assert "disk is full" in failed["message"]
        assert not (device.share / "envs" / ENV).exists()
        (small_disk / "more").write_bytes(bytes(48 * 2**20))
        failed = device.try_to("install", **asked(wheels), offline=True)["failed"]
        assert failed["kind"] == "FileSystemError"
        assert "make the environment" not in device.said  # said before anything is tried
        assert " MB, " in failed["message"]


def test_the_real_wheel_is_installed_and_accepts_a_release(bundle: Path, tmp_path: Path) -> None:
    """This expertc's own, beside stand-ins that lead to the libraries of the environment the tests run in."""
    wheels = tmp_path / "house"
    wheels.mkdir()
    make(wheels)
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    for name in ("numpy", "onnx", "onnxruntime", "click", "rich", "pillow", "pyyaml", "tomli"):
        wheel(wheels, name, files={"here.pth": "\n".join(sorted(here)).encode()} if name == "numpy" else {})
    with Talk(tmp_path, COMMAND, PYTHONPATH="") as device:
        deliver(device, wheels)
        found = device.ask("install", **asked(wheels), offline=True)
        assert found["python"] == str(device.share / "envs" / ENV / "bin" / "python")
        assert "start it once" in device.said
    program = str(Path(found["python"]).relative_to(tmp_path))  # as the host names it: from the home
    with Talk(tmp_path, [program, "-I", "-m", "expertc.deploy.agent"], PYTHONPATH="") as agent:
        facts = agent.ask("facts")
        assert agent.hello["expertc"] == facts["expertc"]
        assert facts["executable"] == found["python"]
        release = deliver_bundle(agent, bundle)
        found = agent.ask("accept", name="cam", id=release, seconds=0.05)
        assert (found["accepted"], found["why"]) == (True, None)
        assert agent.ask("list")["releases"][0]["env"] == ENV


def test_a_jetson_sees_the_libraries_of_its_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expertc.deploy import bootstrap

    commands: list[list[str]] = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(bootstrap, "is_jetson", lambda: True)
    monkeypatch.setattr(bootstrap, "run", lambda command, *_: commands.append(command) or len(commands) // 3)
    (tmp_path / ".local/share/expertc/envs" / ENV).mkdir(parents=True)
    place = bootstrap.Place(ENV, listed(house(tmp_path / "house")))
    shutil.copy(next((tmp_path / "house").iterdir()), place.folder)
    with pytest.raises(bootstrap.Failure, match="does not start"):
        bootstrap.install(place, True, ["serve"], lambda *_: None)
    venv, pip, _ = commands
    assert venv[1:] == ["-I", "-m", "venv", "--system-site-packages", place.env]
    assert pip[-1] == "./expertc-0.0.1-py3-none-any.whl[serve]"
    assert "--no-index" in pip


SHA = "0" * 64
ODD: list[tuple[str, dict[str, Any]]] = [
    ("no such verb", {"do": "rm"}), ("no such verb", {"do": ["facts"]}), ("no such fields", {"x": 1}),
    ("no plain name", {"env": "../x"}), ("no plain name", {"env": "a b"}), ("no plain name", {"env": ""}),
    ("no plain name", {"env": 7}), ("1 to 500", {"wheels": {}}), ("1 to 500", {"wheels": ["x"]}),
    ("no plain name", {"wheels": {"../x.whl": [1, SHA]}}), ("no plain name", {"wheels": {"x.py": [1, SHA]}}),
    ("no plain name", {"wheels": {"a\n.whl": [1, SHA]}}), ("no size", {"wheels": {"x.whl": [True, SHA]}}),
    ("no size", {"wheels": {"x.whl": [-1, SHA]}}), ("no size", {"wheels": {"x.whl": 1}}),
    ("no SHA-256", {"wheels": {"x.whl": [1, "0"]}}), ("expertc's", {"do": "install", "wheels": {"x.whl": [1, SHA]}}),
    ("true or false", {"do": "install", "offline": 1}), ("no names", {"do": "install", "extras": ["$(id)"]}),
    ("no names", {"do": "install", "extras": "serve"}), ("no names", {"do": "install", "extras": ["a"] * 9}),
    ("no names", {"do": "install", "extras": [7]}),
]  # fmt: skip


def test_hostile_requests(tmp_path: Path) -> None:
    good = {"do": "facts", "env": ENV, "wheels": {"expertc-1.whl": [1, "0" * 64]}}
    with Talk(tmp_path, COMMAND) as device:
        for what, odd in ODD:
            device.send(json.dumps({**good, **odd}).encode() + b"\n")
            failed = device.reply()["failed"]
            assert (failed["kind"], failed["exit_code"]) == ("UsageError", 2)
            assert what in failed["message"]
        for line in (b"", b"hello", b"[]", b"{" * 10**5, b"\xff", b'{"do": NaN}'):
            device.send(line + b"\n")
            assert device.reply()["failed"]["kind"] == "UsageError"
        assert list(tmp_path.iterdir()) == []
        device.send(b"x" * (2**20 + 2))
        assert "longer than 1 MiB" in device.reply()["failed"]["message"]
        assert device.process.wait(60) == 2
