"""build() and the manifest: what the Python face promises beyond the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from rainbow import SPEC, rainbow

import expertc
from expertc import manifest
from expertc.audit import verify_bundle
from expertc.bundle import open_bundle
from expertc.errors import BundleError, UsageError, VerificationError
from expertc.source import open_source
from expertc.surgery.owners import ownership

QUICK = {"verification": "off", "measure_seconds": 0}


def test_what_build_returns(built, full):
    assert built.path == full.parent / "warm.expert"
    assert built.selection.classes == ("reds", "yellows")
    assert (built.full.classes, built.expert.classes) == (4, 2)
    assert (built.full.branches, built.expert.branches) == (6, 3)
    assert (built.full.cost.parameters, built.expert.cost.parameters) == (33, 21)
    assert built.full.file_bytes == full.stat().st_size
    assert built.expert.file_bytes == (built.path / "expert.onnx").stat().st_size
    assert built.certificate.verdict == "verified"
    assert built.timing is not None
    assert built.timing.full > 0 < built.timing.expert
    assert built.notes == ()


def test_a_list_of_items_and_an_opened_source(full, tmp_path):
    source = open_source(full)
    built = expertc.build(source, classes=["yellows", "-greens", "cold"], output=tmp_path / "a.expert", **QUICK)
    assert built.selection.classes == ("blues", "yellows")
    again = expertc.build(full, classes="blues,yellows", output=str(tmp_path / "b.expert"), **QUICK)
    assert (built.path / "expert.onnx").read_bytes() == (again.path / "expert.onnx").read_bytes()


def test_branches_and_costs_add_up(full):
    """The full model's cost is the trunk's and every branch's, each once."""
    source = open_source(full)
    owners = ownership(source.model, source.card)
    assert owners.trunk.cost.parameters + sum(b.cost.parameters for b in owners.branches) == 33


@pytest.mark.parametrize("order", ["reds,blues,greens", "greens,reds,blues", "-yellows", "#2,#0-1"])
def test_the_same_selection_gives_the_same_bytes(full, tmp_path, order):
    folders = [
        expertc.build(full, classes=classes, output=tmp_path / name, **QUICK).path
        for name, classes in (("a.expert", "#0-2"), ("b.expert", order))
    ]
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == sorted(path.name for path in folders[1].iterdir())
    for name in names:
        if name != "report.json":
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    assert json.loads((folders[1] / "report.json").read_text())["requested"] == order


def test_nothing_of_this_machine_is_in_the_bundle(full, tmp_path):
    """Paths and names: a bundle is deployed."""
    import getpass
    import platform

    built = expertc.build(full, classes="reds", output=tmp_path / "a.expert", **QUICK)
    for file in built.path.iterdir():
        data = file.read_bytes()
        assert str(tmp_path).encode() not in data
        assert str(full.parent).encode() not in data
        assert str(Path.home()).encode() + b"/" not in data
        assert platform.node().encode() not in data or len(platform.node()) < 4
        assert f"/{getpass.getuser()}/".encode() not in data


def test_what_was_cut_away_is_not_in_the_file(full, tmp_path):
    built = expertc.build(full, classes="warm", output=tmp_path / "a.expert", **QUICK)
    data = (built.path / "expert.onnx").read_bytes()
    assert b"greens" not in data
    assert b"blues" not in data
    assert np.float32([[0.375, 8.5]]).tobytes() not in data
    assert np.float32([[8, 0.25]]).tobytes() in data


def test_kept_tensors_are_hashed(bundle, full):
    import hashlib

    kept = json.loads((bundle / "manifest.json").read_text())["source"]["kept_tensors"]
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(full).graph.initializer}
    for name, digest in kept.items():
        assert digest == hashlib.sha256(weights[name].tobytes()).hexdigest()
    assert {"reds.w", "warm.w", "trunk.w"} <= kept.keys()
    assert "blues.w" not in kept


def test_levels_and_targets_are_checked_first(tmp_path):
    with pytest.raises(UsageError, match="no verification level 'most'"):
        expertc.build(tmp_path / "missing.onnx", classes="reds", verification="most")
    with pytest.raises(UsageError, match="'toaster'"):
        expertc.build(tmp_path / "missing.onnx", classes="reds", target="toaster")


def test_a_failed_stage_leaves_nothing(full, tmp_path, monkeypatch):
    def broken(*arguments: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("expertc.source.ownership", broken)
    with pytest.raises(RuntimeError, match="no"):
        expertc.build(full, classes="reds", output=tmp_path / "a.expert", measure_seconds=0)
    assert list(tmp_path.iterdir()) == []


# -- reading a manifest back -------------------------------------------------------------------------------------------


def edited(bundle: Path, folder: Path, *keys: str, value: object = None) -> Path:
    shutil.copytree(bundle, folder)
    data = json.loads((folder / "manifest.json").read_text())
    at = data
    for key in keys[:-1]:
        at = at[key]
    if value is None:
        del at[keys[-1]]
    else:
        at[keys[-1]] = value
    (folder / "manifest.json").write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("selection",), None),
        (("selection", "indices"), None),
        (("selection", "indices"), ["a", "b"]),
        (("selection", "indices"), [0, 0]),
        (("selection", "indices"), [3, 0]),
        (("selection", "indices"), [-1, 0]),
        (("selection", "indices"), [0, 4]),
        (("selection", "indices"), [False, True]),
        (("selection", "indices"), []),
        (("selection", "indices"), [0]),
        (("selection", "classes"), ["reds", 3]),
        (("selection", "of"), True),
        (("source", "kept_tensors"), []),
        (("source",), "a file"),
        (("costs", "full", "cost"), 3),
        (("costs", "expert", "cost", "macs"), "many"),
        (("output", "kind"), "fuzzy"),
        (("verification",), {}),
        (("versions",), None),
        (("weights_licence",), 3),
    ],
)
def test_a_malformed_manifest_is_named(bundle, tmp_path, keys, value):
    opened = open_bundle(edited(bundle, tmp_path / "a.expert", *keys, value=value))
    with pytest.raises(BundleError, match="malformed") as caught:
        manifest.read(opened)
    assert caught.value.hint


def test_verify_bundle_wants_the_same_selection(bundle, full, tmp_path):
    other = edited(bundle, tmp_path / "a.expert", "selection", "indices", value=[0, 1])
    with pytest.raises(VerificationError, match="differs from its full model in its classes"):
        verify_bundle(open_bundle(other), open_source(full))


def test_verify_bundle_with_a_model_that_is_not_its_own(bundle, tmp_path):
    (tmp_path / "other.onnx").write_bytes(rainbow(spec=SPEC, batch="N").bytes())
    with pytest.raises(BundleError, match="another model"):
        verify_bundle(open_bundle(bundle), open_source(tmp_path / "other.onnx"))
