"""Strangers that say things about exits: text that acts, graphs that are deep, entries of a manifest that lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exitnets import network
from networks import Net, run
from onnx import TensorProto, helper

import expertc
from expertc.bundle import open_bundle
from expertc.card import CARD_KEY, Card, Output
from expertc.errors import BundleError, ExitCode
from expertc.exits import EXIT, MAX_EXITS, THRESHOLD, Exit, Exits
from expertc.graph import read_model, to_bytes
from expertc.surgery.exits import flatten, nested
from expertc.taxonomy import Taxonomy

HOSTILE = "[bold red]owls[/]\x1b]0;title\x07\u202e<script>"


def saved(folder: Path, model: bytes, edit: Callable[[dict[str, Any]], Any]) -> Path:
    proto = onnx.load_from_string(model)
    entry = next(entry for entry in proto.metadata_props if entry.key == CARD_KEY)
    data = json.loads(entry.value)
    edit(data)
    entry.value = json.dumps(data)
    path = folder / "full.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_category_is_text_and_no_markup(tmp_path: Path, cli: Any) -> None:
    def edit(data: dict[str, Any]) -> None:
        tree = data["taxonomy"]["tree"]
        data["taxonomy"]["tree"] = {(HOSTILE if name == "bird" else name): below for name, below in tree.items()}
        cleaned = next(iter(Taxonomy.from_mapping({"tree": {HOSTILE: {"owl": {"index": 0}}}}).roots)).name
        data["exits"]["categories"] = [cleaned if name == "bird" else name for name in data["exits"]["categories"]]

    model = saved(tmp_path, network("gran"), edit)
    expertc.build(model, classes="ray,owl", output=tmp_path / "a.expert", measure_seconds=0, verification="off")
    readme = (tmp_path / "a.expert" / "README.txt").read_text(encoding="utf-8")
    assert "\x1b" not in readme
    assert "\u202e" not in readme
    for verb, path in (("inspect", model), ("classes", model), ("inspect", tmp_path / "a.expert")):
        code, out, err = cli(verb, path)
        assert (code, err) == (0, "")
        assert not {"\x1b", "\x07", "\u202e"} & set(out)


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["exits"]["exits"][1].update(coarse=HOSTILE),
        lambda d: d["exits"].update(categories=[HOSTILE, "fish", "bug"]),
        lambda d: d["exits"].update(thresholds=[HOSTILE, 1]),
        lambda d: d["exits"].update(semantic=HOSTILE),
        lambda d: d["exits"].update(of=[10**30] * 5),
        lambda d: d["exits"].update(thresholds=[1e400, 1e400]),
        lambda d: d["exits"].update({HOSTILE: 1}),
        lambda d: d.update(exits=HOSTILE),
    ],
)
def test_what_a_card_says_of_exits_is_refused_in_plain_text(edit: Any, tmp_path: Path, cli: Any) -> None:
    code, out, err = cli("inspect", saved(tmp_path, network("gran"), edit))
    assert code == ExitCode.INVALID
    assert not {"\x1b", "\x07", "\u202e"} & set(out + err)
    assert "Traceback" not in err


def many(number: int) -> tuple[bytes, Card]:
    """A network with so many exits, one behind the other."""
    net = Net(17, batch=1)
    x = net.image(3, 2, 2)
    names = []
    for at in range(number):
        x = net.node("Relu", net.conv(x, 3, 3, name=f"conv{at}"))
        names.append(net.head(x, 3, 2, name=f"fine{at}"))
        net.outputs.append(helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, [1, 2]))
    exits = Exits((), tuple(map(Exit, names)))
    own = Card("deep", Taxonomy.flat(["a", "b"]), tuple(map(Output, exits.fine)), "image", exits=exits)
    net.metadata = {CARD_KEY: own.to_json()}
    return net.bytes(), own


def test_as_many_exits_as_a_card_may_have_are_still_read() -> None:
    plain, own = many(MAX_EXITS)
    made, driven = nested(read_model(plain), own)
    data = to_bytes(made)
    never = np.zeros(MAX_EXITS - 1, np.float32)
    found = run(data, {"image": np.ones((1, 3, 2, 2), np.float32), THRESHOLD: never})
    assert found[EXIT].tolist() == [MAX_EXITS]
    assert len(flatten(read_model(data), driven)[0].outputs) == MAX_EXITS


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["forms"].update(exits="../x"),
        lambda d: d["forms"].update(exits=["nested"]),
        lambda d: d["exits"].update(exits=[]),
        lambda d: d["exits"].update(of=[0]),
        lambda d: d["exits"].update(driven=HOSTILE),
        lambda d: d.update(exits=HOSTILE),
    ],
)
def test_a_manifest_that_lies_about_exits_is_refused(edit: Any, tmp_path: Path, cli: Any) -> None:
    full = tmp_path / "full.onnx"
    full.write_bytes(network("gran"))
    done = expertc.build(full, classes="ray,owl", output=tmp_path / "a.expert", measure_seconds=0, verification="off")
    path = done.path / "manifest.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    code, out, err = cli("verify", done.path, "--against", full)
    assert code == ExitCode.INVALID, err
    assert not {"\x1b", "\x07", "\u202e"} & set(out + err)
    assert "Traceback" not in err
    if data["exits"] == HOSTILE:
        with pytest.raises(BundleError):
            _ = open_bundle(done.path).exits
