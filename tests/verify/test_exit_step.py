"""The step that looks at the form in which exits are shipped: what it passes, and that it notices what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from exitnets import KINDS, card, image, network

from expertc.backends.cpu import open_session
from expertc.backends.staged import StagedSession
from expertc.card import CARD_KEY, Card
from expertc.exits import Exits
from expertc.graph import read_model, to_bytes
from expertc.surgery.exits import nested, staged
from expertc.verify.certificate import Mismatch, Step
from expertc.verify.exits import Driven, answers, forced, forms


def opened(files: Sequence[Any], exits: Exits) -> Any:
    if len(files) == 1:
        return open_session(files[0])
    return StagedSession([open_session(file, stage=at > 0) for at, file in enumerate(files)], exits, ())


def step(plain: bytes, own: Card, *files: bytes) -> Step:
    return answers(open_session, opened, plain, Driven(files), card=own, x=image(10), allowed=1e-4)


def deep(own: Card, seed: int = 0) -> bytes:
    return to_bytes(nested(read_model(network("gran", 2, seed=seed)), own)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_both_forms_pass_and_every_exit_is_seen(kind: str) -> None:
    plain = network(kind, 2)
    model = read_model(plain)
    own = Card.from_json(model.metadata[CARD_KEY])
    for files in ([to_bytes(nested(model, own)[0])], [to_bytes(part) for part in staged(model, own)]):
        forms(model, Driven(tuple(files)))
        passed = step(plain, own, *files)
        assert passed.passed
        assert "3 of 3 exits" in passed.detail
        assert passed.numbers["answers"] >= (6 if kind in ("gran", "strict") else 3)


def test_another_rule_is_noticed() -> None:
    own = card("gran")
    assert own.exits is not None
    other = own.with_exits(replace(own.exits, thresholds=(0.0, 0.0), tolerance=-9.0, frozen=True))
    with pytest.raises(Mismatch, match=r"another exit|does not run"):
        step(network("gran", 2), own, deep(other))
    turned = own.with_exits(replace(own.exits, exits=(own.exits.exits[0], *own.exits.exits[:0:-1])))
    with pytest.raises(Mismatch, match=r"another|differs"):
        step(network("gran", 2), own, deep(turned))


def test_another_networks_answers_are_noticed() -> None:
    with pytest.raises(Mismatch, match=r"another|differs"):
        step(network("gran", 2), card("gran"), deep(card("gran"), seed=5))
    with pytest.raises(Mismatch, match="stages are not those"):
        forms(read_model(network("gran", 2)), Driven((deep(card("gran"), seed=5),)))
    model = read_model(network("gran", 2))
    parts = [to_bytes(part) for part in staged(model, Card.from_json(model.metadata[CARD_KEY]))]
    with pytest.raises(Mismatch, match="stages are not those"):
        forms(model, Driven((parts[0], parts[2], parts[1])))


def test_settings_that_lead_everywhere() -> None:
    for kind in KINDS:
        exits = card(kind).exits
        assert exits is not None
        assert len(forced(exits)) == 1 + 3 * (2 if exits.compares else 1)
        assert len(forced(replace(exits, frozen=True))) == 1
