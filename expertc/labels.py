"""Label lists: a text file with one class per line, in the order of the model's output."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import LabelsError
from .taxonomy import MAX_NAME
from .text import clean_text, read_text, shown


def read_labels(path: str | Path, count: int | None = None) -> tuple[str, ...]:
    """Return the labels of a UTF-8 file (with or without a byte order mark, any line ends), cleaned of control
    characters; blank lines at the end are ignored.

    Raises ``LabelsError``, naming the line, for a blank or repeated label, one longer than 200 characters, and for any
    number of labels other than ``count``.
    """
    file_name = shown(path)
    lines = re.split(r"\r\n|\r|\n", read_text(path, "The label list", LabelsError))
    labels = [clean_text(line) for line in lines]
    while labels and not labels[-1]:
        labels.pop()
    if not labels:
        raise LabelsError(f"The label list {file_name} is empty.", "Write one class per line, in output order.")
    seen: dict[str, int] = {}
    for number, label in enumerate(labels, 1):
        if not label:
            raise LabelsError(
                f"Line {number} of {file_name} is blank.",
                "Every output needs a label: fill the line, or delete it if it stands for none.",
            )
        if len(label) > MAX_NAME:
            raise LabelsError(
                f"Line {number} of {file_name} is longer than {MAX_NAME} characters.",
                "Write one short label per line.",
            )
        if label in seen:
            raise LabelsError(
                f"Lines {seen[label]} and {number} of {file_name} are both {shown(label)}.",
                "Give every class a label of its own.",
            )
        seen[label] = number
    if count is not None and len(labels) != count:
        raise LabelsError(
            f"{file_name} has {len(labels)} labels, but the model has {count} classes.",
            "Write one label per output, in the order of the outputs.",
        )
    return tuple(labels)
