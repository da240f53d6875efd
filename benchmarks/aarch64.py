"""The base install, a golden record and ``predict`` on aarch64, emulated: what a Jetson's processor would be given.

    python -m benchmarks.aarch64 ROOT [--mirror URL]

Needs root on Linux, debootstrap and qemu-user-static (with its handler for foreign programs, ``binfmt_misc``). ROOT
becomes a Debian 12 for arm64, unless it is one already; pip's wheels for it come from the index that pip uses here. In
it expertc is installed as ``expertc deploy --wheelhouse`` installs it, by its bootstrap, and without a network; then an
expert that was built here is verified there by its golden record, and the probabilities that it gives for a photo are
compared with those that it gives here. Nothing is timed: an emulator says nothing about that.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from expertc.compiler import build
from expertc.deploy import bootstrap
from expertc.deploy.wheel import collect, in_house, make
from expertc.runtime import Expert

RESULTS = Path(__file__).parent / "results"
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")
NEEDED = ("numpy>=1.26", "onnx>=1.21", "onnxruntime>=1.20", "click>=8.1", "rich>=13.7", "pillow>=11.3", "pyyaml>=6.0")
PYTHON = "3.11"  # of Debian 12


def main() -> None:
    """Make the root, install, compare, and write results/aarch64.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--mirror", default="http://deb.debian.org/debian")
    given = parser.parse_args()
    root: Path = given.root.absolute()
    if not (root / "usr/bin/python3").exists():
        run("debootstrap", "--arch=arm64", "--variant=minbase", "--include=python3,python3-venv", "bookworm", root,
            given.mirror)  # fmt: skip
    machine = inside(root, "/usr/bin/python3", "-c", "import platform; print(platform.machine())").strip()
    if machine != "aarch64":
        raise SystemExit(f"{root} is a root for {machine}.")
    home = root / "root"
    with tempfile.TemporaryDirectory() as scratch:
        house = Path(scratch) / "house"
        run(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--python-version", PYTHON,
            *(f"--platform={each}" for each in PLATFORMS), "--dest", house, *NEEDED)  # fmt: skip
        wheels = collect(make(Path(scratch)), in_house(house))
        sent = home / ".local/share/expertc/wheels" / wheels.environment
        sent.mkdir(parents=True, exist_ok=True)
        for name, path in wheels.files.items():
            shutil.copy(path, sent / name)
        shutil.copy(bootstrap.__file__, home / "bootstrap.py")
        bundle = build(classes="sharks,rays", output=Path(scratch) / "fish.expert", measure_seconds=0).path
        shutil.rmtree(home / "fish.expert", ignore_errors=True)
        shutil.copytree(bundle, home / "fish.expert")
        photo = Path(scratch) / "photo.jpg"
        _photo(photo)
        shutil.copy(photo, home / "photo.jpg")
        with Expert.open(bundle) as expert:
            (here,) = expert.predict([photo])
    asked = {"env": wheels.environment, "wheels": {name: list(facts) for name, facts in wheels.facts.items()}}
    facts = bootstrapped(root, {"do": "facts", **asked})
    done = bootstrapped(root, {"do": "install", **asked, "offline": True, "extras": []})
    expertc = str(Path(str(done["python"])).with_name("expertc"))
    verified = json.loads(inside(root, expertc, "verify", "/root/fish.expert", "--json"))
    there = json.loads(inside(root, expertc, "predict", "/root/fish.expert", "/root/photo.jpg", "--json"))
    found = there[0] if isinstance(there, list) else there["images"][0] if "images" in there else there
    probabilities = {each["label"]: each["probability"] for each in found["predictions"]}
    difference = max(
        abs(probability - probabilities[label]) for label, probability in here.labels[: len(probabilities)]
    )
    versions = inside(root, str(done["python"]), "-c", _VERSIONS)
    table = {
        "here": platform.machine(),
        "there": {"machine": facts["machine"], "python": facts["python"], "packages": json.loads(versions)},
        "emulator": run("qemu-aarch64-static", "--version").partition("\n")[0],
        "golden": verified,
        "same_order": list(probabilities) == [label for label, _ in here.labels[: len(probabilities)]],
        "largest_difference_of_a_probability": difference,
    }
    (RESULTS / "aarch64.json").write_text(json.dumps(table, indent=2) + "\n")
    print(json.dumps(table, indent=2))


_VERSIONS = """
import json
from importlib.metadata import version
print(json.dumps({name: version(name) for name in ("expertc", "numpy", "onnx", "onnxruntime", "pillow")}))
"""


def run(*command: str | Path) -> str:
    """What a program prints."""
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stdout[-2000:]}")
    return done.stdout


def words(root: Path, *command: str) -> list[str]:
    """A command in ``root``."""
    return ["env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/bin", "LANG=C.UTF-8", "chroot", str(root), *command]


def inside(root: Path, *command: str) -> str:
    """What a program in ``root`` prints."""
    return run(*words(root, *command))


def bootstrapped(root: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The answer of the bootstrap there; its input stays open, for its end is that of the bootstrap."""
    with subprocess.Popen(
        words(root, "/usr/bin/python3", "/root/bootstrap.py"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            message = json.loads(line)
            if "said" in message:
                print(message["said"], file=sys.stderr)
            elif "done" in message:
                return dict(message["done"])
            elif "failed" in message:
                raise SystemExit(f"The bootstrap failed: {message}")
    raise SystemExit("The bootstrap said nothing.")


def _photo(path: Path) -> None:
    """Texture at several scales."""
    from PIL import Image

    noise = [Image.effect_noise((640 // size, 480 // size), 90).resize((640, 480)) for size in (1, 4, 16)]
    Image.merge("RGB", noise).save(path, quality=90)


if __name__ == "__main__":
    main()
