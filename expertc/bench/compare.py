"""Two reports of the same benchmark, before and after something was changed: what has become slower?

Each model is compared with itself, by the medians of its blocks; as a camera by what its user sees: the share of frames
that are missed, and the age of the results. The bootstrap interval tells what the noise within the
runs can do; what it cannot tell is how two runs on one machine differ as a whole, which is what the tolerance is for.
Runs that are known to be doubtful are compared on request only: clocks that were held back or other processes make a
model slower by themselves, and a watch that failed has not seen whether they did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from ..errors import InvalidArtifactError, UsageError
from ..intervals import mean_difference, median_ratio
from ..measure import MIN_BLOCKS
from ..text import clean_text, parse_json, read_text, shown
from .exits import Exiting, read_exiting
from .report import FAMILY, FORMAT
from .watch import MAX_VARIATION, VERDICTS, Verdict
from .watch.verdict import NOISY, THROTTLED

TOLERANCE = 2 * MAX_VARIATION  # each of two runs may vary by that much and still count as steady

# What makes it another device, or another question.
SAME = (
    "cpu", "cores", "threads", "threads_between_operators", "threads_wait", "governor", "power mode", "clocks", "timed",
    "frames per second",
)  # fmt: skip
NOTED = (
    "runtime",
    "system",
    "python",
    "expertc",
    "source_sha256",
    "numpy",
)  # may be what was changed, so it is only said

SLOWER, FASTER, UNCHANGED = "slower", "faster", "same"

LONGEST = 10**15  # nanoseconds of a call: eleven days


@dataclass(frozen=True)
class Missed:
    """Shares of a camera's frames without a result in time, and how much more the new one is, with its interval."""

    old: float
    new: float
    rise: float
    low: float
    high: float


@dataclass(frozen=True)
class Change:
    """One model in both reports: medians in seconds, and the ratio of new to old with its 95 % interval.

    The medians are of a call; of a camera, where ``missed`` is known, of the ages of its results.
    """

    name: str
    old: float
    new: float
    ratio: float
    low: float
    high: float
    verdict: str
    missed: Missed | None = None


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found; ``notes`` are sentences about what else differs."""

    changes: tuple[Change, ...]
    tolerance: float
    notes: tuple[str, ...]
    verdicts: tuple[str, str]  # of the old and of the new run

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The models that have become slower by more than the tolerance, and by more than noise explains."""
        return tuple(change for change in self.changes if change.verdict == SLOWER)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "tolerance": self.tolerance,
            "regression": bool(self.regressions),
            "verdicts": dict(zip(("old", "new"), self.verdicts, strict=True)),
            "models": [asdict(change) for change in self.changes],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class _Timed:
    shape: tuple[int, ...]
    sha256: str
    blocks: tuple[float, ...]  # median of each, in seconds per call; of a camera, in seconds of age
    missed: tuple[float, ...]  # by a camera: the share of each block
    classes: frozenset[str] | None
    exits: Exiting | None  # None also of one that runs to its end
    task: str | None  # what its accuracy was measured on, if it was


@dataclass(frozen=True)
class _Recorded:
    scenario: str
    environment: Mapping[str, Any]
    complete: bool
    models: Mapping[str, _Timed]
    verdict: Verdict
    died: bool  # the watch over the run
    warnings: tuple[str, ...]

    @property
    def doubtful(self) -> bool:
        """Whether something is known to be wrong, as opposed to a machine that has no sensor to tell."""
        return self.died or self.verdict.name in (THROTTLED, NOISY)


