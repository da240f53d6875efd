"""Which form of an expert is the fastest here: the candidates run in turns, and the choice is remembered.

Wide layers that a GPU thrives on can be slower on a processor (DESIGN, section 5), so nothing is assumed. The form that
the cut left is the one to beat, and it is beaten only beyond doubt: by a candidate whose whole interval is faster.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from .atomic import save
from .backends import Session, cpu
from .errors import FileSystemError
from .graph import Model, is_large, pack, to_proto, volume
from .graph.cost import cost
from .limits import has_loops, memory_for
from .measure import MIN_BLOCKS, Ratio, interleave
from .surgery.fuse import siblings

FEWEST_MACS = 10**7
"""A smaller expert answers in about a millisecond; finding its best form would take longer than it could ever save."""

FEWEST_SIBLINGS = 4
"""With fewer, a wide layer saves a few calls of operators and no more: two to three branches of the bundled model came
out even in every form."""

MOST_BYTES = 2**31
"""Of activations: what a graph takes whose shapes ask for more is not tried out without limits."""

SHORTEST, LONGEST, FINAL = 0.4, 4.0, 20.0
"""Seconds of a round, and of the last one, which decides: short for what is quick, long enough to be sure of what is
slow, and never so long that a build seems stuck."""

FINALISTS = 2  # that meet the plain form in the second round

FORMAT = 1


@dataclass(frozen=True)
class Contest:
    """The form that was ``chosen``, the times of all over that of the unfused expert, and whether it was remembered."""

    chosen: str
    ratios: Mapping[str, Ratio]
    remembered: bool

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        ratios = {name: asdict(ratio) for name, ratio in self.ratios.items()}
        return {"chosen": self.chosen, "time_over_unfused": ratios, "remembered": self.remembered}


def is_worth(model: Model) -> bool:
    """Whether an expert is large enough for a contest, and what it takes to run it is known beforehand and bearable."""
    if is_large(model):
        return False
    activations = 4 * sum(volume(model.shapes.get(t.name, ())) for node in model.nodes for t in node.outputs)
    return not has_loops(model.nodes) and activations <= MOST_BYTES and cost(model).macs >= FEWEST_MACS


def has_siblings(model: Model) -> bool:
    """Whether there are branches enough for wide layers to matter."""
    return max(map(len, siblings(model)), default=0) >= FEWEST_SIBLINGS


def contest(plain: str, candidates: Mapping[str, Model], *, threads: int | None = None) -> Contest:
    """Find the fastest of the ``candidates``, of which ``plain`` is the one to beat, on noise.

    All run in turns; the best then meet the plain form again. What was chosen once for a graph of this structure, on
    this processor, with this runtime and as many threads is remembered in the user's cache.
    """
    place = _cache(candidates[plain], threads)
    known = _remembered(place, candidates)
    if known is not None:
        return known
    with memory_for(candidates[plain]), ExitStack() as stack:
        sessions = {
            name: stack.enter_context(closing(cpu.open_session(pack(model, None), threads=threads)))
            for name, model in candidates.items()
        }
        ratios = _round(sessions, plain, LONGEST if len(sessions) > 2 else FINAL)
        rivals = sorted((name for name in sessions if name != plain and _may_win(ratios[name])), key=_by_time(ratios))
        if rivals and len(sessions) > 2:
            ratios = ratios | _round({name: sessions[name] for name in (plain, *rivals[:FINALISTS])}, plain, FINAL)
    winners = [name for name in rivals[:FINALISTS] if _wins(ratios[name])]
    found = Contest(min(winners, key=_by_time(ratios), default=plain), ratios, False)
    if all(ratios[name].high is not None for name in rivals[:FINALISTS]):  # else it is open who is faster
        with suppress(FileSystemError):  # a cache that cannot be written is none
            _remember(place, found)
    return found


def _round(sessions: Mapping[str, Session], plain: str, longest: float) -> dict[str, Ratio]:
    calls = {name: cpu.on_noise(session) for name, session in sessions.items()}
    for call in calls.values():
        call()
    once = sum(map(_seconds, calls.values()))
    seconds = min(max(SHORTEST, 2 * MIN_BLOCKS * once), longest)
    samples = interleave(calls, seconds=seconds, warmup=seconds / 4)
    return {name: samples.ratio(name, plain) for name in calls}


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _may_win(ratio: Ratio) -> bool:
    return ratio.low is None or ratio.low < 1


def _wins(ratio: Ratio) -> bool:
    return ratio.high is not None and ratio.high < 1


def _by_time(ratios: Mapping[str, Ratio]) -> Any:
    return lambda name: ratios[name].value


# -- what is remembered ------------------------------------------------------------------------------------------------


def _cache(model: Model, threads: int | None) -> Path:
    """Where the choice for this graph, its weights aside, and this machine is kept."""
    about = cpu.describe()
    facts = [FORMAT, about["version"], about["processor"], threads or about["cores"]]
    graph = to_proto(model.with_metadata({}), weights=False).SerializeToString(deterministic=True)
    key = sha256(json.dumps(facts).encode() + graph).hexdigest()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "expertc" / "contests" / f"{key}.json"


def _remembered(place: Path, candidates: Mapping[str, Model]) -> Contest | None:
    """What is written there, None if it is nothing or makes no sense."""
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        ratios = {str(name): Ratio(**ratio) for name, ratio in found["time_over_unfused"].items()}
        return Contest(found["chosen"], ratios, True) if found["chosen"] in candidates else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _remember(place: Path, found: Contest) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise FileSystemError(f"'{place.parent}' cannot be made.", "Set XDG_CACHE_HOME.") from error
    save(place, json.dumps(found.to_mapping(), indent=1).encode(), force=True)
