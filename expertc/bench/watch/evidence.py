"""What was seen while something was measured, put together from the samples of all sensors."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from .ina import module
from .load import Load
from .sample import MEGABYTES, Channel, Sample

GAP = 2.0  # seconds without a sample after which a sensor counts as dead; ten times the interval of looking

Timed = tuple[float, Sample]  # seconds of time.monotonic


@dataclass(frozen=True)
class Track:
    """One sensor's samples in the order of time, and why it ended too early, if it did."""

    name: str
    samples: Sequence[Timed]
    ended: str | None = None


@dataclass(frozen=True)
class Series:
    """The numbers of one channel."""

    name: str
    unit: str
    samples: int
    least: float
    median: float
    most: float


@dataclass(frozen=True)
class Throttle:
    """Clocks were held back: in ``count`` of ``samples`` looks, or, where ``samples`` is None, ``count`` times."""

    reason: str
    count: int
    samples: int | None

    def __str__(self) -> str:
        return f"{self.reason}: " + (f"{self.count} times" if self.samples is None else
                                     f"in {self.count} of {self.samples} samples")  # fmt: skip


@dataclass(frozen=True)
class Energy:
    """What ``source`` took over the whole window, and its mean power."""

    source: str
    joules: float
    watts: float


@dataclass(frozen=True)
class Evidence:
    """What was seen during ``seconds``.

    ``tells_throttling``: there is a sensor that would have said so had clocks been held back, and it did not fail.
    ``died``: why the watch cannot be relied on. ``load`` is None where it is unknown or the time was too short.
    ``peak_memory`` is in bytes, of this process with all that it measures; since its start if not ``peak_is_of_run``.
    ``effort`` is the share of a core that looking took. ``locked`` says what was set for the time of the measurement.
    """

    seconds: float = 0.0
    sensors: tuple[str, ...] = ()
    series: tuple[Series, ...] = ()
    throttles: tuple[Throttle, ...] = ()
    tells_throttling: bool = False
    energy: tuple[Energy, ...] = ()
    load: Load | None = None
    governor: str | None = None
    power_mode: str | None = None
    locked: tuple[str, ...] = ()
    peak_memory: int | None = None
    peak_is_of_run: bool = False
    effort: float = 0.0
    died: str | None = None

    @property
    def peak_device_memory(self) -> dict[str, int]:
        """The most memory in use on each card, in bytes, by all processes together; {} where no card was watched."""
        used = [series for series in self.series if series.unit == MEGABYTES]
        return {series.name.removesuffix(" memory"): round(series.most * 2**20) for series in used}

    def to_mapping(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        return asdict(self) | {
            "peak_device_memory": self.peak_device_memory,
            "sensors": list(self.sensors),
            "series": [asdict(each) for each in self.series],
            "throttles": [asdict(each) for each in self.throttles],
            "energy": [asdict(each) for each in self.energy],
            "locked": list(self.locked),
        }


UNWATCHED = Evidence(died="nobody watched")


@dataclass(frozen=True)
class Seen:
    """The part of ``Evidence`` that comes from samples."""

    series: tuple[Series, ...]
    throttles: tuple[Throttle, ...]
    tells_throttling: bool
    energy: tuple[Energy, ...]
    died: str | None


def summarise(tracks: Sequence[Track], start: float, end: float, gap: float = GAP) -> Seen:
    """Put together what the sensors saw from ``start`` to ``end`` (seconds of ``time.monotonic``)."""
    during = [Track(t.name, [s for s in t.samples if start <= s[0] <= end], t.ended) for t in tracks]
    return Seen(
        tuple(_series(during)),
        tuple(_held_back(during) + _counted(during)),
        any(track.samples and all(sample.tells for _, sample in track.samples) for track in during),
        tuple(_energy(during, start, end)),
        next((f"{track.name}: {why}" for track in tracks if (why := _death(track, start, end, gap))), None),
    )


def _series(tracks: Sequence[Track]) -> list[Series]:
    numbers: dict[Channel, list[float]] = {}
    for track in tracks:
        for _, sample in track.samples:
            for channel, value in sample.values.items():
                numbers.setdefault(channel, []).append(value)
    return [Series(*channel, len(n), min(n), statistics.median(n), max(n)) for channel, n in numbers.items()]


def _held_back(tracks: Sequence[Track]) -> list[Throttle]:
    counts: dict[str, tuple[int, int]] = {}
    for track in tracks:
        for _, sample in track.samples:
            for reason in sorted(sample.held_back):
                counts[reason] = (counts.get(reason, (0, 0))[0] + 1, len(track.samples))
    return [Throttle(reason, *count) for reason, count in counts.items()]


def _counted(tracks: Sequence[Track]) -> list[Throttle]:
    found = []
    for track in tracks:
        seen: dict[str, list[int]] = {}
        for _, sample in track.samples:
            for name, count in sample.counters.items():
                seen.setdefault(name, []).append(count)
        found += [Throttle(name, rise, None) for name, counts in seen.items() if (rise := max(counts) - counts[0]) > 0]
    return found


def _energy(tracks: Sequence[Track], start: float, end: float) -> list[Energy]:
    """Of the module, and of each card; the parts of a module are not given, so that nobody adds them up twice."""
    found: dict[str, list[tuple[float, float]]] = {}
    for track in tracks:
        for moment, sample in track.samples:
            if rails := module(sample.values):
                source = f"module ({' + '.join(rail.name.removeprefix('power ') for rail in rails)}, {track.name})"
                found.setdefault(source, []).append((moment, sum(sample.values[rail] for rail in rails)))
            for channel, watts in sample.values.items():
                if channel.unit == "W" and channel.name.startswith("gpu "):
                    found.setdefault(channel.name.removesuffix(" power"), []).append((moment, watts))
    return [
        _integral(source, points, start, end) for source, points in found.items() if len(points) > 1 and end > start
    ]


def _integral(source: str, points: Sequence[tuple[float, float]], start: float, end: float) -> Energy:
    """By trapezia; before the first and after the last sample the power is taken to be what they say."""
    line = [(start, points[0][1]), *points, (end, points[-1][1])]
    joules = sum((b - a) * (p + q) / 2 for (a, p), (b, q) in pairwise(line))
    return Energy(source, joules, joules / (end - start))


def _death(track: Track, start: float, end: float, gap: float) -> str | None:
    if track.ended:
        return track.ended
    looks = [moment for moment, _ in track.samples if start - gap <= moment <= end]  # a program's first came before
    if not looks:
        return "it gave no sample"
    moments = [start, *looks, end]
    longest = max(b - a for a, b in pairwise(moments))
    return f"it was silent for {longest:.1f} s" if longest > gap else None