def compare(old: str | Path, new: str | Path, *, tolerance: float = TOLERANCE, allow_noisy: bool = False) -> Comparison:
    """Compare two ``report.json`` (or the folders that hold them), model by model, by name.

    A model is ``slower`` where the ratio of its medians is above 1 + ``tolerance`` and the 95 % interval of that ratio
    is above 1; ``faster`` is the same with 1 / (1 + ``tolerance``). As a camera it is also slower where the share of
    missed frames has grown by more than ``tolerance``, and the interval of that is above 0.

    Raises ``InvalidArtifactError`` for a file that is not a report, and ``UsageError`` where the two are of different
    tasks: another scenario, input, frame rate, processor, number of threads, set of classes or of photos, other early
    exits, no model in common; where a run was throttled, noisy or not watched to its end, unless ``allow_noisy``; or if
    a model was measured in fewer than 6 blocks.
    """
    if not 0 <= tolerance < 10:
        raise UsageError(f"A tolerance of {tolerance:g} makes no sense.", "Give a share such as 0.05.")
    before, after = _read(old), _read(new)
    names = [name for name in before.models if name in after.models]
    _refuse_different(before, after, names)
    if not allow_noisy:
        _refuse_doubtful(before, after)
    changes = tuple(_change(name, before.models[name], after.models[name], tolerance) for name in names)
    verdicts = before.verdict.name, after.verdict.name
    return Comparison(changes, tolerance, tuple(_notes(before, after)), verdicts)


def _change(name: str, before: _Timed, after: _Timed, tolerance: float) -> Change:
    fewest = min(len(before.blocks), len(after.blocks))
    if fewest < MIN_BLOCKS:
        raise UsageError(
            f"{shown(name)} was measured in {fewest} blocks only; an interval needs {MIN_BLOCKS}.",
            "Measure for longer, both times.",
        )
    ratio, low, high = median_ratio(after.blocks, before.blocks, paired=False)
    slower, faster = ratio > 1 + tolerance and low > 1, ratio < 1 / (1 + tolerance) and high < 1
    missed = None
    if before.missed and after.missed:
        missed = Missed(fmean(before.missed), fmean(after.missed), *mean_difference(after.missed, before.missed))
        slower |= missed.rise > tolerance and missed.low > 0
        faster |= missed.rise < -tolerance and missed.high < 0
    verdict = SLOWER if slower else FASTER if faster else UNCHANGED
    return Change(name, median(before.blocks), median(after.blocks), ratio, low, high, verdict, missed)


def _refuse_different(before: _Recorded, after: _Recorded, names: list[str]) -> None:
    problem, hint = None, "Compare two runs of the same benchmark on one device."
    if before.scenario != after.scenario:
        problem = f"one is {shown(before.scenario)}, the other {shown(after.scenario)}"
    for key in SAME:
        one, other = (recorded.environment.get(key) for recorded in (before, after))
        if one != other and problem is None:
            problem = f"{key} was {shown(one)}, then {shown(other)}"
    if not names and problem is None:
        problem = "they have no model in common"
    for name in names:
        one, other = before.models[name].shape, after.models[name].shape
        if one != other and problem is None:
            problem = f"the input of {shown(name)} was {one}, then {other}"
            if one[1:] == other[1:]:
                hint = f"Measure both with one batch: --scenario offline --batch-size {one[0]}."
        had, has = before.models[name].classes, after.models[name].classes
        if had is not None and has is not None and had != has and problem is None:
            odd = min(had ^ has)
            problem = f"{shown(name)} had {len(had)} classes, then {len(has)}; {shown(odd)} is in one of them only"
        left, leaves = before.models[name].exits, after.models[name].exits
        if left is not None and leaves is not None and left != leaves and problem is None:
            problem = f"of {shown(name)}, {left}, then {leaves}"
            hint = "Measure both with the same --exit, or the same --threshold, --tolerance and --seed."
        seen, then = before.models[name].task, after.models[name].task
        if None not in (seen, then) and seen != then and problem is None:
            problem = f"the accuracy of {shown(name)} was that on {seen}, then on {then}"
    if problem is not None:
        raise UsageError(f"The reports are of different tasks: {problem}.", hint)


def _refuse_doubtful(before: _Recorded, after: _Recorded) -> None:
    for recorded, when in ((before, "old"), (after, "new")):
        if recorded.doubtful:
            why = next(iter(recorded.verdict.reasons), "No reason is given.")
            raise UsageError(
                f"The {when} run is {recorded.verdict.name}: {why}",
                "Measure again on a quiet machine, or compare all the same with --allow-noisy.",
            )


