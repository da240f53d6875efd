"""How much memory and time running a graph may take: it is running a stranger's program."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

from .errors import OutOfMemoryError
from .graph import Model, Node, Shape, volume
from .graph.cost import cost
from .graph.nodes import subgraphs

_RUNS = 3  # the reference, the cut, the final model
_BASE_BYTES = 4 * 2**30  # address space of Python and ONNX Runtime, most of it never touched
_CORE_BYTES = 2**27  # address space of one more thread
_BASE_SECONDS = 120.0
_MACS_PER_SECOND = 2e8  # what a slow core manages at least, unoptimised
_ELEMENTS_PER_SECOND = 1e7
_BYTES_PER_SECOND = 1e7
_FREE = 224  # the length of an axis that is left open


@dataclass(frozen=True)
class Limits:
    """Address space in bytes, wall-clock seconds for everything that runs a model."""

    memory_bytes: int
    seconds: float

    @classmethod
    def of(cls, model: Model, declared: Shape, inputs: tuple[int, ...], batch: int) -> Limits:
        """Generous limits for running ``model`` and its experts on ``inputs`` (their shape) ``batch`` at a time.

        ``declared`` is the shape of its image input.

        Counted are weights, activations of known shape, and multiply-accumulates. What a graph allocates beyond its
        declared shapes is what the limits are there to stop; more than the machine's memory is never allowed for it.
        """
        spent = cost(model)
        activations = sum(volume(model.shapes.get(t.name, ())) for node in model.nodes for t in node.outputs)
        free = prod(size for dim, size in zip(declared[1:], inputs[1:], strict=False) if not isinstance(dim, int))
        wanted = 8 * spent.weight_bytes + 16 * activations * free * batch
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory = _BASE_BYTES + _CORE_BYTES * (os.cpu_count() or 1) + min(wanted, physical)
        work = spent.macs / _MACS_PER_SECOND + activations / _ELEMENTS_PER_SECOND
        seconds = _BASE_SECONDS + _RUNS * inputs[0] * free * work + spent.weight_bytes / _BYTES_PER_SECOND
        return cls(int(memory), float(seconds))

    def impose(self) -> None:
        """Hold this process to the limits: an allocation beyond them fails, and SIGALRM ends it when the time is up.

        Address space is only limited on Linux; elsewhere the call does not work or counts something else.
        """
        if sys.platform == "linux":
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            wanted = self.memory_bytes if hard == resource.RLIM_INFINITY else min(self.memory_bytes, hard)
            resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)


def has_loops(nodes: Iterable[Node]) -> bool:
    """Whether anything is repeated, so that no cost model knows how long the nodes run."""
    return any(
        node.op in ("Loop", "Scan") or any(has_loops(graph.nodes) for graph in subgraphs(node)) for node in nodes
    )


_turn = threading.RLock()  # the limit is the whole process's: threads that set one take turns


@contextmanager
def memory_for(model: Model) -> Iterator[None]:
    """Hold this process, while it runs ``model`` or its forms, to so much more memory than it has now as ``Limits.of``.

    For runs that need no process of their own as their time is known. Beyond the limit an allocation fails, which is
    raised as ``OutOfMemoryError``. Only on Linux; elsewhere nothing is limited.
    """
    shape = next(iter(model.inputs.values()), ())
    images = shape[0] if shape and isinstance(shape[0], int) else 1
    sizes = (images, *(dim if isinstance(dim, int) else _FREE for dim in shape[1:]))
    with _turn:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if sys.platform == "linux":
            now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
            wanted = now + Limits.of(model, shape, sizes, images).memory_bytes
            limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
            resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *limits]), hard))
        try:
            yield
        except MemoryError as error:
            raise OutOfMemoryError(
                "Running the model takes more memory than one of this size should.", "Look at what it computes."
            ) from error
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
