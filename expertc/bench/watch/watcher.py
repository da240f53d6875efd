"""Looks at every sensor there is while something is measured."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from ...jetson import power_mode
from . import load, memory, nvidia, tegrastats
from .clocks import CpuClocks, GpuClock, ThrottleCounts, governors
from .evidence import GAP, Evidence, Timed, Track, summarise
from .ina import Rails
from .sample import Sensor
from .stream import Stream
from .thermal import Cooling, OverCurrent, Zones

INTERVAL = 0.2  # seconds between looks; one at 50 files takes half a millisecond of one core
PATIENCE = 5.0  # seconds for the last look: a bus may hang
MAX_LOOKS = 5000  # a longer run is looked at less often, so that the samples stay small

SENSORS: tuple[Callable[[Path], Sensor | None], ...] = (
    CpuClocks.find, GpuClock.find, ThrottleCounts.find, Zones.find, Cooling.find, OverCurrent.find, Rails.find
)  # fmt: skip


class Watcher:
    """A context in which something is measured; ``evidence`` afterwards says what was seen.

    ``seconds`` is about how long it will take. ``gpu``: what is measured runs on an NVIDIA card, so that is watched
    too; a card that is not used tells nothing, and asking it costs. ``root`` holds ``proc`` and ``sys``.
    Nothing that goes wrong with a sensor is raised: the evidence says so.
    """

    def __init__(
        self, seconds: float, *, gpu: bool = False, root: Path = Path("/"), interval: float = INTERVAL
    ) -> None:
        self._interval = max(interval, seconds / MAX_LOOKS)
        self._gpu = gpu
        self._root = root
        self._sensors: list[tuple[Sensor, list[Timed]]] = []
        self._streams: list[Stream] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watching sensors", daemon=True)
        self._effort = 0.0
        self._failure: str | None = None
        self._end = self._start = 0.0

    def __enter__(self) -> Watcher:
        found = (find(self._root) for find in SENSORS)
        self._sensors = [(sensor, []) for sensor in found if sensor is not None]
        self._mode, self._governor = power_mode(), governors(self._root)
        with ExitStack() as self._open:
            self._streams = self._programs()
            self._open = self._open.pop_all()
        self._fresh_peak = memory.reset_peak(self._root)
        self._start = self._end = time.monotonic()
        self._before = self._load()
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._thread.is_alive():
            self._failure = "the thread that looks at the sensors died"
        self._stop.set()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._failure = "a sensor does not answer"
        else:
            self._look()
        self._after = self._load()
        self._end = time.monotonic()
        self._peak = memory.peak(self._root)
        self._ended = [stream.ended() for stream in self._streams]
        self._open.close()

    def evidence(self, locked: tuple[str, ...] = ()) -> Evidence:
        """What was seen; to be asked when the context has been left."""
        tracks = [Track(sensor.name, samples) for sensor, samples in self._sensors]
        tracks += [Track(s.name, s.samples, why) for s, why in zip(self._streams, self._ended, strict=True)]
        seen = summarise(tracks, self._start, self._end, max(GAP, self._interval * GAP / INTERVAL))
        seconds = self._end - self._start
        return Evidence(
            seconds=seconds,
            sensors=tuple(track.name for track in tracks),
            series=seen.series,
            throttles=seen.throttles,
            tells_throttling=seen.tells_throttling,
            energy=seen.energy,
            load=load.between(self._before, self._after),
            governor=self._governor,
            power_mode=self._mode,
            locked=locked,
            peak_memory=self._peak,
            peak_is_of_run=self._fresh_peak,
            effort=self._effort / seconds if seconds else 0.0,
            died=self._failure or seen.died,
        )

    def _programs(self) -> list[Stream]:
        milliseconds = round(self._interval * 1e3)
        found: list[Stream] = []
        if not any(isinstance(sensor, Rails) for sensor, _ in self._sensors) and (tool := shutil.which("tegrastats")):
            options = (*tegrastats.OPTIONS, str(milliseconds))
            found.append(self._started(Stream("tegrastats", (tool, *options), tegrastats.parse)))
        if self._gpu:
            tool = shutil.which("nvidia-smi") or "nvidia-smi"
            for reasons in nvidia.REASONS:
                command = (tool, *nvidia.options(milliseconds, reasons))
                stream = self._started(Stream("nvidia-smi", command, nvidia.parse))
                if stream.samples:
                    break
            found.append(stream)
        return found

    def _started(self, stream: Stream) -> Stream:
        self._open.callback(stream.stop)
        stream.start()
        return stream

    def _load(self) -> load.Times | None:
        pids = [os.getpid(), *(stream.pid for stream in self._streams if stream.pid is not None)]
        return load.times(self._root, pids)

    def _look(self) -> None:
        for sensor, samples in self._sensors:
            if sample := sensor.read():
                samples.append((time.monotonic(), sample))

    def _follow(self) -> None:
        while not self._stop.wait(self._interval):
            self._look()
            self._effort = time.thread_time()
