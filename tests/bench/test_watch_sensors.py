"""Sensors of /proc and /sys, on trees of files as boards have them."""

from __future__ import annotations

import mmap
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from expertc.bench.watch import load, memory
from expertc.bench.watch.clocks import CpuClocks, GpuClock, ThrottleCounts, governor_files, governors
from expertc.bench.watch.ina import Rails
from expertc.bench.watch.sample import Sample
from expertc.bench.watch.thermal import Cooling, OverCurrent, Zones
from expertc.bench.watch.watcher import SENSORS

ORIN = {
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "729600",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "1510400",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "schedutil",
    "sys/class/devfreq/15340000.vic/cur_freq": "115200000",
    "sys/class/devfreq/17000000.gpu/cur_freq": "624750000",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "46406",
    "sys/class/thermal/thermal_zone1/type": "cv0-thermal",
    "sys/class/thermal/thermal_zone1/temp": "-256000",
    "sys/class/thermal/cooling_device0/type": "pwm-fan",
    "sys/class/thermal/cooling_device0/cur_state": "2",
    "sys/class/thermal/cooling_device1/type": "cpu-throttle-alert",
    "sys/class/thermal/cooling_device1/cur_state": "0",
    "sys/class/thermal/cooling_device2/type": "devfreq-17000000.gpu",
    "sys/class/thermal/cooling_device2/cur_state": "0",
    "sys/class/hwmon/hwmon1/name": "ina3221",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN",
    "sys/class/hwmon/hwmon1/in1_input": "4984",
    "sys/class/hwmon/hwmon1/curr1_input": "1856",
    "sys/class/hwmon/hwmon1/in2_label": "NC",
    "sys/class/hwmon/hwmon1/in2_input": "0",
    "sys/class/hwmon/hwmon1/curr2_input": "0",
    "sys/class/hwmon/hwmon1/in4_input": "9280",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages",
    "sys/class/hwmon/hwmon3/name": "soctherm_oc",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0",
    "sys/class/hwmon/hwmon3/oc2_event_cnt": "15",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "37",
}


def build(root: Path, files: dict[str, str]) -> Path:
    for name, contents in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{contents}\n")
    return root


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    return build(tmp_path, ORIN)


def read(found: Any) -> dict[str, float]:
    assert found is not None
    return {f"{channel.name} {channel.unit}": value for channel, value in found.read().values.items()}


