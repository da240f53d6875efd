"""The first answer: what a device waits for after it was switched on, in a process of its own.

Starting the interpreter, importing the runtime, opening the model (which the runtime optimises then) and the first
image are one-time costs that a warm loop never shows; the process's peak memory is what the device must have.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import ModelError
from ..text import shown

LIMIT = 600  # seconds after which a start counts as failed

# Linux's getrusage also remembers the process that started this one; the kernel's VmHWM does not.
_CHILD = """
import json, sys, time
start = time.perf_counter()
import numpy as np
from pathlib import Path
from expertc.backends.cpu import open_session
imported = time.perf_counter()
def peak_memory():
    if sys.platform == "linux":
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
before = peak_memory()
session = open_session(Path(sys.argv[1]), threads=int(sys.argv[2]) or None)
opened = time.perf_counter()
x = np.zeros(json.loads(sys.argv[3]), np.float32)
marks = [time.perf_counter()]
for _ in range(2):
    session.run(x)
    marks.append(time.perf_counter())
print(json.dumps({
    "imports": imported - start, "load": opened - imported, "first": marks[1] - marks[0], "second": marks[2] - marks[1],
    "peak_bytes": peak_memory(), "runtime_bytes": before,
}))
"""


@dataclass(frozen=True)
class ColdStart:
    """Seconds for ``imports`` of the runtime, ``load`` of the model, the ``first`` call and the ``second``.

    ``peak_bytes`` is the largest resident memory of the process, ``runtime_bytes`` what it had before the model.
    """

    imports: float
    load: float
    first: float
    second: float
    peak_bytes: int
    runtime_bytes: int

    @property
    def until_first_answer(self) -> float:
        """Seconds from the interpreter's start of work to the first result."""
        return self.imports + self.load + self.first

    def to_mapping(self) -> dict[str, float]:
        """Plain JSON types."""
        return asdict(self) | {"until_first_answer": self.until_first_answer}


def cold_start(model: Path, shape: Sequence[int], *, threads: int | None = None) -> ColdStart:
    """Start a process that opens the ONNX file ``model`` and runs it twice on zeros of ``shape``, float32.

    Raises ``ModelError`` if the process fails.
    """
    command = [sys.executable, "-c", _CHILD, str(model), str(threads or 0), json.dumps(list(shape))]
    try:
        done = subprocess.run(  # noqa: S603 (an argument list that starts with our own interpreter)
            command, capture_output=True, text=True, timeout=LIMIT, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        last = str(error.stderr or "").strip().rpartition("\n")[2]
        raise ModelError(
            f"{shown(str(model))} does not start in a process of its own ({shown(last)}).",
            "Run expertc doctor; there may be too little memory.",
        ) from error
    return ColdStart(**json.loads(done.stdout))
