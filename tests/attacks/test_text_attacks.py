"""Hostile text: taxonomies, cards, label lists and class lists made to hurt whoever reads or prints them."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertc.card import Card, Output, Preprocess, card_for_foreign
from expertc.errors import CardError, ExpertcError, LabelsError, SelectionError, TaxonomyError
from expertc.labels import read_labels
from expertc.selection import resolve
from expertc.strict_yaml import parse_yaml
from expertc.taxonomy import MAX_NAME, Taxonomy
from expertc.text import clean_text, parse_json, read_text

HOSTILE = [
    "[/]",
    "[bold red]shark[/bold red]",
    "[link=file:///etc/passwd]click[/link]",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;owned\x07title",
    "\x9b31mcsi",
    "safe\u202egnp.exe",
    "\u2066isolate\u2069 \u200bzero",
    "back\x08\x08\x08space",
    "first\rsecond\nthird",
    "../../etc/passwd",
    "a/b\\c",
    "C:\\con",
    "${HOME} $(id) `id`",
    "%s %n {0} {name}",
    "'; DROP TABLE",
    "a, b",
    "-rf",
    "@file",
    "#5",
    "7",
    "\ud800surrogate",
    "\ue000private",
    "<script>alert(1)</script>",
    "é" * 100,
    "👩‍👩‍👧 family",
    "﷽" * 10,
    "\u0338" * 20 + "zalgo",
]


def harmless(text: str) -> bool:
    """Nothing in it controls a terminal, reverses a line or breaks an encoding."""
    return all(unicodedata.category(c)[0] != "C" for c in text) and not any(c in text for c in "\u2028\u2029")


def refused(call: Callable[[], Any], kind: type[ExpertcError]) -> ExpertcError:
    with pytest.raises(kind) as caught:
        call()
    error = caught.value
    assert harmless(error.message)
    assert harmless(error.hint)
    assert len(error.message) < 600
    assert error.hint
    return error


# -- labels --------------------------------------------------------------------------------------------------


def test_hostile_labels_all_the_way(tmp_path: Path) -> None:
    """From the file over the card to a selection: every label stays a label, and can be selected."""
    written = [label.replace("\r", " ").replace("\n", " ") for label in HOSTILE]
    file = tmp_path / "labels.txt"
    file.write_bytes("\n".join(written).encode("utf-8", "replace"))
    labels = read_labels(file, len(HOSTILE))
    assert all(map(harmless, labels))
    card = card_for_foreign(labels, None, None, "x", [Output("y")])
    assert Card.from_json(card.to_json()) == card
    assert card.classes == labels
    for row, label in enumerate(labels):
        mark = "'" if '"' in label else '"'
        assert resolve(card.taxonomy, f"{mark}{label}{mark}").indices == (row,)
        assert resolve(card.taxonomy, f"#{row}").indices == (row,)


def test_sixty_labels_that_are_one_after_cleaning(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("\n".join("shark" + "\u200b" * i for i in range(60)), encoding="utf-8")
    assert "Lines 1 and 2" in refused(lambda: read_labels(file), LabelsError).message


@pytest.mark.parametrize("label", HOSTILE)
def test_errors_repeat_hostile_text_harmlessly(label: str, tmp_path: Path) -> None:
    sea = Taxonomy.shipped("sea-animals")
    refused(lambda: resolve(sea, f'"{label} unknown"'), SelectionError)
    refused(lambda: Taxonomy.flat([label, label]), TaxonomyError)
    refused(lambda: Taxonomy.shipped(label), TaxonomyError)
    refused(lambda: Taxonomy.from_mapping({"tree": {label: 3}}), TaxonomyError)
    refused(lambda: Taxonomy.from_mapping({"tree": {label: {"index": 0, label: {}}}}), TaxonomyError)
    refused(lambda: Taxonomy.load(tmp_path / f"none-{label}"), TaxonomyError)
    refused(lambda: read_labels(tmp_path / f"none-{label}"), LabelsError)
    refused(lambda: Preprocess.from_mapping({label: 1}), CardError)
    refused(lambda: Card("x", sea, (Output(label),), "i").check_graph({"i": None}, {label * 9: None}), CardError)
    refused(lambda: card_for_foreign([label] * 23, sea, None, "i", [Output("o")]), LabelsError)


@settings(deadline=None)
@given(st.text())
def test_clean_text_leaves_nothing_harmful(text: str) -> None:
    cleaned = clean_text(text)
    assert harmless(cleaned)
    assert clean_text(cleaned) == cleaned
    cleaned.encode()  # no lone surrogate is left


def test_a_very_long_item_is_refused_quickly_and_briefly() -> None:
    sea = Taxonomy.shipped("sea-animals")
    for text in ("x" * 10**6, "/" * 10**6, "sharks/" * 10**5, "-" * 10**6, "'" * 10**5 + ",a", "\u200b/" * 10**5):
        refused(lambda text=text: resolve(sea, text), SelectionError)


def test_names_with_slashes_in_every_cut() -> None:
    """Paths that can be cut in a thousand ways cost no more than a walk per cut."""
    tree: dict[str, Any] = {"index": 0}
    for level in range(1, 40):
        tree = {"/".join("a" * level): tree}
    taxonomy = Taxonomy.from_mapping({"tree": tree | {"z": {"index": 1}}})
    assert resolve(taxonomy, "/".join("a" * 100)).indices == (0,)


# -- YAML ----------------------------------------------------------------------------------------------------

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "anchors, aliases"),
        ("tree: &t {a: *t}", "anchors, aliases"),
        ("tree: &t {a: {index: 0}}", "anchors, aliases"),
        ("tree: *missing", "anchors, aliases"),
        ("tree: !!python/object/apply:os.system ['true']", "tags"),
        ("tree: !!python/name:os.system {}", "tags"),
        ("tree: {a: {index: !!int ''}}", "tags"),
        ("tree: {a: {index: !!float ''}}", "tags"),
        ("tree: {a: {index: !!timestamp x}}", "tags"),
        ("tree: {a: {index: !!binary x}}", "tags"),
        ("tree: !!set {a}", "tags"),
        ("!foo {}", "tags"),
        ("tree: ! {}", "tags"),
        ("%TAG ! tag:yaml.org,2002:\n---\n!python/object:x {}", "tags"),
        ("tree: {a: {index: 0}, a: {index: 1}}", "twice"),
        ("tree: {a: {index: 0, index: 1}}", "twice"),
        ("tree: {<<: {a: {index: 0}}, <<: {b: {index: 1}}}", "twice"),
        ("tree: {? [a, b] : {index: 0}}", "must be text"),
        ("tree: {? {a: b} : {index: 0}}", "must be text"),
        ("tree: {a: {index: 0, seen: 2020-99-99}}", "not valid YAML"),
        (f"tree: {{a: {{index: 0, x: {'1:' * 300}1.5}}}}", "not valid YAML"),
        (f"tree: {{a: {{index: 0x{'f' * 6000}}}}}", "index of 'a'"),
        (f"tree: {{a: {{index: {'9' * 6000}}}}}", ""),
        (f"tree: {{a: {{index: {'1:' * 300}1}}}}", "index of 'a'"),
        ("tree: {a: {index: 0, x: .nan}}", "out of range"),
        ("tree: {a: {index: 0, x: -.inf}}", "out of range"),
        (f"tree: {{a: {{index: 0, x: 0x{'f' * 6000}}}}}", "out of range"),
        ('tree: {a: {index: 0, "in\\u200bdex": 7}}', "twice"),
        ('tree: {a: {index: 0, x: 1, "\\u202ex": 2}}', "twice"),
        ("tree: {a\0b: {index: 0}}", "special characters"),
        ("tree: {\x1b[31m: {index: 0}}", "special characters"),
        ("tree: {\ufffe: {index: 0}}", "special characters"),
        ('tree: {"\\0\\u202e": {index: 0}}', "empty or longer"),
        ('tree: {a: {index: 0}, "a\\u200b": {index: 1}}', "'a' twice"),
        (f"tree: {{{'n' * (MAX_NAME + 1)}: {{index: 0}}}}", "longer than"),
        (f"tree: {{a: {{index: 0, label: {'n' * (MAX_NAME + 1)}}}}}", "short text"),
        (f"tree: {{a: {{index: 0, synset: {'n' * 10**5}}}}}", "short text"),
        (f"name: {'n' * 10**5}\ntree: {{a: {{index: 0}}}}", "short text"),
        (f"tree: {{{'n' * 10**5}: 3}}", ""),
        ("{a: " * 20000, "nested too deeply"),
        ("tree: " + "{x: " * 5000 + "{index: 0}" + "}" * 5000, "nested too deeply"),
        ("- " * 20000, ""),
        ("tree: " + "".join(f"{{n{i}: " for i in range(70)) + "{index: 0}" + "}" * 70, "deeper than"),
    ],
)
def test_hostile_yaml(text: str, says: str) -> None:
    assert says in refused(lambda: Taxonomy.parse(text), TaxonomyError).message


def test_yaml_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    text = f"tree: !!python/object/apply:os.system ['touch {mark}']"
    refused(lambda: Taxonomy.parse(text), TaxonomyError)
    assert not mark.exists()


@settings(deadline=None)
@given(st.text(max_size=60) | st.text("{}[]:,&*!|>-?'\" \n#%@0ax<=~", max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    def attempt(parse: Callable[[str, str, type[ExpertcError]], Any]) -> str:
        try:
            parse(text, "The text", TaxonomyError)
        except TaxonomyError as error:
            return error.message
        return ""

    assert harmless(attempt(parse_yaml))
    assert harmless(attempt(parse_json))


# -- JSON ----------------------------------------------------------------------------------------------------


def repr_of_the_beginning(text: str) -> str:
    return repr(text[:20])


def card_json() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(
        Card("x", Taxonomy.parse("tree: {a: {index: 0}}"), (Output("y"),), "i").to_json()
    )
    return parsed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 10**5, "nested too deeply"),
        ('{"a":' * 10**5, "nested too deeply"),
        ("", "not valid JSON"),
        ("null", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("1" * 10**4, ""),
        ('{"schema": 1, "schema": 1}', "'schema' stands twice"),
        ('{"schema": 1, "a": {"\\u001b": 1, "\\u001b": 1}}', "stands twice"),
        ('{"schema": NaN}', "NaN is not a number"),
        ('{"schema": -Infinity}', "-Infinity is not a number"),
        ('{"schema": 1e400}', "schema version"),
        ('{"schema": 1' + "0" * 5000 + "}", ""),
        ('{"schema": ' + "1" * 4000 + "}", "newer than"),
        ("\ufeff{}", "not valid JSON"),
        ('{"a\0": 1}', "not valid JSON"),
        ('{"schema": 1, "' + "\\u202e" * 1000 + '": 1}', "no 'name'"),
        (" " * (16 * 2**20 + 1), "larger than 16 MiB"),
    ],
    ids=repr_of_the_beginning,
)
def test_hostile_json(text: str, says: str) -> None:
    assert says in refused(lambda: Card.from_json(text), CardError).message


def test_card_with_a_deep_tree_or_deep_provenance() -> None:
    deep: Any = {"index": 0}
    for level in range(300):
        deep = {f"n{level}": deep}
    refused(lambda: Card.from_json(json.dumps(card_json() | {"taxonomy": {"tree": deep}})), CardError)
    nested: Any = "x"
    for _ in range(300):
        nested = [nested]
    refused(lambda: Card.from_json(json.dumps(card_json() | {"provenance": {"a": nested}})), CardError)


def test_card_whose_classes_hide_control_characters() -> None:
    data = card_json()
    data["taxonomy"]["tree"] = {"a\u202e": {"index": 0}}
    assert Card.from_json(json.dumps(data)).classes == ("a",)
    refused(lambda: Card.from_json(json.dumps(data | {"classes": ["a\u202e"]})), CardError)


def test_card_text_is_cleaned() -> None:
    data = card_json() | {"name": "\x1b[31mx", "weights_licence": "free\u202e\r\n", "provenance": {"k\x07": "\x1bv"}}
    card = Card.from_json(json.dumps(data))
    assert (card.name, card.weights_licence, card.provenance) == ("[31mx", "free", {"k": "v"})


# -- files ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_a_file_without_an_end() -> None:
    sea = Taxonomy.shipped("sea-animals")
    for call, kind in (
        (lambda: read_labels("/dev/zero"), LabelsError),
        (lambda: Taxonomy.load("/dev/zero"), TaxonomyError),
        (lambda: Preprocess.read("/dev/zero"), CardError),
        (lambda: resolve(sea, "@/dev/zero"), SelectionError),
    ):
        assert "larger than 16 MiB" in refused(call, kind).message


def test_paths_with_nul() -> None:
    sea = Taxonomy.shipped("sea-animals")
    refused(lambda: read_text("a\0b", "The file", LabelsError), LabelsError)
    refused(lambda: resolve(sea, "@a\0b"), SelectionError)
    refused(lambda: Taxonomy.load("a\0b"), TaxonomyError)
