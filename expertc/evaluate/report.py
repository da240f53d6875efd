"""What an evaluation found, as a report: JSON, Markdown and a page, of one family with those of a benchmark."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..backends import cpu
from ..pages import ReportFolder, cell, to_json
from ..text import clean_text
from .accuracy import ClassResult, Evaluation
from .agreement import Agreement
from .confidence import Coverage
from .given import Given
from .others import Scope
from .page import to_html

FAMILY = "expertc.evaluate/"
FORMAT = FAMILY + "1"  # the number is the schema's version: schema.json
FOLDER = ReportFolder(FAMILY, "evaluation report")

LISTED = 10  # confusions that are named


@dataclass(frozen=True)
class EvaluationReport:
    """An evaluation of the model at ``model``, whose .onnx file has the hash ``sha256``, on the ``split`` of ``data``.

    ``preprocess`` says how images became its input; ``environment`` holds JSON types. ``coverage``, ``agreement`` and
    ``others`` are there if they were asked for, ``answers`` for a network with early exits.
    """

    model: str
    sha256: str | None
    data: str
    split: str
    preprocess: Mapping[str, Any]
    found: Evaluation
    environment: Mapping[str, Any]
    coverage: Coverage | None = None
    agreement: Agreement | None = None
    others: Scope | None = None
    answers: Given | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Everything as plain JSON types, as ``schema.json`` beside this file describes it."""
        more = {"coverage": self.coverage, "agreement": self.agreement, "others": self.others, "answers": self.answers}
        return {
            "format": FORMAT,
            "model": self.model,
            "sha256": self.sha256,
            "data": {"path": self.data, "split": self.split},
            "preprocess": dict(self.preprocess),
            "kind": self.found.kind,
            "environment": dict(self.environment),
            **self.found.to_mapping(),
            **{name: one.to_mapping() for name, one in more.items() if one is not None},
        }

    def to_markdown(self) -> str:
        """The report as text to put into another."""
        found = self.found
        rows = [*found.per_class, found.overall]
        table = ["| class | photos | right | accuracy | 95 % |", "|---|--:|--:|--:|--:|"]
        table += [f"| {cell(clean_text(row.label))} | {row.images} | {row.hits} | {_share(row)} |" for row in rows]
        parts = [f"# Evaluation: {cell(clean_text(Path(self.model).name))}", "\n".join(table)]
        parts.append("\n".join(f"- {line}" for line in self._lines()))
        if found.confusions:
            taken = ["| true class | taken for | photos |", "|---|---|--:|"]
            for row, column, images in found.confusions[:LISTED]:
                a, b = (cell(clean_text(found.labels[place])) for place in (row, column))
                taken.append(f"| {a} | {b} | {images} |")
            parts += ["## Most frequent confusions", "\n".join(taken)]
        return "\n\n".join(parts) + "\n"

    def write(self, path: Path) -> Path:
        """Write report.json, report.md and report.html into the directory ``path``, as ``ReportFolder.write`` does."""
        report = self.to_mapping()
        return FOLDER.write(path, to_json(report), self.to_markdown(), to_html(report))

    def _lines(self) -> Iterator[str]:
        found = self.found
        if found.top5 is not None:
            yield f"among the best five: {found.top5.hits} of {found.top5.images} ({_share(found.top5, ', ')})"
        if found.calibration_error is not None:
            yield f"expected calibration error: {100 * found.calibration_error:.1f} %"
        if (some := self.coverage) is not None:
            right = "–" if some.accuracy is None else f"{100 * some.accuracy:.1f} %"
            yield f"with a probability of at least {some.reject:g}: {100 * some.coverage:.1f} % decided, {right} right"
        for one in () if self.others is None else self.others.separations:
            yield f"other things by {one.score}: AUROC {one.auroc:.3f}, {100 * one.fpr95:.1f} % let in with 95 % of own"
        if (given := self.answers) is not None:
            yield f"answers as given: {100 * given.accuracy:.1f} % right, {100 * given.fine_share:.1f} % name a class"
        if self.agreement is not None:
            yield f"agreement with the other model: {self.agreement.agreed} of {self.agreement.images} decisions"
        if found.left_out:
            yield f"left out: {sum(found.left_out.values())} photos of {len(found.left_out)} other classes"
        if found.unreadable:
            yield f"not readable: {len(found.unreadable)} photos"
        if found.undecided:
            yield f"no decision: {len(found.undecided)} photos"
        yield f"data: {cell(clean_text(self.data))}, {cell(clean_text(self.split))}"
        yield f"model: sha256 {self.sha256 or 'unknown'}"
        yield from (f"{key}: {cell(clean_text(str(value)))}" for key, value in self.environment.items())


def environment() -> dict[str, str]:
    """The versions that decisions may depend on, and the time; JSON types."""
    return {
        "expertc": __version__,
        "runtime": f"onnxruntime {cpu.describe()['version']}",
        "numpy": np.__version__,
        "python": platform.python_version(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _share(row: ClassResult, between: str = " | ") -> str:
    """Accuracy and its interval, for a table."""
    if row.accuracy is None:
        return f"–{between}–"
    low, high = row.interval
    return f"{100 * row.accuracy:.1f} %{between}{100 * low:.1f} to {100 * high:.1f} %"