def _notes(before: _Recorded, after: _Recorded) -> list[str]:
    found = []
    for key in NOTED:
        one, other = (recorded.environment.get(key) for recorded in (before, after))
        if one != other:
            found.append(f"{key}: {shown(one)}, then {shown(other)}")
    for recorded, other, when in ((before, after, "old"), (after, before, "new")):
        if not recorded.complete:
            found.append(f"the {when} run was interrupted")
        said = dict.fromkeys((*recorded.verdict.reasons, *recorded.warnings))  # without those that are both
        found += [f"the {when} run: {sentence}" for sentence in said]
        found += [f"only in the {when} report: {shown(name)}" for name in recorded.models if name not in other.models]
    same = [name for name, timed in before.models.items() if name in after.models]
    unchanged = [name for name in same if before.models[name].sha256 == after.models[name].sha256]
    return found + [f"{shown(name)} is the same file in both: it is not the model that changed" for name in unchanged]


def _read(path: str | Path) -> _Recorded:
    file = Path(path) / "report.json" if Path(path).is_dir() else Path(path)
    what = f"The report {shown(file)}"
    report = parse_json(read_text(file, "The report", InvalidArtifactError), what, InvalidArtifactError)
    form = report.get("format")
    if isinstance(form, str) and form.startswith(FAMILY) and form != FORMAT:
        raise InvalidArtifactError(f"{what} is of the format {shown(form)}, not '{FORMAT}'.", "Measure again.")
    try:
        if form != FORMAT:
            raise ValueError("no such format")
        streams = report.get("streams") or {}
        models = {clean_text(one["name"]): _timed(one, streams.get(one["name"])) for one in report["models"]}
        if not models or len(models) != len(report["models"]):
            raise ValueError("names must differ")
        warnings = tuple(map(clean_text, report["warnings"]))
        environment, complete = dict(report["environment"]), report["complete"] is True
        evidence, verdict = dict(report["evidence"]), report["verdict"]
        environment |= {
            "power mode": evidence.get("power_mode"),
            "clocks": ", ".join(evidence.get("locked", ())) or "not locked",
            "timed": report["timed"],
            "frames per second": ", ".join({f"{one['rate']:g}": 0 for one in streams.values()}) or None,
        }
        if verdict["name"] not in VERDICTS:
            raise ValueError("no such verdict")
        judged = Verdict(verdict["name"], tuple(map(clean_text, verdict["reasons"])))
        died = evidence.get("died") is not None
        return _Recorded(str(report["scenario"]), environment, complete, models, judged, died, warnings)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidArtifactError(
            f"{what} is not a benchmark report.", "Take the report.json that expertc bench --report wrote."
        ) from error


def _timed(model: Mapping[str, Any], stream: Mapping[str, Any] | None) -> _Timed:
    times, calls, shape = model["durations_ns"], model["calls_per_turn"], model["shape"]
    if not all(type(number) is int and 0 < number < LONGEST for number in (calls, *shape, *times)):
        raise ValueError("not numbers")
    if not times or len(times) % calls:
        raise ValueError("turns must be whole")
    blocks = tuple(median(times[start : start + calls]) / 1e9 for start in range(0, len(times), calls))
    missed: tuple[float, ...] = ()
    if stream is not None:
        blocks, missed = (tuple(map(float, stream["slices"][key])) for key in ("age", "missed"))
        if not all(0 < age < LONGEST / 1e9 for age in blocks) or not all(0 <= share <= 1 for share in missed):
            raise ValueError("no ages or shares")
        if len(blocks) != len(missed):
            raise ValueError("slices must be whole")
    judged, classes = model["accuracy"], model["classes"]
    task = None if judged is None else f"{int(judged['images'])} photos of {int(judged['classes'])} classes"
    known = None if classes is None else frozenset(map(clean_text, classes))
    exits = read_exiting(model["exits"])
    return _Timed(tuple(shape), str(model["sha256"]), blocks, missed, known, exits, task)
