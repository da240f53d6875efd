"""What a benchmark found: numbers, the evidence beside them, and what is doubtful about them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import atomic
from ..errors import FileSystemError
from ..measure import Ratio, Summary, Warmup, samples_for
from .watch import MAX_VARIATION, UNWATCHED, Evidence, Verdict, judge, unsteady

SINGLE_STREAM, OFFLINE = SCENARIOS = ("single-stream", "offline")

FORMAT = "expertc.bench/1"
FILES = ("report.json", "report.md")

TIMED = "one call of the session: the input is ready, the outputs are copied out, threads wait by spinning"
RULE = "percentiles are nearest-rank and given only with enough samples (p90 {}, p99 {})"


@dataclass(frozen=True)
class Entry:
    """One model's result. ``ratio`` is its time per image over the first model's."""

    name: str
    path: str
    sha256: str  # of the .onnx file
    shape: tuple[int, ...]  # of the input; the first axis is the batch
    summary: Summary  # seconds per call
    ratio: Ratio

    @property
    def images_per_second(self) -> float:
        """Images per second over the whole run."""
        return self.shape[0] / self.summary.mean


@dataclass(frozen=True)
class BenchReport:
    """A finished benchmark. ``seconds`` was asked for; ``environment`` and ``to_mapping()`` hold JSON types."""

    scenario: str
    seconds: float
    seed: int
    warmup: Warmup
    entries: tuple[Entry, ...]
    environment: Mapping[str, Any]
    warnings: tuple[str, ...]
    evidence: Evidence = UNWATCHED

    @property
    def verdict(self) -> Verdict:
        """Whether the numbers can be believed."""
        return judge(self.evidence, {entry.name: entry.summary.variation for entry in self.entries})

    @property
    def joules_per_image(self) -> dict[str, float]:
        """Energy of one image by the part that took it; {} if several models, which take turns, share the power."""
        if len(self.entries) != 1:
            return {}
        rate = self.entries[0].images_per_second
        return {energy.source: energy.watts / rate for energy in self.evidence.energy}

    def to_mapping(self) -> dict[str, Any]:
        """Everything as plain JSON types; durations in seconds."""
        warmup = asdict(self.warmup) | {"spread": self.warmup.spread if self.warmup.spread < 1e9 else None}
        return {
            "format": FORMAT,
            "scenario": self.scenario,
            "seconds": self.seconds,
            "seed": self.seed,
            "timed": TIMED,
            "percentiles": RULE.format(samples_for(90), samples_for(99)),
            "environment": dict(self.environment),
            "warmup": warmup,
            "models": [
                asdict(entry) | {"shape": list(entry.shape), "images_per_second": entry.images_per_second}
                for entry in self.entries
            ],
            "warnings": list(self.warnings),
            "verdict": {"name": self.verdict.name, "reasons": list(self.verdict.reasons)},
            "evidence": self.evidence.to_mapping() | {"joules_per_image": self.joules_per_image},
        }

    def to_markdown(self) -> str:
        """The report as a page."""
        rows = [
            "| model | batch | calls | median ms | p90 ms | p99 ms | images/s | time per image, × first (95 %) |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for entry in self.entries:
            times = entry.summary
            cells = (
                _cell(entry.name),
                str(entry.shape[0]),
                str(times.n),
                *(milliseconds(value) for value in (times.median, times.p90, times.p99)),
                f"{entry.images_per_second:.1f}",
                between(entry.ratio),
            )
            rows.append(f"| {' | '.join(cells)} |")
        facts = [f"- {key}: {_cell(_plain(value))}" for key, value in self.environment.items()]
        verdict = self.verdict
        notes = [f"- **verdict: {verdict.name}**", *(f"- {_cell(reason)}" for reason in verdict.reasons)]
        notes += [f"- **{_cell(warning)}**" for warning in self.warnings if warning not in verdict.reasons]
        notes += [
            f"- timed: {TIMED}",
            f"- {RULE.format(samples_for(90), samples_for(99))}",
            f"- all models in one run of {self.seconds:g} s, in turns whose order changes; noise from seed {self.seed}",
        ]
        parts = [f"# Benchmark: {self.scenario}", "\n".join(rows), "\n".join(notes), "## Machine", "\n".join(facts)]
        return "\n\n".join(parts) + "\n"


def milliseconds(seconds: float | None) -> str:
    """A duration for a table, "–" where there were too few samples."""
    return "–" if seconds is None else f"{seconds * 1e3:.3f}"


def between(ratio: Ratio) -> str:
    """A ratio with its interval for a table."""
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.3f} (too few samples)"
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def warnings_about(entries: Sequence[Entry], warmup: Warmup, load: float, cores: int) -> tuple[str, ...]:
    """What makes the numbers doubtful, one sentence each."""
    found = []
    if load > cores:
        found.append(f"The machine was busy before the run: load {load:g} on {cores} cores.")
    if not warmup.stable:
        found.append(f"The times were still moving when the warm-up ended after {warmup.seconds:.1f} s.")
    for entry in entries:
        if entry.summary.variation > MAX_VARIATION:
            found.append(unsteady(entry.name, entry.summary.variation))
        if entry.summary.p90 is None:
            found.append(f"{entry.name} ran {entry.summary.n} times, too few for a p90: measure for longer.")
    return tuple(found)


def write_report(report: BenchReport, path: Path) -> Path:
    """Write ``report.json`` and ``report.md`` into the directory ``path``, both or neither, and return ``path``.

    An earlier report there is replaced. Raises ``FileSystemError`` if ``path`` holds anything else or cannot be
    written.
    """
    text = json.dumps(report.to_mapping(), indent=2, allow_nan=False) + "\n"
    with atomic.exclusive(path) as place, atomic.staged(place, _refuse_foreign) as folder:
        atomic.put(folder / FILES[0], text.encode())
        atomic.put(folder / FILES[1], report.to_markdown().encode())
    return path


def _refuse_foreign(place: Path) -> None:
    own = place.is_dir() and not place.is_symlink() and {entry.name for entry in place.iterdir()} == set(FILES)
    try:
        own = own and json.loads((place / FILES[0]).read_bytes())["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise _foreign(place) from error
    if not own:
        raise _foreign(place)


def _foreign(place: Path) -> FileSystemError:
    return FileSystemError(f"'{place}' exists and is not an earlier benchmark report.", "Choose another directory.")


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "unknown" if value is None else str(value)


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")
