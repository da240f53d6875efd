"""What a benchmark found: numbers, the evidence beside them, and what is doubtful about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any

from ..intervals import median_bounds
from ..measure import MIN_BLOCKS, Ratio, Summary, Warmup, samples_for
from ..pages import ReportFolder, cell, to_json
from .camera import Stream
from .cold import ColdStart
from .exits import Exiting, exit_lines
from .harness import Harness
from .page import to_html
from .phases import Phases, described
from .sweep import Sweep
from .tables import additional, headlines, to_markdown
from .watch import MAX_VARIATION, UNWATCHED, Evidence, Verdict, judge, unsteady

SINGLE_STREAM, OFFLINE, CAMERA = SCENARIOS = ("single-stream", "offline", "camera")

FAMILY = "expertc.bench/"
FORMAT = FAMILY + "4"  # the number is the schema's version: schema.json
FOLDER = ReportFolder(FAMILY, "benchmark report")

MOST_DURATIONS = 100_000  # of a model in a report: about 1 MB, enough for any percentile that is given

TIMED = "one call of the session: the input is ready, the outputs are copied out, threads wait by spinning"
ORDER = "all models in one run of {:g} s, in turns in random order from seed {}, each equally often first"
RULE = "percentiles are nearest-rank and given only with enough samples (p90 {}, p99 {})"


@dataclass(frozen=True)
class Accuracy:
    """Share of right decisions on ``images`` labelled images of ``classes`` classes, with its Wilson 95 % interval."""

    top1: float
    low: float
    high: float
    images: int
    classes: int


@dataclass(frozen=True)
class Branch:
    """A branch of ``classes`` classes that was left out; ``predicted`` is its share of the full model's MACs."""

    name: str
    classes: int
    predicted: float

    def to_mapping(self, time: Ratio) -> dict[str, Any]:
        """Plain JSON types. ``time`` is that of the model without the branch over that of the full one.

        ``measured`` is the share of the full model's time that leaving the branch out saves, with its 95 % interval; it
        may be below zero by noise.
        """
        low, high = (None if bound is None else 1.0 - bound for bound in (time.high, time.low))
        return asdict(self) | {"measured": 1.0 - time.value, "low": low, "high": high}


