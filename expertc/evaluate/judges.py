"""A bundle or a full model as something that can be evaluated: labels, preprocessing, scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..backends.cpu import open_session
from ..card import Preprocess
from ..errors import ModelError, SelectionError
from ..runtime import Expert
from ..selection import resolve
from ..source import BUNDLED, Foreign, open_source
from ..surgery.outputs import score_source
from ..taxonomy import Taxonomy
from ..text import shown
from .batches import Scores


@dataclass(frozen=True)
class Judge:
    """``scores`` maps tensors ``[N, ...]`` to ``[N, len(labels)]``; ``taxonomy`` is there for a full model."""

    labels: tuple[str, ...]
    preprocess: Preprocess | None
    scores: Scores
    taxonomy: Taxonomy | None = None


@contextmanager
def open_judge(
    path: str | Path | None,
    *,
    classes: str | Sequence[str] | None = None,
    foreign: Foreign | None = None,
    threads: int | None = None,
) -> Iterator[Judge]:
    """Open a bundle directory or a model (default: the bundled one), restricted to ``classes``.

    ``classes`` is the text of ``--classes``, or class names in the order in which they are wanted. Raises what opening
    them raises, and ``SelectionError``.
    """
    path = BUNDLED if path is None else Path(path)
    if path.is_dir():
        with Expert.open(path, threads=threads) as expert:
            yield _restricted(Judge(expert.labels, expert.preprocess, expert.scores), classes)
        return
    source = open_source(path, foreign)
    output = source.card.outputs[0].name
    if score_source(source.model, output) != output:
        raise ModelError(f"The output '{output}' is an index, not a score.", "Build an expert: it gives the scores.")
    with closing(open_session(source.runnable, threads=threads)) as session:
        fixed = session.input_shape[0]

        def scores(batch: np.ndarray) -> np.ndarray:
            parts = []
            for start in range(0, len(batch), size := fixed or len(batch)):
                part = batch[start : start + size]
                missing = np.zeros((size - len(part), *part.shape[1:]), part.dtype)
                parts.append(session.run(np.concatenate([part, missing]))[output][: len(part)])
            return np.concatenate(parts)

        card = source.card
        yield _restricted(Judge(card.classes, card.preprocess, scores, card.taxonomy), classes)


def _restricted(judge: Judge, classes: str | Sequence[str] | None) -> Judge:
    if classes is None:
        return judge
    if isinstance(classes, str):
        columns = list(resolve(judge.taxonomy or Taxonomy.flat(judge.labels), classes).indices)
    else:
        missing = [name for name in classes if name not in judge.labels]
        if missing:
            raise SelectionError(f"The model has no class {shown(missing[0])}.", "Compare models of the same classes.")
        columns = [judge.labels.index(name) for name in classes]
    labels = tuple(judge.labels[column] for column in columns)
    return Judge(labels, judge.preprocess, lambda batch: judge.scores(batch)[:, columns], judge.taxonomy)
