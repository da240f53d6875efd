"""HTML and SVG as a tree, so that whatever stands in it as text or attribute is escaped because it is nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ..text import clean_text

Content: TypeAlias = "str | Iterable[Element]"


def element(tag: str, content: Content = (), /, **attributes: str | float) -> Element:
    """An element with text, cleaned, or with children. Attributes are written ``class_`` and ``stroke_width``."""
    named = {key.rstrip("_").replace("_", "-"): _value(value) for key, value in attributes.items()}
    made = Element(tag, named)
    if isinstance(content, str):
        made.text = clean_text(content)
    else:
        made.extend(content)
    return made


def document(title: str, style: str, body: Iterable[Element]) -> str:
    """A page of its own that loads nothing and runs nothing: its policy tells the browser so."""
    css = Element("style")
    css.text = style  # ours, and written as it is
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    head = (
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        css,
    )
    tree = element("html", (element("head", head), element("body", body)), lang="en")
    return "<!DOCTYPE html>\n" + ElementTree.tostring(tree, encoding="unicode", method="html") + "\n"


def _value(value: str | float) -> str:
    return clean_text(value) if isinstance(value, str) else f"{value:.6g}"
