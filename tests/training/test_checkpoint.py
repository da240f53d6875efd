from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from expertc.errors import FileSystemError, InvalidArtifactError
from expertc.training.checkpoint import RunState, load_pair, save_pair


def state(folder: Path, fingerprint: str = "abc", classes: tuple[str, ...] = ("a", "b")) -> RunState:
    torch.manual_seed(0)
    return RunState(torch.nn.Linear(2, 3), torch.nn.Linear(2, 3), folder, fingerprint, classes)


@pytest.fixture
def saved(tmp_path: Path) -> RunState:
    made = state(tmp_path)
    made.epochs_done, made.history = 2, [{"loss": 1.0}, {"loss": 0.5}]
    made.momentum = {"weight": torch.ones(3, 2)}
    made.save()
    return made


def test_a_state_is_restored(saved: RunState, tmp_path: Path) -> None:
    fresh = state(tmp_path)
    torch.nn.init.zeros_(fresh.model.weight)
    fresh.resume()
    assert torch.equal(fresh.model.weight, saved.model.weight)
    assert torch.equal(fresh.averaged.bias, saved.averaged.bias)
    assert fresh.momentum.keys() == {"weight"}
    assert (fresh.epochs_done, fresh.history) == (2, saved.history)


def test_only_the_last_pair_is_kept(saved: RunState, tmp_path: Path) -> None:
    saved.epochs_done = 3
    saved.save()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3.safetensors", "checkpoint.json"]


def test_an_empty_folder_starts_afresh(tmp_path: Path) -> None:
    fresh = state(tmp_path / "new")
    fresh.resume()
    assert fresh.epochs_done == 0
    assert load_pair(tmp_path, "checkpoint") is None


def test_a_checkpoint_without_classes_is_taken(saved: RunState, tmp_path: Path) -> None:
    facts = json.loads((tmp_path / "checkpoint.json").read_text())
    del facts["classes"]
    (tmp_path / "checkpoint.json").write_text(json.dumps(facts))
    fresh = state(tmp_path)
    fresh.resume()
    assert fresh.epochs_done == 2


@pytest.mark.parametrize(("fingerprint", "classes"), [("other", ("a", "b")), ("abc", ("b", "a")), ("abc", ("a",))])
def test_another_run_is_refused(saved: RunState, tmp_path: Path, fingerprint: str, classes: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArtifactError, match="another"):
        state(tmp_path, fingerprint, classes).resume()


WEIGHTS, FACTS = "checkpoint-2.safetensors", "checkpoint.json"


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file(held, folder / WEIGHTS)

    return damage


def facts(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        held = json.loads((folder / FACTS).read_text()) | changes
        (folder / FACTS).write_text(json.dumps({key: value for key, value in held.items() if value is not None}))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1]),
        lambda folder: (folder / WEIGHTS).write_bytes(b"\x80\x04pickle"),
        lambda folder: (folder / WEIGHTS).unlink(),
        lambda folder: (folder / FACTS).write_text("{"),
        lambda folder: (folder / FACTS).write_bytes(b"\xff\xfe"),
        lambda folder: (folder / FACTS).write_text("[1]"),
        facts(tensors=None),
        facts(tensors=3),
        facts(tensors="../../etc/passwd"),
        facts(epochs_done=None),
        facts(epochs_done="two"),
        facts(history=7),
        tensors(lambda held: held.pop("model.bias")),
        tensors(lambda held: held.update({"model.bias": torch.zeros(4)})),
        tensors(lambda held: held.update({"ema.more": torch.zeros(4)})),
        tensors(lambda held: held.update({"stranger.bias": torch.zeros(4)})),
    ],
)
def test_damage_is_a_typed_error(saved: RunState, tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    damage(tmp_path)
    with pytest.raises(InvalidArtifactError, match=r"checkpoint\.json") as caught:
        state(tmp_path).resume()
    assert caught.value.hint


def test_a_kill_between_the_two_files_leaves_the_pair_before(
    saved: RunState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("expertc.training.checkpoint.save_facts", killed)
    saved.epochs_done = 3
    with pytest.raises(KeyboardInterrupt):
        saved.save()
    fresh = state(tmp_path)
    fresh.resume()
    assert fresh.epochs_done == 2


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileSystemError):
        save_pair(tmp_path / "file" / "run", "checkpoint", {"a": torch.zeros(1)}, {})
    with pytest.raises(FileSystemError):
        save_pair(tmp_path / "file", "checkpoint", {"a": torch.zeros(1)}, {})
