"""Two processes under ``accelerate launch``, on the CPU; ``shared_run.py`` is what each of them does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from shared_run import CLASSES, NESTED, PLAIN, Plain

from expertc.errors import UsageError
from expertc.taxonomy import Taxonomy
from expertc.training import train
from expertc.training.data import split
from expertc.training.processes import Processes

SHARED = Path(__file__).with_name("shared_run.py")
TREE = Taxonomy.flat(CLASSES)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have trained; only to be read."""
    folder = tmp_path_factory.mktemp("shared")
    # --multi_gpu is what starts several processes; where there are no GPUs they compute on the CPU.
    done = subprocess.run(
        [
            sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
            "--mixed_precision=no", "--dynamo_backend=no", "--num_cpu_threads_per_process=1", "--main_process_port=0",
            str(SHARED), str(folder),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def found(folder: Path, rank: int) -> Any:
    return json.loads((folder / f"rank-{rank}.json").read_text())


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}.safetensors")


@pytest.mark.parametrize("name", ["plain", "nested", "resumed"])
def test_both_end_with_the_same_network(shared: Path, name: str) -> None:
    first, second = weights(shared, f"{name}-0"), weights(shared, f"{name}-1")
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())  # batch-norm statistics too


@pytest.mark.parametrize(("name", "epochs"), [("plain", 2), ("nested", 4)])
def test_an_epoch_sees_every_image_once(shared: Path, name: str, epochs: int) -> None:
    train_indices, held = split(Plain(), {k: k for k in range(4)}, 0.2)
    assert len(train_indices) % 8 == 0  # else the rest of an epoch is left out, as in one process
    assert len(held) % 2 == 0
    each = (len(train_indices) + len(held)) // 2  # of an epoch and the look at the holdout after it, per process
    seen = [found(shared, rank)[name]["seen"] for rank in (0, 1)]
    for epoch in range(epochs):
        parts = [part[epoch * each : (epoch + 1) * each] for part in seen]
        assert Counter(parts[0] + parts[1]) == Counter(train_indices + held)
        assert not set(parts[0]) & set(parts[1])


def test_one_process_reports_and_both_know_the_same(shared: Path) -> None:
    first, second = found(shared, 0), found(shared, 1)
    assert (first["reports"], second["reports"]) == (2 * 7 + 4 * 7, 0)  # six steps and an epoch's end
    for name in ("plain", "nested"):
        assert first[name]["facts"] == second[name]["facts"]


def test_a_killed_run_goes_on(shared: Path) -> None:
    uninterrupted = weights(shared, "nested-0")
    assert all(torch.equal(tensor, uninterrupted[name]) for name, tensor in weights(shared, "resumed-0").items())
    assert found(shared, 0)["resumed"] == found(shared, 0)["nested"]["facts"]


def test_two_processes_learn_what_one_does(shared: Path, tmp_path: Path) -> None:
    """The gradients are averaged: where nothing depends on the neighbours in the batch, the outcome is the same."""
    alone = train(PLAIN, TREE, Plain(), tmp_path, workers=0)
    together = weights(shared, "plain-0")
    for name, tensor in alone.network.state_dict().items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-3, atol=1e-5)
    facts = found(shared, 0)["plain"]["facts"]
    assert facts["holdout"] == alone.facts["holdout"]
    assert [entry["holdout"] for entry in facts["history"]] == [entry["holdout"] for entry in alone.facts["history"]]


def test_a_batch_that_cannot_be_shared() -> None:
    processes = Processes("cpu")
    processes.require_even_shares(PLAIN, 3)
    processes.count = 2
    processes.require_even_shares(NESTED, 8)
    with pytest.raises(UsageError, match="batches of 8"):
        processes.require_even_shares(NESTED, 7)
    processes.count = 3
    with pytest.raises(UsageError, match="3 processes") as caught:
        processes.require_even_shares(NESTED, 48)
    assert "multiple of 6" in caught.value.hint
