"""embed: the same scores as the model that is fed the defaults, and no input but the image."""

from __future__ import annotations

import controlled
import numpy as np
import onnx
import pytest
from controlled import CLASSES, FORMS, fed, scores
from networks import Net, operators, run
from test_gains import with_subgraph

from expertc.card import CARD_KEY, Card, Control
from expertc.graph import read_model, to_bytes
from expertc.surgery.embed import Embed
from expertc.surgery.fold import Fold
from expertc.surgery.passes import run_all
from expertc.surgery.prune import prune

DEFAULT = (0.5, 1.0, 2.0, 1.0, 0.25, 3.0)
CARD = controlled.controlled(default=DEFAULT)
NETWORKS = FORMS | {"filled": controlled.opaque}


def frozen(full: bytes, card: Card, keep: list[int], *, fold: bool) -> tuple[bytes, tuple[str, ...]]:
    cut = prune(read_model(full), card, keep)
    model, passes = run_all(cut.model, (Embed(cut.card), Fold()) if fold else (Embed(cut.card),))
    data = to_bytes(model)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    return data, passes


@pytest.mark.parametrize("name", NETWORKS)
def test_the_scores_are_those_for_the_defaults(name: str) -> None:
    full, keep = NETWORKS[name]().bytes(), [0, 3, 4]
    plain, _ = frozen(full, CARD, keep, fold=False)
    folded, passes = frozen(full, CARD, keep, fold=True)
    wanted = scores(full, DEFAULT)[:, keep]
    image = {"image": fed(DEFAULT)["image"]}
    for data in (plain, folded):
        proto = onnx.load_from_string(data)
        assert [value.name for value in proto.graph.input] == ["image"]
        assert Card.from_json(proto.metadata_props[0].value).controls == ()
        got = run(data, image)["scores"]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert passes == ("embed", "fold")


@pytest.mark.parametrize("name", FORMS)
def test_nothing_is_left_of_gains_of_one(name: str) -> None:
    """Classes 1 and 3 are not turned up or down."""
    data, _ = frozen(FORMS[name]().bytes(), CARD, [1, 3], fold=True)
    assert not {"Mul", "Gather", "Slice", "Split", "Unsqueeze", "Expand", "Identity"} & set(operators(data))


def test_a_subgraph_that_reads_the_gains() -> None:
    full = with_subgraph("Loop")
    data, _ = frozen(full, CARD, list(range(CLASSES)), fold=True)
    np.testing.assert_array_equal(run(data, {"image": fed(DEFAULT)["image"]})["scores"], scores(full, DEFAULT))


def test_a_card_without_controls_changes_nothing() -> None:
    net = Net()
    net.result(net.head(net.image(), 3, 4, name="scores"), 4)
    model = read_model(net.bytes())
    assert Embed(controlled.card(4)).run(model) == (model, False)


def test_the_model_that_is_given_stays() -> None:
    model = read_model(controlled.separate().bytes())
    before = to_bytes(model)
    after, changed = Embed(CARD).run(model)
    assert changed
    assert to_bytes(model) == before
    assert Card.from_json(model.metadata[CARD_KEY]).controls == (Control("gain", (1.0,) * CLASSES, True),)
    assert list(after.inputs) == ["image"]