@dataclass(frozen=True)
class Entry:
    """One model's result. ``ratio`` is its time per image over the first model's.

    ``turns[i]`` are the durations in seconds of the calls in block ``i``, equally many each but for streams.
    ``accuracy`` is None where nobody measured it, ``classes`` is where the model has no card, ``exits`` where it runs
    to its end.
    """

    name: str
    path: str
    sha256: str  # of the .onnx file
    shape: tuple[int, ...]  # of the input; the first axis is the batch
    summary: Summary  # seconds per call
    ratio: Ratio
    turns: tuple[tuple[float, ...], ...]
    accuracy: Accuracy | None = None
    classes: tuple[str, ...] | None = None
    exits: Exiting | None = None

    @property
    def images_per_second(self) -> float:
        """Images per second while the model works."""
        return self.shape[0] / self.summary.mean

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the median in seconds per call, from the blocks' medians; None with fewer than 6."""
        return median_bounds(list(map(median, self.turns))) if len(self.turns) >= MIN_BLOCKS else None

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types; times in seconds but for ``durations_ns``, turn after turn in the order of measuring.

        Of a very long run, only every ``turns_kept_one_in``-th turn is kept. ``calls_per_turn``
        is 1 where turns differ, as of streams.
        """
        lengths = set(map(len, self.turns))
        calls = max(lengths) if len(lengths) == 1 else 1
        step = -(-len(self.turns) * max(lengths) // MOST_DURATIONS) or 1
        return {
            **{field.name: getattr(self, field.name) for field in fields(self) if field.name != "turns"},
            "shape": list(self.shape),
            "classes": None if self.classes is None else list(self.classes),
            "summary": asdict(self.summary),
            "ratio": asdict(self.ratio),
            "accuracy": self.accuracy and asdict(self.accuracy),
            "exits": self.exits and self.exits.to_mapping(),
            "interval": self.interval and list(self.interval),
            "images_per_second": self.images_per_second,
            "calls_per_turn": calls,
            "turns_kept_one_in": step,
            "durations_ns": [round(duration * 1e9) for turn in self.turns[::step] for duration in turn],
        }


@dataclass(frozen=True)
class BenchReport:
    """A benchmark. ``seconds`` was asked for; ``environment`` and ``to_mapping()`` hold JSON types.

    Not ``complete`` if it was interrupted: then it holds what was measured until then. ``streams`` (of cameras),
    ``sweeps`` (of batches), ``phases`` (of predicting ``photos``) and ``branches`` (that were left out) are by model,
    where they were asked for.
    """

    scenario: str
    seconds: float
    seed: int
    warmup: Warmup
    entries: tuple[Entry, ...]
    environment: Mapping[str, Any]
    warnings: tuple[str, ...]
    complete: bool = True
    evidence: Evidence = UNWATCHED
    cold: Mapping[str, ColdStart] = field(default_factory=dict)
    harness: Harness | None = None
    streams: Mapping[str, Stream] = field(default_factory=dict)
    sweeps: Mapping[str, Sweep] = field(default_factory=dict)
    phases: Mapping[str, Phases] = field(default_factory=dict)
    photos: str = ""
    branches: Mapping[str, Branch] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Whether the numbers can be believed."""
        return judge(self.evidence, {entry.name: entry.summary.variation for entry in self.entries})

    @property
    def joules_per_image(self) -> dict[str, float]:
        """Energy of one image by the part that took it; {} where ``joules_missing`` says why."""
        if self.joules_missing:
            return {}
        entry = self.entries[0]
        stream = self.streams.get(entry.name)
        rate = entry.images_per_second if stream is None else stream.results_per_second
        return {energy.source: energy.watts / rate for energy in self.evidence.energy}

    @property
    def joules_missing(self) -> str | None:
        """Why there is no energy of one image, None if there is."""
        if not self.evidence.energy:
            return "no sensor of power was found"
        if self.photos:
            return "predicting photos is a part of what was watched: measure without --phases"
        if len(self.entries) > 1:
            return "the models take turns, so the power that was seen is that of all of them: measure one alone"
        return None

    def to_mapping(self) -> dict[str, Any]:
        """Everything as plain JSON types, as ``schema.json`` beside this file describes it."""
        warmup = asdict(self.warmup) | {"spread": self.warmup.spread if self.warmup.spread < 1e9 else None}
        branches = {e.name: self.branches[e.name].to_mapping(e.ratio) for e in self.entries if e.name in self.branches}
        return {
            "format": FORMAT,
            "complete": self.complete,
            "scenario": self.scenario,
            "seconds": self.seconds,
            "seed": self.seed,
            "timed": TIMED,
            "percentiles": RULE.format(samples_for(90), samples_for(99)),
            "environment": dict(self.environment),
            "warmup": warmup,
            "models": [entry.to_mapping() for entry in self.entries],
            "warnings": list(self.warnings),
            "verdict": {"name": self.verdict.name, "reasons": list(self.verdict.reasons)},
            "evidence": self.evidence.to_mapping()
            | {"joules_per_image": self.joules_per_image, "joules_missing": self.joules_missing},
            **({"harness": self.harness.to_mapping()} if self.harness else {}),
            **{
                key: {name: each.to_mapping() for name, each in found.items()}
                for key, found in (("cold", self.cold), ("streams", self.streams), ("sweeps", self.sweeps))
                if found
            },
            **({"branches": branches} if branches else {}),
            **({"phases": described(self.phases, self.photos)} if self.phases else {}),
        }

    def to_json(self) -> str:
        """``to_mapping()`` as text to read: indented, but a list of numbers on one line."""
        return to_json(self.to_mapping())

    @property
    def accuracies(self) -> dict[str, str]:
        """In words, by name, of the models whose accuracy is known."""
        found = ((entry.name, entry.accuracy) for entry in self.entries)
        return {
            name: f"{100 * one.top1:.1f} % top-1 ({100 * one.low:.1f} to {100 * one.high:.1f} %),"
            f" {one.images} photos of {one.classes} classes"
            for name, one in found
            if one is not None
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
                cell(entry.name),
                str(entry.shape[0]),
                str(times.n),
                *(milliseconds(value) for value in (times.median, times.p90, times.p99)),
                f"{entry.images_per_second:.1f}",
                between(entry.ratio),
            )
            rows.append(f"| {' | '.join(cells)} |")
        facts = [f"- {key}: {cell(_plain(value))}" for key, value in self.environment.items()]
        verdict, report = self.verdict, self.to_mapping()
        notes = [f"- {cell(line)}" for line in headlines(report)]
        notes += [f"- **verdict: {verdict.name}**", *(f"- {cell(reason)}" for reason in verdict.reasons)]
        notes += [f"- **{cell(warning)}**" for warning in self.warnings if warning not in verdict.reasons]
        notes += [f"- exits of {cell(line)}" for line in exit_lines(report)]
        notes += [f"- accuracy of {cell(name)}: {said}" for name, said in self.accuracies.items()]
        notes += [
            f"- timed: {TIMED}",
            f"- {RULE.format(samples_for(90), samples_for(99))}",
            f"- {ORDER.format(self.seconds, self.seed)}; noise from the same seed",
            *([f"- harness: {self.harness}"] if self.harness else ()),
            *([f"- energy per image: {self.joules_missing}"] if self.joules_missing else ()),
        ]
        more = [to_markdown(table, cell) for table in additional(report)]
        parts = [f"# Benchmark: {self.scenario}", "\n".join(rows), "\n".join(notes), *more]
        parts += ["## Machine", "\n".join(facts)]
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
    """Write report.json, report.md and report.html into the directory ``path``, as ``ReportFolder.write`` does."""
    return FOLDER.write(path, report.to_json(), report.to_markdown(), to_html(report.to_mapping()))


def refuse_place(path: Path) -> None:
    """Raise the ``FileSystemError`` of ``write_report`` before anything is measured in vain."""
    FOLDER.refuse_place(path)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "unknown" if value is None else str(value)
