"""The process in which a release is tried: a crash of the compiler, or of the graph, is an answer then.

``python -m expertc.deploy.trial`` speaks as the agent does; its one verb is ``try``. It ends when its input does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..bundle import Bundle, open_bundle
from ..engines import compile_bundle
from ..errors import DeviceMismatchError, ExpertcError, UnsupportedError
from ..measure import interleave
from ..runtime import Expert
from ..verify.agreement import check_bundle
from . import protocol
from .bootstrap import listen

if TYPE_CHECKING:
    from .bootstrap import Say

LONGEST = 60.0
"""Seconds that a bench may take to reach the p90 that it is asked for; an image may take a second then."""

LEAST, WARM_UP = 0.25, 1.0  # seconds of a second try, and at most


def answer(line: bytes, say: Say) -> dict[str, Any]:
    """The message that ends the answer to a request."""
    request = protocol.read(line)
    try:
        return protocol.done(attempt(Path(request["path"]), request, say))
    except ExpertcError as error:
        return protocol.failed(error)


def attempt(path: Path, wanted: dict[str, Any], say: Say) -> dict[str, Any]:
    """Compile, verify and bench the release at ``path``: ``why`` it is not good, or None, and what was found."""
    bundle = open_bundle(path)
    found: dict[str, Any] = {"why": None, "compiled": None, "verified": None, "bench": None, "notes": []}

    def told(progress: Any) -> None:
        expected = progress.expected
        say(f"compile: {progress.phase}", min(progress.elapsed / expected, 1.0) if expected else None)

    if bundle.backend == "tensorrt":
        say("compile")
        found["compiled"] = _compiled(bundle, told)
    if wanted["verify"]:
        say("verify")
        agreement = check_bundle(bundle, threads=wanted["threads"], told=told)
        found["verified"] = agreement.to_mapping()
        if not agreement.passed:
            return {**found, "why": f"It does not do here what it did where it was built. {agreement.detail}"}
    with Expert.open(bundle, threads=wanted["threads"], told=told) as expert:
        found["notes"] = list(expert.notices)
        say("bench")
        found["bench"], most = _bench(expert, wanted["seconds"], wanted["max_p90_ms"]), wanted["max_p90_ms"]
    p90 = found["bench"]["p90_ms"]
    if most is not None and p90 is None:
        found["why"] = f"It is too slow to find its p90: {found['bench']['count']} images in {LONGEST:g} s."
    elif most is not None and p90 > most:
        found["why"] = f"Its p90 is {p90:.3g} ms, and {most:g} ms are allowed."
    return found


def _compiled(bundle: Bundle, told: Any) -> dict[str, Any] | None:
    """What came of compiling, None where this device has no TensorRT or is another one: it runs on the processor."""
    try:
        ready = compile_bundle(bundle, told=told)
    except (UnsupportedError, DeviceMismatchError):
        return None
    here, record = ready.here.identity, ready.kept.record
    return {
        "device": here.device, "sm": here.sm, "tensorrt": here.tensorrt, "fresh": ready.fresh,
        "seconds": record["seconds"], "bytes": record["plan"]["bytes"], "notes": [*ready.notes, *record["notes"]],
    }  # fmt: skip


def _bench(expert: Expert, seconds: float, most: float | None) -> dict[str, Any]:
    """Times of a call of the model, in ms; long enough for a p90 if one is asked for, and that takes no minute."""
    session = expert.session
    shape = [size or 1 for size in session.input_shape[:1]] + [size or 224 for size in session.input_shape[1:]]
    x = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    while True:
        summary = interleave({"expert": lambda: expert.scores(x)}, seconds=seconds, warmup=WARM_UP).summary("expert")
        if summary.p90 is not None or most is None or seconds >= LONGEST:
            break
        seconds = min(max(4 * seconds, LEAST), LONGEST)
    times = {"p50_ms": summary.median, "p90_ms": summary.p90, "p99_ms": summary.p99}
    told = {name: None if value is None else round(1e3 * value, 4) for name, value in times.items()}
    return {**told, "count": summary.n, "images": shape[0]}


if __name__ == "__main__":
    sys.exit(listen(__version__, answer))
