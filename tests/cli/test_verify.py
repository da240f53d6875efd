"""``expertc verify``."""

from __future__ import annotations

import hashlib
import json
import shutil

import onnx
import pytest
from rainbow import photos, rainbow


@pytest.fixture
def copy(bundle, tmp_path):
    """A bundle to tamper with; ``tamper(name, change)`` rewrites a file and its hash in the manifest."""
    shutil.copytree(bundle, tmp_path / "copy.expert")
    return tmp_path / "copy.expert"


def tamper(bundle, name, change):
    data = change((bundle / name).read_bytes())
    (bundle / name).write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_a_good_bundle(cli, bundle, full):
    code, out, err = cli("verify", bundle, "--against", full)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert [line.split("  ")[0] for line in out.splitlines() if not line.startswith(" ")] == [
        "structure", "raw scores", "optimised", "verification",
    ]  # fmt: skip
    assert out.splitlines()[-1].endswith("passed; 3 of 3 steps on 8 noise images (full)")


def test_on_photos_as_json(cli, bundle, full, tmp_path):
    arguments = ("--against", full, "--data", photos(tmp_path / "photos"), "--level", "fast", "--json")
    code, out, _ = cli("verify", bundle, *arguments)
    found = json.loads(out)
    assert code == 0
    assert (found["verdict"], found["level"]) == ("verified", "fast")
    assert found["steps"][-1]["name"] == "decisions"
    assert found["steps"][-1]["numbers"]["images"] == 12


def test_of_another_model(cli, bundle, tmp_path):
    (tmp_path / "other.onnx").write_bytes(rainbow(batch="n").bytes())
    code, out, err = cli("verify", bundle, "--against", tmp_path / "other.onnx")
    assert (code, out) == (3, "")
    assert "was built from another model, 'rainbow.onnx'" in err
    assert "--against" in err


def test_a_changed_file_is_named(cli, copy, full):
    data = bytearray((copy / "expert.onnx").read_bytes())
    data[-3] ^= 1
    (copy / "expert.onnx").write_bytes(data)
    code, out, err = cli("verify", copy, "--against", full)
    assert (code, out) == (3, "")
    assert "expert.onnx" in err


def swap(data):
    """Two classes for each other."""
    model = onnx.load_from_string(data)
    heads = [t for t in model.graph.initializer if t.name in ("reds.w", "yellows.w")]
    assert len(heads) == 2
    heads[0].raw_data, heads[1].raw_data = heads[1].raw_data, heads[0].raw_data
    return model.SerializeToString(deterministic=True)


def test_changed_weights_with_a_matching_hash(cli, copy, full):
    tamper(copy, "expert.onnx", swap)
    code, out, err = cli("verify", copy, "--against", full)
    assert (code, out) == (5, "")
    assert "Verification failed" in err


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("labels.txt", lambda data: b"yellows\nreds\n", "labels"),
        ("preprocess.json", lambda data: data.replace(b"0.0", b"0.5"), "preprocessing"),
    ],
)
def test_changed_texts_with_a_matching_hash(cli, copy, full, name, change, words):
    tamper(copy, name, change)
    code, out, err = cli("verify", copy, "--against", full)
    assert (code, out) == (5, "")
    assert words in err


def test_changed_manifest(cli, copy, full):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["output"]["kind"] = "joint"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = cli("verify", copy, "--against", full)
    assert code == 5
    assert "output" in err


def test_on_this_machine(cli, copy):
    """Without a full model: by the golden record."""
    code, out, err = cli("verify", copy)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("golden record  It gives what was recorded, ")
    assert out.splitlines()[-1] == "verification   passed"
    code, out, err = cli("verify", copy, "--json", "--threads", "2", "--strict")
    found = json.loads(out)
    assert (code, found["passed"], found["inputs"], found["allowed"]) == (0, True, 2, 1e-4)
    assert found["largest_difference"] < 1e-6
    tamper(copy, "expert.onnx", swap)
    for option in ((), ("--json",)):
        code, out, err = cli("verify", copy, *option)
        assert code == 5
        assert "The expert is another here than where it was built: The output 'scores' differs by" in err
    assert json.loads(out)["passed"] is False
    assert json.loads(out)["largest_difference"] > 0.1


def test_on_this_machine_without_a_record_or_with_a_damaged_one(cli, copy):
    (copy / "golden.npz").write_bytes(b"PK")
    code, out, err = cli("verify", copy)
    assert (code, out) == (3, "")
    assert "golden.npz' is malformed" in err
    (copy / "golden.npz").unlink()
    code, out, err = cli("verify", copy, "--json")
    assert (code, out) == (3, "")
    assert "carries no golden record" in err


@pytest.mark.parametrize("option", ["--strict", "--trust-plan", "--threads=2"])
def test_a_full_model_is_compared_with_in_one_way_only(cli, bundle, full, option):
    code, out, err = cli("verify", bundle, "--against", full, option)
    assert (code, out) == (2, "")
    assert "Leave out --strict" in err


def test_an_unknown_level(cli, bundle, full):
    code, out, err = cli("verify", bundle, "--against", full, "--level", "off")
    assert (code, out) == (2, "")
    assert "'off'" in err


def test_photos_for_a_model_that_does_not_say_how_to_read_them(cli, tmp_path):
    (tmp_path / "full.onnx").write_bytes(rainbow(spec=None).bytes())
    out = tmp_path / "a.expert"
    assert (
        cli("build", tmp_path / "full.onnx", "--classes", "warm", "-o", out, "--verify", "off", "--measure", "0").code
        == 0
    )
    arguments = ("--against", tmp_path / "full.onnx", "--data", photos(tmp_path / "photos"))
    code, _, err = cli("verify", out, *arguments)
    assert code == 3
    assert "does not say how images become its input" in err
