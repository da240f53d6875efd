"""The watcher at work: on trees of files that change, and with programs that deliver, fail, fall silent and hang."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from expertc.bench.watch import Evidence, Watcher, judge
from expertc.bench.watch import stream as streams
from expertc.bench.watch import watcher as watcher_module

NANO = "CPU [6%@1510,6%@1510] GR3D_FREQ 26%@[306] cpu@46.41C VDD_IN 4900mW/5000mW VDD_SOC 1500mW/1600mW"
CARD = "0, 1410, 1593, 50, 300.00, 18364, 0x0000000000000000"
INTERVAL = 0.02


def until(true: Callable[[], object]) -> None:
    """Wait for something that will come; a machine may be slow, but not so slow."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def endless(line: str) -> str:
    return f'while :; do echo "{line}"; sleep {INTERVAL}; done'


def tree(root: Path, state: int = 0) -> Path:
    for name, contents in (("type", "cpu-throttle-alert"), ("cur_state", str(state))):
        (root / "sys/class/thermal/cooling_device0").mkdir(parents=True, exist_ok=True)
        (root / "sys/class/thermal/cooling_device0" / name).write_text(contents)
    return root


def alive(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def names(evidence: Evidence) -> set[str]:
    return {series.name for series in evidence.series}


def test_nothing_to_see(tmp_path: Path) -> None:
    with Watcher(0.1, root=tmp_path, interval=INTERVAL) as watcher:
        pass
    evidence = watcher.evidence()
    assert (evidence.sensors, evidence.series, evidence.energy, evidence.load) == ((), (), (), None)
    assert evidence.died is None
    assert judge(evidence, {}).name == "unknown"


def test_a_calm_board_and_a_hot_one(tmp_path: Path) -> None:
    root = tree(tmp_path)
    with Watcher(1, root=root, interval=INTERVAL) as watcher:
        time.sleep(5 * INTERVAL)
    assert judge(watcher.evidence(), {"a": 0.0}).name == "clean"
    with Watcher(1, root=root, interval=INTERVAL) as watcher:
        samples = watcher._sensors[0][1]
        until(lambda: len(samples) > 2)
        tree(root, state=1)
        until(lambda: samples[-1][1].held_back)
        tree(root, state=0)
    (throttle,) = watcher.evidence().throttles
    assert throttle.reason == "cooling by cpu-throttle-alert"
    assert throttle.samples is not None
    assert 0 < throttle.count < throttle.samples
    assert judge(watcher.evidence(), {"a": 0.0}).name == "throttled"


def test_a_sensor_that_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path)
    with Watcher(1, root=root, interval=INTERVAL) as watcher:
        samples = watcher._sensors[0][1]
        (root / "sys/class/thermal/cooling_device0/cur_state").unlink()
        before = len(samples)
        watcher._look()
        assert len(samples) == before
        monkeypatch.setattr(time, "monotonic", lambda real=time.monotonic: real() + 60)  # a minute later
    assert "cooling devices: it was silent for 60" in (watcher.evidence().died or "")


