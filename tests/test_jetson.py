"""What a Jetson says of itself, in texts that were recorded on real ones.

Their sources: nv_tegra_release of an Orin Nano (github.com/viamrobotics/rdk, extended platform tags), an Orin NX and
two Thors (public notes of their owners); device trees: Linux, arch/arm64/boot/dts/nvidia, and OE4T/meta-tegra;
nvpmodel.conf: Jetson Linux 36.4.4 on an Orin Nano, shortened to the lines of its modes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from expertc import targets
from expertc.jetson import Jetson, detect, jetpack, jetson_linux, power_modes
from expertc.targets import list_targets

NANO_RELEASE = (
    "# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, EABI: aarch64, DATE: Mon Jun 16 16:07:13 UTC"
    " 2025\n"
    "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
    "TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia\n"
)
NANO_TREE = "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0"
NANO_MODEL = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0"
NANO_MEMORY = 7664556  # kB
NANO_MODES = """\
# mandatory section to configure the default power mode
< PM_CONFIG DEFAULT=1 >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=3 NAME=7W >
"""

Program = Callable[[str, str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a shell script on the path, where nothing else of the machine's is."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, script: str) -> Path:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        return folder / name

    return write


def machine(
    root: Path, *, release: str = "", tree: str = "", model: str = "", memory: int = NANO_MEMORY, modes: str = ""
) -> Path:
    for name, text in (
        ("etc/nv_tegra_release", release), ("etc/nvpmodel.conf", modes), ("proc/device-tree/compatible", tree),
        ("proc/device-tree/model", model), ("proc/meminfo", f"MemTotal:       {memory} kB\nMemFree: 1 kB\n"),
    ):  # fmt: skip
        if text:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    return root


def test_an_orin_nano_with_super_modes(tmp_path: Path, program: Program) -> None:
    program(
        "nvpmodel", '[ "$*" = -q ] || exit 1; echo "NVPM WARN: fan mode is not set!"; echo "NV Power Mode: 25W"; echo 1'
    )
    found = detect(machine(tmp_path, release=NANO_RELEASE, tree=NANO_TREE, model=NANO_MODEL, modes=NANO_MODES))
    assert found == Jetson(
        NANO_MODEL.rstrip("\0"), "36.4.4", "6.2.1", "orin-nano-8gb-super", "25W", ("15W", "25W", "MAXN_SUPER", "7W")
    )
    said = found.to_mapping()
    assert json.loads(json.dumps(said)) == said
    assert said["power_modes"] == ["15W", "25W", "MAXN_SUPER", "7W"]  # 0 is not the maximum here


# What the device tree names, kB of memory as seen, and the profile.
MODULES = {
    "nvidia,p3768-0000+p3767-0005 nvidia,p3767-0005 nvidia,tegra234": (7664556, "orin-nano-8gb"),
    "nvidia,p3768-0000+p3767-0004 nvidia,p3767-0004 nvidia,tegra234": (3677000, "orin-nano-4gb"),
    "nvidia,p3768-0000+p3767-0000 nvidia,p3767-0000 nvidia,tegra234": (15655436, "orin-nx-16gb"),
    "nvidia,p3768-0000+p3767-0000-super nvidia,p3767-0000 nvidia,tegra234": (15655436, "orin-nx-16gb"),
    "nvidia,p3768-0000+p3767-0001 nvidia,p3767-0001 nvidia,tegra234": (7700000, "orin-nx-8gb"),
    "nvidia,p3737-0000+p3701-0000 nvidia,p3701-0000 nvidia,tegra234": (31269000, "agx-orin-32gb"),
    "nvidia,p3737-0000+p3701-0005 nvidia,p3701-0005 nvidia,tegra234": (64286720, "agx-orin-64gb"),
    "nvidia,p3449-0000+p3668-0001 nvidia,p3509-0000+p3668-0001 nvidia,tegra194": (7960576, "xavier-nx"),
    "nvidia,p4071-0000+p3834-0008 nvidia,p3834-0008 nvidia,tegra264": (128825804, "thor-t5000"),
    # A carrier board with the device tree of a module that has twice the memory, a module without a profile, none.
    "nvidia,p3768-0000+p3767-0000 nvidia,p3767-0000 nvidia,tegra234 ": (7664556, None),
    "nvidia,p3737-0000+p3701-0008 nvidia,p3701-0008 nvidia,tegra234": (64286720, None),
    "nvidia,tegra234": (7664556, None),
}


@pytest.mark.parametrize("tree", MODULES)
def test_which_profile_a_module_has(tree: str, tmp_path: Path, program: Program) -> None:
    memory, target = MODULES[tree]
    found = detect(machine(tmp_path, tree=tree.strip().replace(" ", "\0") + "\0", memory=memory))
    assert found == Jetson(None, None, None, target, None, ())


def test_every_jetsons_profile_names_a_module_of_its_own() -> None:
    named = [name for target in list_targets() for name in target.facts.get("compatible", ())]
    assert len(named) == len(set(named)) >= 14
    jetsons = {target.name for target in list_targets() if "Jetson" in target.description}
    assert jetsons == {target.name for target in list_targets() if "compatible" in target.facts}


# First lines of nv_tegra_release, and the JetPack.
RELEASES = {
    "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64": ("35.4.1", "5.1.2"),
    "# R36 (release), REVISION: 3.0, GCID: 36191598, BOARD: generic": ("36.3.0", "6.0"),
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64": ("36.4.3", "6.2"),
    "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64": ("36.4.7", "6.2.1"),
    "# R38 (release), REVISION: 2.2, GCID: 42205042, BOARD: generic": ("38.2.2", "7.0"),
    "# R39 (release), REVISION: 2.1, GCID: 1, BOARD: generic": ("39.2.1", "7.2.1"),
    "# R36 (release), REVISION: 9.1": ("36.9.1", None),  # not out yet: nothing is guessed
    "# R32 (release), REVISION: 7.1, GCID: 29689809, BOARD: t186ref": ("32.7.1", None),
}


@pytest.mark.parametrize("line", RELEASES)
def test_releases(line: str) -> None:
    linux, expected = RELEASES[line]
    found = jetson_linux(line + "\n")
    assert found is not None
    assert (".".join(map(str, found)), jetpack(found)) == (linux, expected)


def test_in_a_container_there_is_only_what_was_mounted(tmp_path: Path, program: Program) -> None:
    found = detect(machine(tmp_path, release=NANO_RELEASE))
    assert found == Jetson(None, "36.4.4", "6.2.1", None, None, ())


@pytest.mark.parametrize("tree", ["", "raspberrypi,4-model-b\0brcm,bcm2711\0", "\0", "x" * 10**6])
def test_other_machines(tree: str, tmp_path: Path, program: Program) -> None:
    assert detect(machine(tmp_path, tree=tree, release="", model="Raspberry Pi 4")) is None
    assert detect(tmp_path / "nowhere") is None


def test_hostile_texts(tmp_path: Path, program: Program) -> None:
    program("nvpmodel", r"printf 'NV Power Mode: \033[31m\342\200\256%02000d\n' 1")
    found = detect(
        machine(
            tmp_path, tree="nvidia,tegra234\0" + "+" * 5000, model="\x1b[2J\u202egpj.exe\0" + "m" * 10**5,
            release="# R" + "9" * 99,
            modes="".join(f"< POWER_MODEL ID={i} NAME=\x1b[3{i}m{'x' * 999} >\n" for i in range(500)),
        )
    )  # fmt: skip
    assert found is not None
    assert (found.linux, found.jetpack, found.target) == (None, None, None)
    texts = [found.model or "", found.power_mode or "", *found.power_modes]
    assert all(text.isprintable() and 0 < len(text) <= 80 for text in texts)
    assert len(found.power_modes) == 32


@pytest.mark.parametrize("script", ["exit 1", "echo", "sleep 60", "echo NV Power Mode", None])
def test_no_power_mode(script: str | None, tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertc.jetson.PATIENCE", 0.2)
    if script:
        program("nvpmodel", f"PATH=/usr/bin:/bin; exec {script}" if "sleep" in script else script)
    found = detect(machine(tmp_path, release=NANO_RELEASE))
    assert found is not None
    assert found.power_mode is None


def test_a_file_of_modes_of_another_kind() -> None:
    assert power_modes("") == power_modes("< POWER_MODEL NAME=15W ID=0 >\n<POWER_MODEL>\n") == ()


def test_a_damaged_profile_of_the_users_disturbs_nobody(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged() -> None:
        raise targets.InvalidArtifactError("It is damaged.")

    monkeypatch.setattr("expertc.jetson.list_targets", damaged)
    found = detect(machine(tmp_path, release=NANO_RELEASE, tree=NANO_TREE))
    assert found is not None
    assert found.target is None