def test_clocks(orin: Path) -> None:
    assert read(CpuClocks.find(orin)) == {"cpu clock MHz": 1510.4}
    assert read(GpuClock.find(orin)) == {"gpu clock MHz": 624.75}
    assert governors(orin) == "schedutil"
    assert len(governor_files(orin)) == 2
    build(orin, {"sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "evil\x1b[2J"})
    assert governors(orin) == "evil[2J, schedutil"


def test_temperatures(orin: Path) -> None:
    zones = Zones.find(orin)
    assert read(zones) == {"temperature cpu-thermal °C": 46.406}
    build(orin, {f"sys/class/thermal/thermal_zone{i}/{k}": v for i, t in ((2, "60000"), (3, "50000"))
                 for k, v in (("type", "cpu-thermal"), ("temp", t))})  # fmt: skip
    assert read(Zones.find(orin)) == {"temperature cpu-thermal °C": 60}


def test_only_what_slows_down_counts_as_throttling(orin: Path) -> None:
    cooling = Cooling.find(orin)
    assert cooling is not None
    assert cooling.read() == Sample(tells=True)  # the fan is at work, nothing else
    build(orin, {"sys/class/thermal/cooling_device1/cur_state": "1"})
    assert cooling.read().held_back == {"cooling by cpu-throttle-alert"}
    build(orin, {"sys/class/thermal/cooling_device2/cur_state": "18"})
    assert cooling.read().held_back == {"cooling by cpu-throttle-alert", "cooling by devfreq-17000000.gpu"}
    build(orin, {"sys/class/thermal/cooling_device1/cur_state": ""})
    assert not cooling.read()  # a device that does not answer is no sign of calm


def test_over_current(orin: Path) -> None:
    counters = OverCurrent.find(orin)
    assert counters is not None
    found = counters.read()
    assert list(found.counters.values()) == [0, 15, 37]
    assert found.tells
    build(orin, {"sys/class/hwmon/hwmon3/oc3_event_cnt": "busy"})
    assert not counters.read().tells


def test_rails(orin: Path) -> None:
    rails = Rails.find(orin)
    assert read(rails) == {"power VDD_IN W": pytest.approx(4.984 * 1.856)}
    (orin / "sys/class/hwmon/hwmon1/curr1_input").unlink()
    assert read(rails) == {}
    assert Rails.find(orin) is None


def test_counters_of_x86(tmp_path: Path) -> None:
    folder = "sys/devices/system/cpu/cpu{}/thermal_throttle/{}_throttle_count"
    build(tmp_path, {folder.format(core, of): "3" for core in (0, 1) for of in ("core", "package")})
    counts = ThrottleCounts.find(tmp_path)
    assert counts is not None
    assert counts.read() == Sample(counters={"the processor was too hot": 12}, tells=True)


def test_a_virtual_machine_has_nothing(tmp_path: Path) -> None:
    build(tmp_path, {"sys/devices/system/cpu/cpu0/online": "1"})
    assert [find(tmp_path) for find in SENSORS] == [None] * len(SENSORS)
    assert governors(tmp_path) is None


def test_files_that_are_no_numbers(orin: Path) -> None:
    for name in ORIN:
        (orin / name).write_bytes(b"\xff\xfe\0 nonsense")
    for find in SENSORS:
        sensor = find(orin)
        assert sensor is None or not sensor.read()


# -- load of other processes -------------------------------------------------------------------------------------------

#            user nice system idle iowait irq softirq steal guest guest_nice
STAT = """cpu  {}
cpu0 1000 10 200 5000 50 0 20 5 300 0
cpu1 {}
cpu2 900 0 0 0 0 0 0 0 0 0
intr 1 2 3
ctxt 4
"""
MINE = "7 (a (b) c) R 1 7 7 0 -1 4194304 101 0 0 0 {} {} {} {} 20 0 1 0 3907034 3133440 404"


def machine(root: Path, cpu1: str, mine: str) -> load.Times:
    build(root, {"proc/stat": STAT.format("0 " * 10, cpu1), "proc/7/stat": mine})
    found = load.times(root, [7, 8], {0, 1})
    assert found is not None
    return found


def test_what_others_took(tmp_path: Path) -> None:
    before = machine(tmp_path, "0 0 0 0 0 0 0 0 0 0", MINE.format(100, 20, 3, 1))
    assert before == load.Times(total=6285, busy=1230, own=124, stolen=5)
    # 1000 ticks later: 600 busy, 350 idle, 10 waiting, 40 stolen; 430 + 20 + 47 + 3 of them were ours.
    after = machine(tmp_path, "500 20 70 350 10 5 5 40 400 0", MINE.format(530, 40, 50, 4))
    found = load.between(before, after)
    assert found is not None
    assert (found.others, found.stolen) == (pytest.approx(0.1), pytest.approx(0.04))


def test_too_short_or_unknown(tmp_path: Path) -> None:
    start, later = load.Times(1000, 10, 5, 0), load.Times(1099, 60, 5, 0)
    assert load.between(start, later) is None
    assert load.between(start, None) is None
    assert load.between(start, load.Times(1100, 12, 9, 0)) == load.Load(0.0, 0.0)  # rounding is not negative load
    assert load.times(tmp_path, [1]) is None
    assert load.times(build(tmp_path, {"proc/stat": "cpu0 1 2 3"}), [1], {0}) is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc")
def test_this_process_is_not_another() -> None:
    before = load.times(Path("/"), [os.getpid()])
    used = resource.getrusage(resource.RUSAGE_SELF)
    start = used.ru_utime + used.ru_stime
    while used.ru_utime + used.ru_stime < start + 0.3:
        used = resource.getrusage(resource.RUSAGE_SELF)
    after = load.times(Path("/"), [os.getpid()])
    assert before is not None
    assert after is not None
    ticks = os.sysconf("SC_CLK_TCK")
    assert after.own - before.own >= 0.25 * ticks
    assert after.busy - before.busy >= after.own - before.own - 0.05 * ticks


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this kernel forgets no peak")
def test_the_peak_of_a_part_of_the_run() -> None:
    size = 64 * 2**20
    _touch(size)
    assert memory.reset_peak()
    low = memory.peak()
    _touch(size)
    high = memory.peak()
    assert low is not None
    assert high is not None
    assert high - low >= 0.9 * size
    assert high <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 2**20


def _touch(size: int) -> None:
    """Use so many bytes for a moment, new ones: an allocator may hand out what was freed and is still resident."""
    with mmap.mmap(-1, size) as fresh:
        for page in range(0, size, mmap.PAGESIZE):
            fresh[page] = 1


def test_memory_of_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert not memory.reset_peak(tmp_path)
    assert memory.peak(tmp_path) is None
    assert memory.peak(build(tmp_path, {"proc/self/status": "VmHWM:\tmuch"})) is None
    assert memory.peak(build(tmp_path, {"proc/self/status": "Name:\tx\nVmHWM:\t   2048 kB"})) == 2**21
