"""``--gain`` and ``--embed-gain``."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from rainbow import SPEC, photos, picture, rainbow

from expertc.runtime.images import load_image
from expertc.runtime.preprocess import apply

QUICK = ("--verify", "off", "--measure", "0")


@pytest.fixture(scope="module")
def gained(tmp_path_factory):
    path = tmp_path_factory.mktemp("gained") / "gained.onnx"
    path.write_bytes(rainbow(gained=True).bytes())
    return path


@pytest.fixture
def expert(cli, gained, tmp_path):
    out = tmp_path / "warm.expert"
    assert cli("build", gained, "--classes", "warm", "-o", out, *QUICK).code == 0
    return out


def probability(model, photo, gain):
    """Of reds against yellows, by hand."""
    x = apply(load_image(photo), SPEC)[None]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    reds, yellows = session.run(None, {"image": x, "gain": np.float32(gain)})[0][0, [0, 3]].tolist()
    return 1 / (1 + np.exp(yellows - reds))


@pytest.mark.parametrize(
    ("options", "gain"),
    [
        ((), (1, 1, 1, 0.5)),
        (("--gain", "reds=0.25"), (0.25, 1, 1, 0.5)),
        (("--gain", "red=1.8", "--gain", "YELLOWS=0"), (1.8, 1, 1, 0)),
        (("--gain=reds=-1e-1",), (-0.1, 1, 1, 0.5)),
    ],
)
def test_predict(cli, expert, gained, tmp_path, options, gain):
    photo = picture(tmp_path / "a.png", (255, 180, 40))
    code, out, err = cli("predict", expert, photo, "--json", *options)
    assert (code, err) == (0, "")
    shares = {item["label"]: item["probability"] for item in json.loads(out)[0]["predictions"]}
    assert shares["reds"] == pytest.approx(probability(gained, photo, gain), rel=1e-4)


@pytest.mark.parametrize(
    ("gain", "code", "says"),
    [
        ("redz=1", 2, "reds"),
        ("greens=1", 2, "greens"),
        ("reds", 2, "is not CLASS=FACTOR"),
        ("=1", 2, "is not CLASS=FACTOR"),
        ("reds=loud", 2, "is not CLASS=FACTOR"),
        ("reds=nan", 2, "is not CLASS=FACTOR"),
        ("reds=inf", 2, "is not CLASS=FACTOR"),
        ("reds=1e99", 2, "out of reach"),
    ],
)
def test_gains_that_make_no_sense(cli, expert, tmp_path, gain, code, says):
    found = cli("predict", expert, picture(tmp_path / "a.png", "reds"), "--gain", gain)
    assert found.code == code
    assert found.out == ""
    assert says in found.err


def test_twice_the_same(cli, expert, tmp_path):
    found = cli("predict", expert, picture(tmp_path / "a.png", "reds"), "--gain", "reds=1", "--gain", "reds=2")
    assert found.code == 2
    assert "two gains" in found.err


def test_a_bundle_without_gains(cli, bundle, tmp_path):
    code, out, err = cli("predict", bundle, picture(tmp_path / "a.png", "reds"), "--gain", "reds=2")
    assert (code, out) == (2, "")
    assert "This expert has no gain" in err


def test_build_verifies_with_them(cli, gained, tmp_path):
    code, out, err = cli(
        "build", gained, "--classes", "cold", "-o", tmp_path / "a.expert", "--measure", "0.02", "--json"
    )
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["verification"]["verdict"] == "verified"
    assert found["timing"]["expert"] > 0
    assert cli("verify", tmp_path / "a.expert", "--against", gained).code == 0
    assert cli("evaluate", tmp_path / "a.expert", "--data", photos(tmp_path / "photos", ("greens", "blues"))).code == 0
    assert cli("bench", gained, tmp_path / "a.expert", "--duration", "0.1").code == 0


def test_embed(cli, gained, tmp_path):
    out = tmp_path / "a.expert"
    arguments = ("--embed-gain", "--gain", "reds=3", "--measure", "0")
    code, _, err = cli("build", gained, "--classes", "warm", "-o", out, *arguments)
    assert (code, err) == (0, "")
    assert [value.name for value in onnx.load(out / "expert.onnx").graph.input] == ["image"]
    photo = picture(tmp_path / "a.png", (255, 180, 40))
    shares = json.loads(cli("predict", out, photo, "--json").out)[0]["predictions"]
    reds = next(item["probability"] for item in shares if item["label"] == "reds")
    assert reds == pytest.approx(probability(gained, photo, (3, 1, 1, 0.5)), rel=1e-4)
    assert cli("verify", out, "--against", gained).code == 0
    code, _, err = cli("predict", out, photo, "--gain", "reds=1")
    assert code == 2
    assert "embedded" in err


def test_a_gain_alone_is_not_for_build(cli, gained, tmp_path):
    code, _, err = cli("build", gained, "--classes", "warm", "-o", tmp_path / "a.expert", "--gain", "reds=2")
    assert code == 2
    assert "--embed" in err


def test_a_typo_in_one_of_several_sets_is_found_first(cli, gained, tmp_path):
    sets = ("--classes", "warm", "--classes", "cold")
    code, _, err = cli("build", gained, *sets, "-o", tmp_path / "out", "--embed-gain", "--gain", "reds=2")
    assert code == 2
    assert "reds" in err
    assert not (tmp_path / "out").exists()


def test_nothing_to_embed(cli, full, tmp_path):
    code, _, err = cli("build", full, "--classes", "warm", "-o", tmp_path / "a.expert", "--embed-gain")
    assert code == 2
    assert "has no gain" in err
