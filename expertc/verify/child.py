"""The process that runs strangers' graphs: ``python -m expertc.verify.child FOLDER``.

One byte on standard input says that the folder holds ``job.json`` and, if inputs were given, ``inputs.npy``; another,
that ``cut.onnx`` and ``final.onnx`` are there too, ``lowered.onnx`` if the expert has lower precision, and the files
that are shipped if its exits are decided in them or between them. The outcome is written beside them, and the golden
record of an expert that passed. The other end of standard input is held by the parent: the process ends when that does,
whichever way, and then takes the folder with it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import Session
from ..backends.cpu import describe, open_session
from ..backends.staged import StagedSession
from ..bundle import GOLDEN
from ..card import CARD_KEY, Card
from ..controls import Control
from ..errors import ExpertcError
from ..exits import MAX_EXITS, Exits
from ..graph import DATA_SUFFIX, File, Model, read_model
from ..limits import Limits
from ..preprocessing import Preprocess
from ..surgery.exits import flatten
from . import golden
from .exits import INPUTS, Driven, forced
from .inputs import Inputs, prepare
from .ladder import climb
from .lowered import Lowered
from .process import STAGE
from .roads import roads


def main(folder: Path) -> None:
    """Run the job in ``folder`` and write ``outcome.json``: a certificate, or the error there was."""
    try:
        outcome: dict[str, Any] = {"certificate": _run(folder), "runtime": describe()["version"]}
    except ExpertcError as error:
        outcome = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    except MemoryError:
        outcome = {"error": MemoryError.__name__}
    (folder / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")


def _run(folder: Path) -> dict[str, Any]:
    _await_go(folder)
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    card = Card.from_json(job["card"])
    full = _plain(read_model(Path(job["full"])))
    given = folder / "inputs.npy"
    values = np.load(given, mmap_mode="r", allow_pickle=False) if given.exists() else None
    shape = full.inputs.get(card.input, ())
    baked = None if job["baked"] is None else Preprocess.from_mapping(job["baked"])
    inputs = prepare(values, card.preprocess, shape, images=job["images"], seed=job["seed"], baked=baked)
    _await_go(folder)
    threading.Thread(target=_await_go, args=(folder,), daemon=True).start()  # which nothing but the end can follow

    lowered, driven = _lowered(folder), _driven(folder)

    def limit(batch: int) -> None:
        given, (count, *sides) = job["limits"], inputs.values.shape
        runs = count * (2 if card.controls else 1)  # at most: see control_settings
        runs *= 1 if lowered is None else 2  # twice more, one of them with every tensor kept
        runs *= len(roads(card, job["indices"])) or 1
        runs += 0 if driven is None or card.exits is None else INPUTS * 2 * len(forced(card.exits))
        runs += golden.INPUTS
        (Limits.of(full, shape, (runs, *sides), batch) if given is None else Limits(**given)).impose()

    final = _given(folder / "final.onnx")
    certificate = climb(
        open_session,
        full,
        _given(folder / "cut.onnx"),
        final,
        card=card,
        indices=job["indices"],
        inputs=inputs,
        level=job["level"],
        embedded=job["embedded"],
        lowered=lowered,
        driven=driven,
        open_driven=_open_driven,
        scratch=folder,
        before_running=limit,
    )
    if certificate.failure is None:
        plain = (final if lowered is None else lowered.file,)
        _record(folder / GOLDEN, plain if driven is None else driven.files, inputs)
    return certificate.to_mapping()


def _plain(full: Model) -> Model:
    """The full model, taken apart if its exits are decided in it."""
    text = full.metadata.get(CARD_KEY)
    return full if text is None else flatten(full, Card.from_json(text))[0]


def _lowered(folder: Path) -> Lowered | None:
    """The expert in lower precision, if there is one."""
    path = folder / "lowered.json"
    if not path.exists():
        return None
    return Lowered(_given(folder / "lowered.onnx"), **json.loads(path.read_text(encoding="utf-8")))


def _driven(folder: Path) -> Driven | None:
    """The expert as it is shipped, if its exits are decided there."""
    places = (folder / STAGE.format(number) for number in range(1, MAX_EXITS + 1))
    files = tuple(_given(path) for path in takewhile(_is_given, places))
    return Driven(files) if files else None


def _open_driven(files: Sequence[File], exits: Exits, threads: int | None = None) -> Session:
    if len(files) == 1:
        return open_session(files[0], threads=threads)
    free = {} if exits.frozen else exits.settings
    controls = tuple(Control(name, values, False) for name, values in free.items())
    stages = [open_session(file, threads=threads, stage=number > 0) for number, file in enumerate(files)]
    return StagedSession(stages, exits, controls)


def _record(place: Path, files: Sequence[File], inputs: Inputs) -> None:
    """Write what the expert that is shipped makes of the first inputs: on one thread, which adds up in one order."""
    exits = Card.from_json(read_model(files[0]).metadata[CARD_KEY]).exits if len(files) > 1 else None
    with closing(open_session(files[0], threads=1) if exits is None else _open_driven(files, exits, 1)) as session:
        if data := golden.record(session, inputs.fed):
            place.write_bytes(data)


def _is_given(path: Path) -> bool:
    return path.exists() or path.with_suffix(".path").exists()


def _given(path: Path) -> File:
    """An expert: bytes, or if its weights lie beside it, the file, which may be anywhere."""
    elsewhere = path.with_suffix(".path")
    if elsewhere.exists():
        return Path(elsewhere.read_text(encoding="utf-8"))
    return path if path.with_name(path.name + DATA_SUFFIX).exists() else path.read_bytes()


def _await_go(folder: Path) -> None:
    if not os.read(sys.stdin.fileno(), 1):  # unbuffered: a lock held at the interpreter's end would abort it
        # The parent was killed, else it would have ended this process: nobody else is left to clear up.
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # the parent waits for the end, and taking the libraries down again would take a tenth of a second
