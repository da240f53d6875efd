"""Lines of tegrastats and nvidia-smi as they were recorded on real machines."""

from __future__ import annotations

import pytest

from expertc.bench.watch import nvidia, tegrastats
from expertc.bench.watch.ina import module, power
from expertc.bench.watch.sample import Channel

# NVIDIA's AGX Orin developer kit as root: cores loaded, GPU with two clusters.
AGX_ORIN = (
    "11-21-2025 08:49:48 RAM 13983/62780MB (lfb 424x4MB) SWAP 126/31390MB (cached 0MB) CPU [90%@2201,100%@2201,100%"
    "@2201,100%@2201,100%@2201,100%@2201,100%@2201,100%@2201,100%@2201,100%@2201,100%@2201,100%@2201] EMC_FREQ"
    " 1%@2133 GR3D_FREQ 14%@[407,407] VIC_FREQ 115 NVDLA0_FREQ @1600 APE 174 CV0@73.625C CPU@77.281C Tboard@62C"
    " SOC2@70C Tdiode@62.25C SOC0@69.531C CV1@72.5C GPU@69.125C tj@77.281C SOC1@68.968C CV2@67.25C VDD_GPU_SOC"
    " 3150mW/2971mW VDD_CPU_CV 14312mW/12415mW VIN_SYS_5V0 4968mW/5048mW VDDQ_VDD2_1V8AO 1091mW/1091mW\n"
)
# Orin Nano with JetPack 6: engines that are off, clocks of cores that differ.
ORIN_NANO = (
    "08-24-2026 11:19:00 RAM 3172/6284MB (lfb 44x4MB) SWAP 0/3142MB (cached 0MB)"
    " CPU [6%@1510,6%@1510,10%@729,7%@729,29%@729,18%@729] EMC_FREQ 0%@2133 GR3D_FREQ 26%@[306] NVDEC off NVJPG off"
    " VIC_FREQ off APE 200 cpu@46.41C soc2@45.34C soc0@43.62C gpu@46.03C tj@46.41C soc1@44.38C"
    " VDD_IN 4900mW/5000mW VDD_CPU_GPU_CV 924mW/939mW VDD_SOC 1500mW/1600mW\n"
)
# Xavier NX with JetPack 4, as root: no units of power, cores that are off.
XAVIER_NX = (
    "RAM 2387/7774MB (lfb 961x4MB) SWAP 0/3887MB (cached 0MB) CPU [14%@1190,9%@1190,2%@1190,4%@1344,off,off]"
    " EMC_FREQ 1%@1600 GR3D_FREQ 0%@114 VIC_FREQ 0%@115 APE 150 MTS fg 0% bg 3% AO@31C GPU@31.5C PMIC@100C AUX@31.5C"
    " CPU@33C thermal@31.95C VDD_IN 3528/3569 VDD_CPU_GPU_CV 410/426 VDD_SOC 1107/1115\n"
)
# The same without root: no power, no clock of the GPU.
WITHOUT_ROOT = (
    "RAM 2130/7774MB (lfb 1004x4MB) SWAP 0/3887MB (cached 0MB) CPU [11%@1190,2%@1190,1%@1190,1%@1190,1%@1190,2%@1190]"
    " EMC_FREQ 0% GR3D_FREQ 0% AO@31C GPU@31.5C PMIC@100C AUX@31.5C CPU@33C thermal@31.95C\n"
)


def numbers(line: str) -> dict[str, float]:
    sample = tegrastats.parse(line)
    assert sample is not None
    assert not sample.tells  # tegrastats never says that clocks are held back
    return {f"{channel.name} {channel.unit}": value for channel, value in sample.values.items()}


