"""``expertc calibrate``, and what ``predict`` and ``evaluate`` say afterwards."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from rainbow import COLOURS, photos, picture, rainbow, tree
from test_bad_input import unprivileged

import expertc
from expertc import manifest
from expertc.bundle import open_bundle
from expertc.intervals import wilson
from expertc.runtime import open_dataset


@pytest.fixture
def seaside(tmp_path: Path) -> Path:
    """10 photos of each of four colours, ever darker."""
    return photos(tmp_path / "seaside", each=10)


def logits(colour: str, number: int) -> tuple[float, float]:
    """Of the warm expert (reds, yellows) for a plain photo, from the numbers in ``rainbow``."""
    r, g, b = (max(0, value - 20 * number) / 255 for value in COLOURS[colour])
    reds, yellows = r - g - b, 0.7 * r + 0.7 * g - 1.4 * b
    return 8 * reds + 0.25 * yellows, 0.5 * reds + 7 * yellows + 3 / 16


def energy(colour: str, number: int) -> float:
    return float(np.logaddexp(*logits(colour, number)))


def test_a_new_release_of_the_bundle(cli, bundle, seaside, tmp_path):
    before = tree(bundle)
    new = tmp_path / "new.expert"
    code, out, err = cli("calibrate", bundle, "--data", seaside, "--others", seaside, "--reject-rate", "0.1", "-o", new)
    assert (code, err) == (0, "")
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80
    assert tree(bundle) == before
    own = sorted(energy(colour, n) for colour in ("reds", "yellows") for n in range(10))
    others = [energy(colour, n) for colour in ("greens", "blues") for n in range(10)]
    opened = open_bundle(new)  # every hash is right
    reject = manifest.read(opened)["reject"]
    assert reject["score"] == "energy"
    assert reject["threshold"] == pytest.approx((own[1] + own[2]) / 2, rel=1e-5)
    caught = sum(value < reject["threshold"] for value in others)
    assert {k: reject[k] for k in ("caught", "images", "others", "reject_rate")} == {
        "caught": caught / 20, "images": 20, "others": 20, "reject_rate": 0.1,
    }  # fmt: skip
    low, high = wilson(caught, 20)
    assert f"none of these: {100 * caught / 20:.1f} % of 20 others ({100 * low:.1f} to {100 * high:.1f} %)" in out
    assert "and of 20 own photos 10.0 % (2.8 to 30.1 %)" in out  # Wilson's for 2 of 20
    # nothing else has changed
    now, old = opened.manifest, open_bundle(bundle).manifest
    assert now["files"].keys() == old["files"].keys()
    same = [name for name in now["files"] if now["files"][name] == old["files"][name]]
    assert set(now["files"]) - set(same) == {"README.txt"}
    ignored = ("files", "reject")
    assert {k: v for k, v in now.items() if k not in ignored} == {k: v for k, v in old.items() if k not in ignored}
    report = json.loads((new / "report.json").read_text())
    assert report["calibration"]["reject"] == reject
    assert report["requested"] == "warm"


def test_json_in_place_and_again(cli, bundle, seaside, tmp_path):
    mine = tmp_path / "mine.expert"
    shutil.copytree(bundle, mine)
    arguments = ("calibrate", mine, "--data", seaside, "--others", seaside, "--json")
    before = tree(mine)
    code, out, err = cli(*arguments)
    assert (code, out) == (9, "")
    assert "--force" in err
    assert tree(mine) == before
    found = json.loads(cli(*arguments, "--force").out)
    assert found["bundle"] == str(mine)
    assert (found["rejected"]["hits"], found["rejected"]["images"]) == (1, 20)
    assert found["rejected"]["interval"] == pytest.approx(list(wilson(1, 20)))
    assert found["caught"]["share"] == found["reject"]["caught"]
    assert {one["score"] for one in found["scores"]} == {"energy", "max-logit"}
    assert found["left_out"] == {"greens": 10, "blues": 10}
    assert (found["others"]["own_left_out"], found["others"]["images"]) == (20, 20)
    again = json.loads(cli(*arguments, "--force", "--reject-rate", "0.25").out)
    assert again["reject"]["threshold"] > found["reject"]["threshold"]
    assert cli(*arguments[:-1], "--force").out.count("none of these: ") == 1  # not the older threshold's too
    cli(*arguments, "--force", "--reject-rate", "0.25")
    text = (mine / "README.txt").read_text()
    assert text.count("A photo shows none of these classes") == 1
    assert repr(again["reject"]["threshold"]) in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.expert", "seaside"]


def test_what_predict_evaluate_inspect_and_diff_say(cli, bundle, seaside, tmp_path):
    new = tmp_path / "new.expert"
    assert cli("calibrate", bundle, "--data", seaside, "--others", seaside, "-o", new).code == 0
    red, blue = picture(tmp_path / "red.png", "reds"), picture(tmp_path / "blue.png", "blues")
    code, out, err = cli("predict", new, red, blue)
    assert (code, err) == (0, "")
    assert out.splitlines() == [f"{red}: reds 93.0 %, yellows 7.0 %", f"{blue}: none of these"]
    found = json.loads(cli("predict", new, red, blue, "--json").out)
    assert [item["none_of_these"] for item in found] == [False, True]
    assert [len(item["predictions"]) for item in found] == [2, 2]
    reject = open_bundle(new).manifest["reject"]
    fresh = photos(tmp_path / "fresh", each=2)
    seen = json.loads(cli("evaluate", new, "--data", fresh, "--others", fresh, "--json").out)["others"]
    below = [energy(c, n) < reject["threshold"] for c in ("greens", "blues") for n in (0, 1)]
    assert (seen["threshold"]["caught"]["hits"], seen["threshold"]["rejected"]["hits"]) == (sum(below), 0)
    assert f"energy below {reject['threshold']:.6g}" in cli("inspect", new).out
    assert "none of these below" in cli("diff", bundle, new).out
    assert cli("evaluate", new, "--data", fresh, "--others", fresh).code == 0
    with expertc.Expert.open(new) as expert:
        assert [p.none_of_these for p in expert.predict([red, blue])] == [False, True]


def test_the_readme_says_how(cli, bundle, seaside, tmp_path):
    """Its formula, run by itself, is the runtime's."""
    new = tmp_path / "new.expert"
    cli("calibrate", bundle, "--data", seaside, "--others", seaside, "-o", new)
    lines = (new / "README.txt").read_text().splitlines()
    said = lines[lines.index("A photo shows none of these classes") + 1].strip().removeprefix("if its energy, ")
    scores = np.array(logits("blues", 0), np.float32)
    assert eval(said.rstrip(","), {"numpy": np, "scores": scores}) == pytest.approx(energy("blues", 0), rel=1e-5)


