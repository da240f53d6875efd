"""A tree of classifiers on the command line: both forms built, and the paths of predictions shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import choices
import numpy as np
import onnxruntime
import pytest
from choices import THREE_LEVELS
from rainbow import picture

from expertc.bundle import MANIFEST
from expertc.graph import read_model, to_bytes, with_batch
from expertc.runtime import Expert
from expertc.surgery.route import route

KEEP = "c3,c0,c7,c2,c9"
LABELS = ("c0", "c2", "c3", "c7", "c9")


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Experts of the slow form, of the fast one for single images, and of the fast one for batches."""
    from expertc.cli import run

    folder = tmp_path_factory.mktemp("routes")
    slow = choices.network(THREE_LEVELS, size=8).bytes()
    model, card = read_model(slow), choices.card(THREE_LEVELS, 8)
    forms = {"slow": slow, "fast": to_bytes(route(with_batch(model, 1), card)), "batches": to_bytes(route(model, card))}
    made = {}
    for name, data in forms.items():
        full, made[name] = folder / f"{name}.onnx", folder / f"{name}.expert"
        full.write_bytes(data)
        batch = [] if name == "fast" else ["--batch", "dynamic"]
        words = ["build", str(full), "--classes", KEEP, *batch, "--measure", "0", "-o", str(made[name]), "--quiet"]
        assert run(words) == 0
        assert run(["verify", str(made[name]), "--against", str(full)]) == 0
    return made


def colour(number: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(number).integers(0, 256, 3).tolist())


def photos(folder: Path, count: int) -> list[Path]:
    return [picture(folder / f"{number}.png", colour(number)) for number in range(count)]


@pytest.mark.parametrize("name", ["slow", "fast", "batches"])
def test_the_path_is_what_the_routers_output_says(
    cli: Any, experts: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """Against ONNX Runtime on the same pixels, and the names against the tree."""
    code, out, err = cli("predict", experts[name], *photos(tmp_path, 3), "--explain", "--json")
    assert (code, err) == (0, "")
    session = onnxruntime.InferenceSession(experts[name] / "expert.onnx", providers=["CPUExecutionProvider"])
    columns = json.loads((experts[name] / MANIFEST).read_text())["routes"]["columns"]
    tree = choices.taxonomy(THREE_LEVELS)
    for number, found in enumerate(json.loads(out)):
        pixels = (np.array(colour(number)) / 255 - 0.5) / 0.25
        x = np.broadcast_to(pixels[None, :, None, None], (1, 3, 8, 8)).astype(np.float32)
        scores, routes = session.run(["scores", "routes"], {"image": np.ascontiguousarray(x)})
        assert found["predictions"][0]["label"] == LABELS[int(scores[0].argmax())]
        for prediction in found["predictions"]:
            steps = [(step["name"], step["probability"]) for step in prediction["path"]]
            assert [step for step, _ in steps] == [n for n in tree.path(prediction["label"]) if n in columns]
            np.testing.assert_allclose(
                [p for _, p in steps], [routes[0][columns.index(n)] for n, _ in steps], atol=1e-5
            )


def test_both_forms_agree_on_the_class(experts: dict[str, Path], tmp_path: Path) -> None:
    """Batches too: the rows of the fast form come back where they belong."""
    files = photos(tmp_path, 12)
    answers = {}
    for name, path in experts.items():
        with Expert.open(path) as expert:
            answers[name] = expert.predict(files, batch=5, explain=True)
    for one, other in zip(answers["fast"], answers["batches"], strict=True):
        assert [label for label, _ in one.labels] == [label for label, _ in other.labels]
        np.testing.assert_allclose([p for _, p in one.labels], [p for _, p in other.labels], atol=1e-6)
    for fast, slow in zip(answers["fast"], answers["slow"], strict=True):
        best = fast.labels[0][0]
        in_slow = dict(zip((label for label, _ in slow.labels), slow.paths, strict=True))
        np.testing.assert_allclose([p for _, p in fast.paths[0]], [p for _, p in in_slow[best]], atol=1e-5)


def test_the_table_fits_eighty_columns(cli: Any, experts: dict[str, Path], tmp_path: Path) -> None:
    code, out, _ = cli("predict", experts["slow"], *photos(tmp_path, 1), "--explain", "--top", "3")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == f"{tmp_path / '0.png'}:"
    assert lines[1].split() == ["class", "by", "way", "of", "likely"]
    assert len(lines) == 7  # with a rule below the names, and an empty line
    assert all(len(line) <= 80 for line in lines[1:])
    assert all(" > " in line or "c9" in line for line in lines[3:6])


def test_an_expert_without_routers_cannot_explain(cli: Any, bundle: Path, tmp_path: Path) -> None:
    code, _, err = cli("predict", bundle, *photos(tmp_path, 1), "--explain")
    assert code == 2
    assert "has no routers" in err


@pytest.mark.parametrize(
    "change",
    [
        {"columns": "none"}, {"columns": [1]}, {"steps": [[0]]}, {"steps": [[99]] * 5}, {"steps": [[True]] * 5},
        {"name": None}, {"extra": 1},
    ],
)  # fmt: skip
def test_a_manifest_that_lies_about_the_routes(
    cli: Any, experts: dict[str, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    import shutil

    copy = tmp_path / "copy.expert"
    shutil.copytree(experts["slow"], copy)
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["routes"] |= change
    (copy / MANIFEST).write_text(json.dumps(manifest))
    code, _, err = cli("predict", copy, *photos(tmp_path, 1))
    assert code == 3
    assert "does not describe its routes" in err


def test_branches_and_their_costs_are_shown(cli: Any, experts: dict[str, Path]) -> None:
    code, out, _ = cli("classes", experts["fast"].with_name("fast.onnx"))
    assert code == 0
    assert "g3-0-7-5-1" in out
    code, out, _ = cli("build", experts["fast"].with_name("fast.onnx"), "--classes", "c3,c0", "--plan")
    assert code == 0
    assert "g3-0" in out


def test_macs_of_the_fast_form_are_those_of_one_way(cli: Any, experts: dict[str, Path]) -> None:
    slow, fast = (experts[form].with_name(f"{form}.onnx") for form in ("slow", "fast"))
    few, many = (json.loads(cli("inspect", path, "--json").out) for path in (fast, slow))
    assert few["parameters"] == many["parameters"]
    assert few["macs"] < many["macs"] == few["trunk"]["macs"] + sum(branch["macs"] for branch in few["branches"])
    for words in (["classes"], ["inspect"], ["build", "--classes", "c3,c0", "--plan"]):
        told, quiet = (cli(words[0], path, *words[1:]).out for path in (fast, slow))
        assert "takes one branch per router" in told
        assert "takes one branch per router" not in quiet
