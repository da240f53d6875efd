"""A threshold in the manifest: what the expert then says, and thresholds that make no sense."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_expert import GREEN, PINK, RED, make  # noqa: F401 (a fixture)

from expertc.errors import BundleError
from expertc.runtime import Expert

REJECT: dict[str, Any] = {
    "score": "max-logit", "threshold": 2.5, "reject_rate": 0.05, "caught": 0.5, "images": 20, "others": 30,
}  # fmt: skip
GREY = Image.new("RGB", (9, 9), (102, 102, 102))  # 0.4 each
SCALE = np.eye(3) * 5


def judged(expert: Expert, *images: Any) -> list[bool | None]:
    return [prediction.none_of_these for prediction in expert.predict(images, batch=2)]


def test_below_the_threshold(make) -> None:  # noqa: F811
    expert = make(SCALE, reject=REJECT)
    assert judged(expert, RED, GREY, PINK) == [False, True, False]
    grey = expert.predict(GREY)[0].to_mapping()
    assert grey["none_of_these"] is True
    assert {p["label"] for p in grey["predictions"]} == {"reds", "greens", "blues"}
    assert sum(p["probability"] for p in grey["predictions"]) == pytest.approx(1)
    assert expert.reject is not None
    assert expert.reject.to_mapping() == REJECT


def test_by_energy(make) -> None:  # noqa: F811
    """log(3 e^2) for grey, log(e^5 + 2) for red."""
    grey, red = 2 + math.log(3), math.log(math.exp(5) + 2)
    for threshold, expected in ((grey - 1e-3, [False, False]), (grey + 1e-3, [True, False]), (red + 1e-3, [True] * 2)):
        expert = make(SCALE, reject=REJECT | {"score": "energy", "threshold": threshold})
        assert judged(expert, GREY, RED) == expected


def test_probabilities_and_single_classes(make) -> None:  # noqa: F811
    by_share = REJECT | {"score": "max-probability", "threshold": 0.9}
    assert judged(make(kind="joint", reject=by_share), RED, PINK) == [False, True]  # 1 and 1 / 2
    alone = make([[5.0], [0.0], [0.0]], "reds\n", reject=REJECT)
    found = alone.predict([RED, GREEN])
    assert [(p.raw, p.none_of_these) for p in found] == [(True, False), (True, True)]


def test_without_a_threshold_nothing_is_said(make, tmp_path: Path) -> None:  # noqa: F811
    expert = make(SCALE)
    assert expert.reject is None
    assert judged(expert, GREY) == [None]
    assert "none_of_these" not in expert.predict(GREY)[0].to_mapping()
    (tmp_path / "bad.png").write_bytes(b"no image")
    unreadable = make(SCALE, reject=REJECT).predict(tmp_path / "bad.png")[0]
    assert (unreadable.none_of_these, unreadable.to_mapping().keys()) == (None, {"image", "error"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("score", "energies"), ("score", ["energy"]), ("score", None), ("score", "max-probability"),
        ("threshold", "2"), ("threshold", True), ("threshold", 10**400), ("threshold", None),
        ("reject_rate", 2), ("caught", -0.1), ("images", 2.5), ("others", True), ("others", "many"),
    ],
)  # fmt: skip
def test_a_strangers_threshold(make, key: str, value: Any) -> None:  # noqa: F811
    with pytest.raises(BundleError, match=rf"'reject\.{key}' is missing or makes no sense"):
        make(SCALE, reject=REJECT | {key: value})
    with pytest.raises(BundleError, match=rf"'reject\.{key}'"):
        make(SCALE, reject={k: v for k, v in REJECT.items() if k != key})


@pytest.mark.parametrize("value", [[], "energy", 3, {}])
def test_no_mapping_at_all(make, value: Any) -> None:  # noqa: F811
    with pytest.raises(BundleError, match="reject"):
        make(SCALE, reject=value)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
def test_numbers_that_json_should_not_hold(make, number: str) -> None:  # noqa: F811
    path = make.write(SCALE, reject=REJECT | {"threshold": 123456.5})
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("123456.5", number))
    with pytest.raises(BundleError):
        Expert.open(path)
    manifest.write_text(manifest.read_text().replace(number, "3"))
    with Expert.open(path) as expert:
        assert json.loads(manifest.read_text())["reject"]["threshold"] == 3
        assert judged(expert, GREY, RED) == [True, False]