def test_an_expert_that_ends_in_probabilities(cli, seaside, tmp_path):
    (tmp_path / "soft.onnx").write_bytes(rainbow(kind="probabilities", end="Softmax").bytes())
    made = cli("build", tmp_path / "soft.onnx", "--classes", "warm", "-o", tmp_path / "a.expert", "--measure", "0")
    assert made.code == 0
    kind = open_bundle(tmp_path / "a.expert").manifest["output"]["kind"]
    assert kind != "logits"
    code, out, err = cli(
        "calibrate", tmp_path / "a.expert", "--data", seaside, "--others", seaside, "-o", tmp_path / "b.expert"
    )
    assert (code, err) == (0, "")
    assert "gives probabilities, not logits" in out
    assert open_bundle(tmp_path / "b.expert").manifest["reject"]["score"] == "max-probability"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--reject-rate", "0"), 2, "not between 0 and 1"),
        (("--reject-rate", "1"), 2, "not between 0 and 1"),
        (("--reject-rate", "nan"), 2, "not between 0 and 1"),
        (("--reject-rate", "0.01"), 10, "20 photos are too few to reject 1 %"),
        (("--others", "own"), 10, "All photos in 'own' are of the expert's own classes"),
        (("--others", "nowhere"), 10, "'nowhere' does not exist"),
        (("--others", "empty"), 10, "holds no images"),
        (("--data", "empty"), 10, "holds no images"),
        (("--data", "misspelt"), 10, "photos of 'yelows', which the model does not know"),
        (("--data", "cold"), 10, "No image is of a class that the model knows"),
        (("-o", "no/such/place"), 9, "'no/such' does not exist"),
        (("-o", "seaside"), 9, "already exists"),
        (("-o", "seaside", "--force"), 9, "is not an expertc bundle"),
    ],
)
def test_what_cannot_be_calibrated(cli, bundle, seaside, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "own", ("reds", "yellows"))
    photos(tmp_path / "cold", ("greens", "blues"))
    (tmp_path / "empty").mkdir()
    picture(photos(tmp_path / "misspelt", ("reds",)) / "yelows" / "a.png", "yellows")
    before = tree(tmp_path)
    given = {"--data": "seaside", "--others": "seaside", "-o": "new.expert"}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=False))
    force = ["--force"] if "--force" in arguments else []
    found = cli("calibrate", bundle, *(word for pair in given.items() for word in pair), *force)
    assert (found.code, found.out) == (code, "")
    assert words in found.err
    assert tree(tmp_path) == before