def test_the_thread_that_looks_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it dies of: what it saw before certifies nothing."""
    complaints: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)
    with Watcher(1, root=tree(tmp_path), interval=INTERVAL) as watcher:
        look = watcher._look

        def fail() -> None:
            raise RuntimeError("no more")

        monkeypatch.setattr(watcher, "_look", fail)
        until(lambda: not watcher._thread.is_alive())
        monkeypatch.setattr(watcher, "_look", look)
    assert complaints
    evidence = watcher.evidence()
    assert evidence.died == "the thread that looks at the sensors died"
    assert judge(evidence, {}).name == "unknown"


def test_a_sensor_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher_module, "PATIENCE", 0.1)
    hang = threading.Event()
    with Watcher(1, root=tree(tmp_path), interval=INTERVAL) as watcher:
        started = threading.Event()
        monkeypatch.setattr(watcher, "_look", lambda: (started.set(), hang.wait(30)))
        assert started.wait(30)
    assert watcher.evidence().died == "a sensor does not answer"
    hang.set()
    watcher._thread.join(30)


def test_what_is_measured_fails(tmp_path: Path, program: Callable[[str, str], Path]) -> None:
    program("tegrastats", endless(NANO))
    with pytest.raises(KeyboardInterrupt), Watcher(1, root=tmp_path, interval=INTERVAL) as watcher:  # noqa: PT012
        until(lambda: watcher._streams[0].samples)
        raise KeyboardInterrupt
    assert watcher.evidence().died is None
    assert not alive(watcher._streams[0].pid)


def test_tegrastats(tmp_path: Path, program: Callable[[str, str], Path]) -> None:
    program("tegrastats", f'[ "$1 $2" = "--interval 20" ] || exit 3\n{endless(NANO)}')
    program("nvpmodel", 'echo "NVPM WARN: fan mode is not set!"; echo "NV Power Mode: MAXN_SUPER"; echo 2')
    with Watcher(1, root=tmp_path, interval=INTERVAL) as watcher:
        stream = watcher._streams[0]
        before = len(stream.samples)
        until(lambda: len(stream.samples) > before + 3)
    evidence = watcher.evidence()
    assert evidence.died is None
    assert evidence.sensors == ("tegrastats",)
    assert evidence.power_mode == "MAXN_SUPER"
    assert {"cpu clock", "gpu clock", "temperature cpu", "power VDD_IN"} <= names(evidence)
    (energy,) = evidence.energy
    assert energy.watts == pytest.approx(4.9)
    assert energy.joules == pytest.approx(4.9 * evidence.seconds)
    assert judge(evidence, {}).name == "unknown"  # it never tells of throttling
    assert not alive(stream.pid)


def test_rails_of_sysfs_make_tegrastats_unnecessary(tmp_path: Path, program: Callable[[str, str], Path]) -> None:
    program("tegrastats", "exit 1")
    folder = tmp_path / "sys/class/hwmon/hwmon0"
    folder.mkdir(parents=True)
    for name, value in (("name", "ina3221"), ("in1_label", "VDD_IN"), ("in1_input", "5000"), ("curr1_input", "1000")):
        (folder / name).write_text(value)
    with Watcher(1, root=tmp_path, interval=INTERVAL) as watcher:
        pass
    evidence = watcher.evidence()
    assert evidence.sensors == ("INA3221",)
    assert evidence.energy[0].watts == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (f'echo "{NANO}"; exit 9', "tegrastats: it ended with code 9"),
        (f'echo "{NANO}"; echo "I2C bus lost" >&2; exit 1', "it ended with code 1: I2C bus lost"),
        ("exit 0", "it ended with code 0"),
        ("printf '\\033[2JNot a Jetson\\n'; exit 1", "ended with code 1: [2JNot a Jetson"),
        ("sleep 60", "tegrastats: it gave no sample"),
        ("exec >&- 2>&-; sleep 60", "tegrastats: it closed its output"),
    ],
)
def test_a_program_that_fails(
    tmp_path: Path, program: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    monkeypatch.setattr(streams, "START", 0.3)
    monkeypatch.setattr(streams, "STOP", 0.3)
    program("tegrastats", script)
    with Watcher(1, root=tree(tmp_path), interval=INTERVAL) as watcher:
        process = watcher._streams[0]._process
        assert process is not None
        if "; exit" in script:
            until(lambda: process.poll() is not None)
    evidence = watcher.evidence()
    assert evidence.died is not None
    assert words in evidence.died
    assert evidence.tells_throttling  # the board's own alerts work, yet:
    assert judge(evidence, {}).name == "unknown"


def test_a_program_killed_in_the_middle(tmp_path: Path, program: Callable[[str, str], Path]) -> None:
    program("tegrastats", endless(NANO))
    with Watcher(1, root=tmp_path, interval=INTERVAL) as watcher:
        stream = watcher._streams[0]
        until(lambda: stream.samples)
        assert stream.pid is not None
        os.kill(stream.pid, signal.SIGKILL)
        until(stream.ended)
    assert watcher.evidence().died == "tegrastats: it ended with code -9"


def test_a_program_that_does_not_want_to_end(
    tmp_path: Path, program: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STOP", 0.2)
    program("tegrastats", f"trap '' TERM\n{endless(NANO)}")
    with Watcher(1, root=tmp_path, interval=INTERVAL) as watcher:
        until(lambda: watcher._streams[0].samples)
    assert not alive(watcher._streams[0].pid)
    assert watcher.evidence().died is None


def test_a_card_with_an_old_driver(tmp_path: Path, program: Callable[[str, str], Path]) -> None:
    program(
        "nvidia-smi",
        f"""case "$*" in
*clocks_event_reasons*) echo 'Field "clocks_event_reasons.active" is not a valid field to query.'; exit 2;;
esac
{endless(CARD)}""",
    )
    with Watcher(1, gpu=True, root=tmp_path, interval=INTERVAL) as watcher:
        stream = watcher._streams[0]
        before = len(stream.samples)
        until(lambda: len(stream.samples) > before + 3)
    evidence = watcher.evidence()
    assert evidence.died is None
    assert evidence.energy[0].source == "gpu 0"
    assert evidence.to_mapping()["peak_device_memory"] == {"gpu 0": 18364 * 2**20}
    assert judge(evidence, {}).name == "clean"


def test_a_card_is_asked_only_when_it_is_used(tmp_path: Path, program: Callable[[str, str], Path]) -> None:
    program("nvidia-smi", endless(CARD))
    with Watcher(1, root=tmp_path, interval=INTERVAL) as watcher:
        assert watcher._streams == []
    assert watcher.evidence().sensors == ()


def test_no_driver(tmp_path: Path, program: Callable[[str, str], Path]) -> None:
    with Watcher(1, gpu=True, root=tmp_path, interval=INTERVAL) as watcher:
        pass
    assert watcher.evidence().died == "nvidia-smi: it cannot be started (No such file or directory)"
    program("nvidia-smi", 'echo "NVIDIA-SMI has failed because it couldn\'t communicate with the driver."; exit 9')
    with Watcher(1, gpu=True, root=tmp_path, interval=INTERVAL) as watcher:
        pass
    assert "NVIDIA-SMI has failed" in (watcher.evidence().died or "")


def test_long_runs_are_looked_at_less_often(tmp_path: Path) -> None:
    assert Watcher(10)._interval == pytest.approx(0.2)
    assert Watcher(86400)._interval == pytest.approx(17.28)
