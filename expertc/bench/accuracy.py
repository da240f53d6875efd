"""Accuracies beside latencies: what ``expertc evaluate`` reported, put to the models that were timed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..bundle import MODEL
from ..errors import DataError, UsageError
from ..intervals import wilson
from ..pages import FILES
from ..text import clean_text, parse_json, read_text, shown
from .report import Accuracy, BenchReport

HINT = "Take what expertc evaluate MODEL --data DIR --report DIR wrote, or --json printed."


def read_accuracies(items: Sequence[str], paths: Sequence[str | Path]) -> dict[int, Accuracy]:
    """Accuracies by position in ``paths``, from the reports of ``expertc evaluate`` (files, or folders that hold one).

    An item is a report that names its model, or MODEL=REPORT; a model is called by its path as given or by its file
    name. Raises ``UsageError`` for a model that is not among ``paths``, is two of them or has two accuracies, and
    ``DataError`` for a file that is none, that is about other bytes than those at the model's path, or for accuracies
    that were not measured on the same photos.
    """
    found: dict[int, Accuracy] = {}
    tasks: dict[int, Mapping[str, int]] = {}
    for item in items:
        before, _, after = item.partition("=")
        named = bool(after) and bool(_places(before, paths))
        evaluation = _read(after if named else item)
        model = before if named else evaluation.get("model")
        if not isinstance(model, str):
            raise UsageError(f"{shown(item)} does not say which model it is about.", "Write --accuracy MODEL=FILE.")
        places = _places(model, paths)
        if len(places) != 1:
            much = "two of the models are" if places else "none of the models is"
            raise UsageError(f"{shown(item)} is about {shown(model)}, but {much} called so.",
                             "Write --accuracy MODEL=FILE, with the model's path as it is given.")  # fmt: skip
        if places[0] in found:
            raise UsageError(f"{shown(model)} is given two accuracies.", "Give one.")
        found[places[0]], tasks[places[0]] = _accuracy(evaluation, item)
        _refuse_other_bytes(evaluation, item, Path(paths[places[0]]))
    if any(task != next(iter(tasks.values())) for task in tasks.values()):
        sizes = ", ".join(f"{each.images} photos of {each.classes} classes" for each in found.values())
        raise DataError(
            f"The accuracies are of different tasks ({sizes}; compared class by class).",
            "Evaluate all models on the same photos, the full model with --classes.",
        )
    return found


def with_accuracies(report: BenchReport, accuracies: Mapping[int, Accuracy]) -> BenchReport:
    """The report with an accuracy beside the entries at these positions."""
    entries = (replace(entry, accuracy=accuracies.get(place)) for place, entry in enumerate(report.entries))
    return replace(report, entries=tuple(entries))


def _places(model: str, paths: Sequence[str | Path]) -> list[int]:
    same = [place for place, path in enumerate(paths) if str(path) == model]
    name = clean_text(Path(model).name)
    return same or [place for place, path in enumerate(paths) if clean_text(Path(path).resolve().name) == name]


def _refuse_other_bytes(evaluation: Mapping[str, Any], item: str, path: Path) -> None:
    """One artefact, both numbers: a model that was changed since it was evaluated has another accuracy."""
    file = path / MODEL if path.is_dir() else path
    if (judged := evaluation.get("sha256")) is None or not file.is_file():  # what is missing is found when it is opened
        return
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    if digest.hexdigest() != judged:
        raise DataError(f"{shown(item)} is about another model than {shown(path)} is now.", "Evaluate it again.")


def _read(place: str) -> dict[str, Any]:
    file = Path(place) / FILES[0] if Path(place).is_dir() else Path(place)
    return parse_json(read_text(file, "The evaluation", DataError), f"The evaluation {shown(file)}", DataError)


def _accuracy(evaluation: Mapping[str, Any], item: str) -> tuple[Accuracy, dict[str, int]]:
    """The accuracy over all classes, and how many images of each class it is about."""
    hits, images, classes = (evaluation.get(key) for key in ("hits", "images", "classes"))
    wrong = DataError(f"{shown(item)} is not an evaluation.", HINT)
    if type(hits) is not int or type(images) is not int or not 0 <= hits <= images < 2**53 or not images:
        raise wrong
    try:
        task = {str(one["label"]): int(one["images"]) for one in classes if one["images"]}  # type: ignore[union-attr]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise wrong from error
    return Accuracy(hits / images, *wilson(hits, images), images, len(task)), task