def test_what_is_no_bundle(cli, full, seaside, tmp_path):
    for path in (full, tmp_path / "missing", seaside):
        found = cli("calibrate", path, "--data", seaside, "--others", seaside, "-o", tmp_path / "new.expert")
        assert (found.code, found.out) == (3, "")
    assert not (tmp_path / "new.expert").exists()


@pytest.mark.parametrize("output", [("-o", "b.expert"), ("--force",)])
def test_no_write_access(cli, bundle, seaside, output, tmp_path):
    photos = ("--data", seaside, "--others", seaside)
    assert cli("calibrate", bundle, *photos, "-o", tmp_path / "c.expert").code == 0  # which imports what it takes
    with tempfile.TemporaryDirectory() as name:  # pytest's own may be root's alone
        folder = Path(name)
        shutil.copytree(bundle, folder / "a.expert")
        folder.chmod(0o555)
        before = tree(folder)
        output = [str(folder / word) if word.endswith("expert") else word for word in output]
        with unprivileged():
            found = cli("calibrate", folder / "a.expert", *photos, *output)
        assert tree(folder) == before
        folder.chmod(0o755)
    assert (found.code, found.out) == (9, "")
    assert "cannot be written (Permission denied)" in found.err


def test_misspelt_folders_are_left_out_on_request(cli, bundle, tmp_path):
    folder = photos(tmp_path / "p", each=10)
    picture(folder / "yelows" / "a.png", "yellows")
    new = tmp_path / "new.expert"
    arguments = ("calibrate", bundle, "--data", folder, "--others", folder, "-o", new)
    assert cli(*arguments).code == 10
    assert cli(*arguments, "--ignore-unknown").code == 0


def test_the_bundled_sharks_and_rays_among_other_sea_animals(cli, data_dir, tmp_path):
    """On real photos: all of the two classes, every fifth of the other 21."""
    packed = open_dataset(data_dir / "sea-animals-128")
    own = {packed.classes.index(name) for name in ("sharks", "rays")}
    others = [i for i in range(len(packed)) if packed.label(i) not in own][::5]
    chosen = sorted([i for i in range(len(packed)) if packed.label(i) in own] + others)
    files = [packed.open(i).getvalue() for i in chosen]  # type: ignore[union-attr]
    offsets = np.concatenate([[0], np.cumsum([len(file) for file in files])])
    blob = np.frombuffer(b"".join(files), np.uint8)
    np.savez(tmp_path / "val.npz", jpeg=blob, offset=offsets, label=np.array([packed.label(i) for i in chosen]))
    shutil.copy(data_dir / "sea-animals-128" / "meta.json", tmp_path)
    built = expertc.build(classes="sharks,rays", output=tmp_path / "a.expert", verification="off", measure_seconds=0)
    new = tmp_path / "b.expert"
    code, out, err = cli(
        "calibrate", built.path, "--data", tmp_path, "--others", tmp_path, "-o", new, "--reject-rate", "0.05", "--json"
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["rejected"]["images"], found["rejected"]["hits"]) == (109, 5)
    assert found["caught"]["images"] == len(others)
    assert found["scores"][0]["auroc"] > 0.9
    assert found["caught"]["share"] > 0.6
    with expertc.Expert.open(new) as expert:
        said = {i: p.none_of_these for i, p in zip(chosen, expert.predict(files, batch=8), strict=True)}
    assert sum(said[i] is True for i in others) == found["caught"]["hits"]
    assert sum(said[i] is True for i in set(chosen) - set(others)) == 5