def test_an_agx_orin() -> None:
    found = numbers(AGX_ORIN)
    assert found["cpu clock MHz"] == 2201
    assert found["gpu clock MHz"] == 407
    assert found["gpu load %"] == 14
    assert found["memory clock MHz"] == 2133
    assert found["temperature tj °C"] == 77.281
    powers = {name: value for name, value in found.items() if name.endswith(" W")}
    assert powers == {
        "power VDD_GPU_SOC W": 3.150, "power VDD_CPU_CV W": 14.312, "power VIN_SYS_5V0 W": 4.968,
        "power VDDQ_VDD2_1V8AO W": 1.091,
    }  # fmt: skip
    assert len(found) == 4 + 4 + 11


def test_an_orin_nano() -> None:
    found = numbers(ORIN_NANO)
    assert found["cpu clock MHz"] == 1510
    assert found["gpu clock MHz"] == 306
    assert found["power VDD_IN W"] == 4.9
    assert found["power VDD_SOC W"] == 1.5


def test_a_xavier_nx() -> None:
    found = numbers(XAVIER_NX)
    assert found["cpu clock MHz"] == 1344
    assert found["gpu clock MHz"] == 114
    assert (found["power VDD_IN W"], found["power VDD_CPU_GPU_CV W"]) == (3.528, 0.41)
    assert not [name for name in found if "RAM" in name or "SWAP" in name]


def test_without_root_there_is_less() -> None:
    found = numbers(WITHOUT_ROOT)
    assert "gpu clock MHz" not in found
    assert not [name for name in found if name.endswith(" W")]
    assert found["temperature CPU °C"] == 33


def test_sensors_that_are_off_and_lines_of_others() -> None:
    found = numbers("CPU [off,off] CV0@-256C tj@-3.5C")
    assert found == {"temperature tj °C": -3.5}
    for line in ("", "tegrastats: command failed\n", "RAM 1/2MB\n", "CPU [", "x" * 4096):
        assert tegrastats.parse(line) is None


def test_hostile_names_of_rails() -> None:
    (name,) = numbers("R" * 4000 + " 1mW/1mW")
    assert len(name) < 80


def test_which_rails_make_a_module() -> None:
    for line, rails in (
        (AGX_ORIN, ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]),
        (ORIN_NANO, ["VDD_IN"]),
        (XAVIER_NX, ["VDD_IN"]),
        (WITHOUT_ROOT, []),
        ("GPU 0/0 CPU 314/314 SOC 1257/1257 CV 0/0 VDDRQ 157/157 SYS5V 1480/1480", []),  # AGX Xavier: not known
    ):
        sample = tegrastats.parse(line)
        assert sample is not None
        assert list(module(sample.values)) == [power(rail) for rail in rails]


# -- nvidia-smi: index, SM clock, memory clock, temperature, power, memory in use, reasons ---------------------------


def test_a_busy_card() -> None:
    sample = nvidia.parse("0, 1410, 1593, 50, 300.00, 18364, 0x0000000000000000\n")
    assert sample is not None
    assert sample.values == {
        Channel("gpu 0 clock", "MHz"): 1410, Channel("gpu 0 memory clock", "MHz"): 1593,
        Channel("gpu 0 temperature", "°C"): 50, Channel("gpu 0 power", "W"): 300, Channel("gpu 0 memory", "MiB"): 18364,
    }  # fmt: skip
    assert sample.held_back == frozenset()
    assert sample.tells


@pytest.mark.parametrize(
    ("mask", "reasons"),
    [
        ("0x0000000000000001", set()),  # idle: the governor's own wish
        ("0x0000000000000002", set()),  # application clocks: the user's
        ("0x0000000000000110", set()),
        ("0x0000000000000004", {"gpu 1: power limit"}),
        ("0x0000000000000020", {"gpu 1: too hot (driver)"}),
        ("0x0000000000000048", {"gpu 1: slowdown by the hardware", "gpu 1: too hot (hardware)"}),
        ("0x0000000000000088", {"gpu 1: slowdown by the hardware", "gpu 1: power brake"}),
        ("0x0000000000010001", {"gpu 1: reason 0x10000, which expertc does not know"}),
    ],
)
def test_reasons(mask: str, reasons: set[str]) -> None:
    sample = nvidia.parse(f"1, 1275, 1593, 70, 400.00, 512, {mask}")
    assert sample is not None
    assert sample.held_back == reasons
    assert sample.tells


