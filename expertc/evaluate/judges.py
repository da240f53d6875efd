"""A bundle or a full model as something that can be evaluated: labels, preprocessing, scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..backends.cpu import open_session
from ..bundle import MODEL, Bundle, open_bundle
from ..card import Preprocess
from ..controls import Setting
from ..errors import ModelError, SelectionError, UsageError
from ..exits import Exits
from ..runtime import Expert, Reject
from ..runtime.exits import AS_BUILT, Answered, Chosen
from ..selection import resolve
from ..source import BUNDLED, Foreign, open_source
from ..surgery.outputs import score_source
from ..taxonomy import Taxonomy
from ..text import shown
from .batches import Scores


@dataclass(frozen=True)
class Judge:
    """``scores`` maps tensors ``[N, ...]`` to ``[N, len(labels)]``, of ``kind`` (``card.KINDS``).

    ``taxonomy`` are all classes of the full model, None if a bundle does not name them; ``reject`` is an expert's
    threshold, ``sha256`` that of the .onnx file, ``notices`` what is to be said about where it runs. Of an expert with
    early ``exits``, ``answered`` says what it answers to such tensors, deciding for each by itself if it can.
    """

    labels: tuple[str, ...]
    preprocess: Preprocess | None
    scores: Scores
    taxonomy: Taxonomy | None = None
    kind: str = "logits"
    reject: Reject | None = None
    sha256: str | None = None
    notices: tuple[str, ...] = ()
    exits: Exits | None = None
    answered: Callable[[np.ndarray], Answered] | None = None


def of_expert(expert: Expert, bundle: Bundle, controls: Mapping[str, Setting] | None = None) -> Judge:
    """The expert of an opened bundle, its ``controls`` set; ``TaxonomyError`` if the bundle names the full model's
    classes badly."""
    source = bundle.manifest.get("source")
    tree = source.get("taxonomy") if isinstance(source, dict) else None  # not there in one of an older expertc
    taxonomy = None if tree is None else Taxonomy.from_mapping(tree)
    sha256 = bundle.manifest["files"][MODEL]["sha256"]
    labels, spec, kind, reject, notices = expert.labels, expert.preprocess, expert.kind, expert.reject, expert.notices
    if expert.exits is None:
        return Judge(labels, spec, lambda x: expert.scores(x, controls), taxonomy, kind, reject, sha256, notices)
    size = expert.session.input_shape[0] or 1

    def answered(x: np.ndarray) -> Answered:
        return Answered.join([expert.answered(x[start : start + size], controls) for start in range(0, len(x), size)])

    return Judge(
        labels, spec, lambda x: answered(x).scores, taxonomy, kind, reject, sha256, notices, expert.exits, answered
    )


@contextmanager
def open_judge(
    path: str | Path | None,
    *,
    classes: str | Sequence[str] | None = None,
    foreign: Foreign | None = None,
    threads: int | None = None,
    chosen: Chosen = AS_BUILT,
) -> Iterator[Judge]:
    """Open a bundle directory or a model (default: the bundled one), restricted to ``classes``; exits as ``chosen``.

    ``classes`` is the text of ``--classes``, or class names in the order in which they are wanted. Raises what opening
    them raises, and ``SelectionError``.
    """
    path = BUNDLED if path is None else Path(path)
    if path.is_dir():
        bundle = open_bundle(path)
        with Expert.open(bundle, threads=threads) as expert:
            judge = of_expert(expert, bundle, expert.set_exits(chosen))
            yield _restricted(judge, classes, Taxonomy.flat(expert.labels))
        return
    if chosen != AS_BUILT:
        raise UsageError("Only the exits of a bundle can be set.", "Build one, or leave the options out.")
    source = open_source(path, foreign)
    output = source.card.outputs[0].name
    if score_source(source.model, output) != output:
        raise ModelError(f"The output '{output}' is an index, not a score.", "Build an expert: it gives the scores.")
    with closing(open_session(source.runnable, threads=threads)) as session:
        exits = source.card.exits
        fixed = session.input_shape[0] or (1 if exits is not None and exits.driven else None)

        def scores(batch: np.ndarray) -> np.ndarray:
            parts = []
            for start in range(0, len(batch), size := fixed or len(batch)):
                part = batch[start : start + size]
                missing = np.zeros((size - len(part), *part.shape[1:]), part.dtype)
                parts.append(session.run(np.concatenate([part, missing]))[output][: len(part)])
            return np.concatenate(parts)

        card = source.card
        kind = card.outputs[0].kind
        judge = Judge(card.classes, card.preprocess, scores, card.taxonomy, kind, sha256=source.sha256)
        yield _restricted(judge, classes, card.taxonomy)


def _restricted(judge: Judge, classes: str | Sequence[str] | None, tree: Taxonomy) -> Judge:
    if classes is None:
        return judge
    if isinstance(classes, str):
        columns = list(resolve(tree, classes).indices)
    else:
        missing = [name for name in classes if name not in judge.labels]
        if missing:
            raise SelectionError(f"The model has no class {shown(missing[0])}.", "Compare models of the same classes.")
        columns = [judge.labels.index(name) for name in classes]
    labels = tuple(judge.labels[column] for column in columns)
    kind = "joint" if judge.kind == "probabilities" else judge.kind  # of some classes alone they do not add up to 1
    return replace(judge, labels=labels, scores=lambda batch: judge.scores(batch)[:, columns], kind=kind, reject=None,
                   exits=None, answered=None)  # fmt: skip
