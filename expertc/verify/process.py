"""Running the ladder in a child process, because running a graph is running a stranger's program."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..bundle import GOLDEN
from ..card import Card
from ..errors import CardError, DataError, ModelError, OutOfMemoryError, UnsupportedError, VerificationError
from ..graph import File, Model, pack
from ..preprocessing import Preprocess
from ..text import clean_text
from .certificate import Certificate
from .exits import Driven
from .lowered import STEP, Lowered
from .standby import Standby, standby, writing

if TYPE_CHECKING:
    from ..limits import Limits

_FORWARDED = {kind.__name__: kind for kind in (ModelError, CardError, DataError, UnsupportedError)}
_SHORT = (MemoryError.__name__, OutOfMemoryError.__name__)
_TOO_COARSE = "Calibrate on more photos like those it will see, allow a larger drop, or build it in single precision."
STAGE = "driven-{}.onnx"
"""Files of an expert as it is shipped, from 1, in the folder of the child; ``GOLDEN`` is there what it recorded."""

_SMALLER = "Verify on fewer images, or on a machine with more memory."


class Start(Protocol):
    """Lets the child verify an expert, once."""

    def __call__(
        self, cut: Model | bytes, final: File, lowered: Lowered | None = None, driven: Driven | None = None
    ) -> Callable[[], Certificate]:
        """``cut`` as it was cut, before any other pass, ``final`` after all passes but that to lower precision, and
        what is shipped if that is another. Returns what waits for the certificate."""


def verify(
    full: File,
    cut: Model | bytes,
    final: File,
    lowered: Lowered | None = None,
    driven: Driven | None = None,
    **options: Any,
) -> Certificate:
    """Verify an expert; the models are those of ``Start``.

    The options, what is returned and what is raised are those of ``verifier``.
    """
    with verifier(full, **options) as start:
        return start(cut, final, lowered, driven)()


@contextmanager
def verifier(
    full: File,
    *,
    card_full: Card,
    indices: Sequence[int],
    level: str = "fast",
    inputs: np.ndarray[Any, Any] | None = None,
    images: bool = False,
    seed: int = 0,
    embedded: bool = False,
    baked: Preprocess | None = None,
    limits: Limits | None = None,
    standing: Standby | None = None,
) -> Iterator[Start]:
    """Let a child process read the full model while the caller still cuts it; yields what starts the verification.

    That lets the child run ``ladder.climb`` on ONNX Runtime, and returns what waits for the certificate.

    Args:
        full: the full model, its file or its bytes.
        card_full: the full model's card.
        indices: the selected classes, ascending.
        level: "fast" or "full", see ``Certificate``.
        inputs: preprocessed inputs ``[n, ...]``; noise if there are none, or in addition if they are fewer than 8.
        images: whether ``inputs`` are photos, so that decisions on them count.
        seed: of the noise.
        embedded: whether the final model has the defaults of its controls for constants instead of inputs.
        baked: the preprocessing, if the final model has it in it: then ``inputs`` are bytes, ``[n, H, W, 3]``, RGB.
        limits: memory and time for the child; by default from the cost of the full model.
        standing: the child, if one was started earlier; else one is started and ended here.

    The certificate's verdict is "verified" or "uninformative". Waiting for it raises ``VerificationError`` if a step
    fails or the child does not survive it, ``ModelError`` if the full model does not run, or not within the limits,
    ``UnsupportedError`` if this runtime does not know its operators, ``DataError`` if the inputs do not fit it; the
    start raises ``FileSystemError`` if there is no room for temporary files.
    """
    with ExitStack() as stack:
        child = stack.enter_context(standby()) if standing is None else standing
        folder = child.folder
        with writing():
            job = {
                "full": str(_store(folder, full)),
                "card": card_full.to_json(),
                "indices": [int(index) for index in indices],
                "level": level,
                "images": images,
                "seed": seed,
                "embedded": embedded,
                "baked": None if baked is None else baked.to_mapping(),
                "limits": None if limits is None else asdict(limits),
            }
            if inputs is not None:
                np.save(folder / "inputs.npy", inputs, allow_pickle=False)
            (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        child.go()

        def start(
            cut: Model | bytes, final: File, lowered: Lowered | None = None, driven: Driven | None = None
        ) -> Callable[[], Certificate]:
            with writing():
                packed = pack(cut, folder / "cut.onnx") if isinstance(cut, Model) else cut
                if isinstance(packed, bytes):
                    (folder / "cut.onnx").write_bytes(packed)
                _hand_over(final, folder / "final.onnx")
                if lowered is not None:
                    _hand_over(lowered.file, folder / "lowered.onnx")
                    about = {"recipe": dict(lowered.recipe), "max_drop": lowered.max_drop}
                    (folder / "lowered.json").write_text(json.dumps(about), encoding="utf-8")
                for number, file in enumerate(() if driven is None else driven.files, 1):
                    _hand_over(file, folder / STAGE.format(number))
            child.go()
            return lambda: _certificate(_outcome(folder, child.process.wait()), folder / GOLDEN)

        yield start


def _hand_over(model: File, path: Path) -> None:
    """Write a model to ``path``, or where it lies already."""
    if isinstance(model, bytes):
        path.write_bytes(model)
    else:
        path.with_suffix(".path").write_text(str(model.absolute()), encoding="utf-8")


def _store(folder: Path, model: File) -> Path:
    if isinstance(model, Path):
        return model.absolute()
    path = folder / "full.onnx"
    path.write_bytes(model)
    return path


def _outcome(folder: Path, status: int) -> dict[str, Any]:
    """What the child wrote. Raises ``VerificationError`` if it did not live to write it."""
    if status == 0:
        found: dict[str, Any] = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
        return found
    if status == -signal.SIGALRM:
        raise ModelError("Running the model takes longer than one of this size should.", "Verify on fewer images.")
    if status < 0:
        name = signal.Signals(-status).name
        raise VerificationError(f"Verification was killed by {name}, most likely for want of memory.", _SMALLER)
    complaint = (folder / "complaint.txt").read_text(encoding="utf-8", errors="replace")
    last = clean_text(complaint.strip().rpartition("\n")[2]) or f"exit status {status}"
    raise VerificationError(f"Verification broke off: {last}.", "This is a bug; please report it.")


def _certificate(outcome: dict[str, Any], record: Path | None = None) -> Certificate:
    kind = outcome.get("error")
    if kind in _SHORT:
        raise ModelError("Running the model takes more memory than one of this size should.", _SMALLER)
    if kind is not None:
        raise _FORWARDED.get(kind, VerificationError)(outcome["message"], outcome["hint"])
    certificate = Certificate.from_mapping(outcome["certificate"])
    failure = certificate.failure
    if failure is not None:
        hint = _TOO_COARSE if failure.name == STEP else "Do not use this expert; please report it."
        raise VerificationError(f"Verification failed ({failure.name}): {failure.detail}", hint)
    golden = record.read_bytes() if record is not None and record.exists() else b""
    return replace(certificate, golden=golden, runtime=outcome["runtime"])