def test_a_card_that_does_not_say() -> None:
    """GB10 has no memory and no memory clock of its own; passively cooled and virtual cards lack more."""
    sample = nvidia.parse("0, 2411, [N/A], 48, [N/A], [N/A], 0x0000000000000000")
    assert sample is not None
    assert {channel.name for channel in sample.values} == {"gpu 0 clock", "gpu 0 temperature"}
    silent = nvidia.parse("0, 1410, 1593, 50, nan, 3, [Not Supported]")
    assert silent is not None
    assert not silent.tells
    assert Channel("gpu 0 power", "W") not in silent.values


@pytest.mark.parametrize(
    "line",
    [
        "",
        'Field "clocks_event_reasons.active" is not a valid field to query.',
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
        "index, clocks.sm [MHz], clocks.mem [MHz], temperature.gpu, power.draw [W], memory.used [MiB], "
        "clocks_event_reasons.active",
        "0, 1410, 1593, 50, 300.00, 18364",
        "Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost.",
    ],
)
def test_what_is_no_sample(line: str) -> None:
    assert nvidia.parse(line) is None


def test_what_is_asked() -> None:
    query, *rest = nvidia.options(200, "clocks_event_reasons.active")
    fields = "index,clocks.sm,clocks.mem,temperature.gpu,power.draw,memory.used,clocks_event_reasons.active"
    assert query == f"--query-gpu={fields}"
    assert rest == ["--format=csv,noheader,nounits", "-lms", "200"]


# AGX Thor with JetPack 7.0 (no load and no clock of the GPU), and with 7.2: means and peaks stand behind the values.
THOR = (
    "07-31-2026 14:45:55 RAM 86905/125772MB (lfb 368x4MB) CPU [12%@972,10%@972,off,33%@1890] cpu@39.812C tj@39.906C"
    " soc012@38.812C gpu@39.906C soc345@38.625C VDD_GPU -392mW/-392mW VDD_CPU_SOC_MSS 7910mW/7910mW"
    " VIN_SYS_5V0 7620mW/7620mW VIN 26686mW/26686mW"
)
THOR_LOADED = (
    "08-08-2026 21:00:39 RAM 8353/125749MB (lfb 31x4MB) CPU [90%@2601,75%@2601,off,7%@2601] EMC_FREQ 34%@4266"
    " GR3D_FREQ 87%@[1574,1574,1574] NVENC0_FREQ @1691 VIC off cpu@58.25C/61.75C tj@66.625C/66.625C"
    " gpu@56.937C/66.625C VDD_GPU 37939mW/8660mW/37939mW VIN 124486mW/36487mW/124486mW"
)
THOR_IDLE = (
    "08-08-2026 20:58:23 RAM 3429/125749MB (lfb 120x4MB) CPU [0%,5%,off]@2601 EMC_FREQ @4266"
    " GR3D_FREQ @[1574,1574,1574] cpu@49.75C/49.75C tj@51.218C/51.218C VIN 28906mW/14453mW/28906mW"
)


def test_a_thor() -> None:
    found = numbers(THOR)
    assert (found["cpu clock MHz"], found["power VIN W"], found["power VDD_GPU W"]) == (1890, 26.686, -0.392)
    assert not {"gpu load %", "gpu clock MHz"} & found.keys()
    loaded = numbers(THOR_LOADED)
    assert (loaded["gpu load %"], loaded["gpu clock MHz"], loaded["memory clock MHz"]) == (87, 1574, 4266)
    assert (loaded["temperature tj °C"], loaded["temperature cpu °C"]) == (66.625, 58.25)
    assert (loaded["power VDD_GPU W"], loaded["power VIN W"]) == (37.939, 124.486)
    idle = numbers(THOR_IDLE)
    assert "gpu load %" not in idle
    assert (idle["cpu clock MHz"], idle["gpu clock MHz"], idle["memory clock MHz"]) == (2601, 1574, 4266)
