"""``expertc predict``."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from rainbow import photos, picture, rainbow


def test_labels_with_probabilities(cli, bundle, tmp_path):
    red, yellow = picture(tmp_path / "a.png", "reds"), picture(tmp_path / "b.jpg", "yellows")
    code, out, err = cli("predict", bundle, red, yellow)
    assert (code, err) == (0, "")
    # logits by hand: reds 8.175 and 0, yellows 0.5 * 1 + 7 * 0.7 + 3 / 16
    assert out.splitlines()[0] == f"{red}: reds 93.0 %, yellows 7.0 %"
    assert out.splitlines()[1].startswith(f"{yellow}: yellows 100.0 %, reds 0.0 %")


def test_json_is_a_list_of_images_with_their_predictions(cli, bundle, tmp_path):
    red = picture(tmp_path / "a.png", "reds")
    code, out, err = cli("predict", bundle, red, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert isinstance(found, list)
    assert [set(item) for item in found] == [{"image", "predictions"}]
    assert found[0]["image"] == str(red)
    predictions = found[0]["predictions"]
    assert [set(item) for item in predictions] == [{"label", "probability"}] * 2
    assert [item["label"] for item in predictions] == ["reds", "yellows"]
    assert [item["probability"] for item in predictions] == sorted(
        (p["probability"] for p in predictions), reverse=True
    )
    assert sum(item["probability"] for item in predictions) == pytest.approx(1)


def test_top(cli, bundle, tmp_path):
    red = picture(tmp_path / "a.png", "reds")
    assert cli("predict", bundle, red, "--top", "1").out == f"{red}: reds 93.0 %\n"
    code, _, err = cli("predict", bundle, red, "--top", "0")
    assert code == 2
    assert "--top" in err


def test_images_and_folders_in_order(cli, bundle, tmp_path):
    folder = photos(tmp_path / "photos", ("reds", "yellows"), each=2)
    single = picture(tmp_path / "z.png", "yellows")
    found = json.loads(cli("predict", bundle, single, folder, "--json").out)
    assert [item["image"] for item in found] == [
        str(single), *(str(folder / name) for name in ("reds/0.png", "reds/1.png", "yellows/0.png", "yellows/1.png")),
    ]  # fmt: skip
    assert [item["predictions"][0]["label"] for item in found] == ["yellows", "reds", "reds", "yellows", "yellows"]


def test_a_bad_image_is_named_and_the_others_go_on(cli, bundle, tmp_path):
    good = picture(tmp_path / "good.png", "reds")
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    paths = (tmp_path / "bad.jpg", good, tmp_path / "missing.png")
    code, out, err = cli("predict", bundle, *paths)
    assert code == 10
    assert out == f"{good}: reds 93.0 %, yellows 7.0 %\n"
    assert [line.partition(":")[0] for line in err.splitlines()] == [str(paths[0]), str(paths[2])]
    code, out, err = cli("predict", bundle, *paths, "--json")
    found = json.loads(out)
    assert (code, err) == (10, "")
    assert [set(item) for item in found] == [{"image", "error"}, {"image", "predictions"}, {"image", "error"}]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_any_kind_of_picture(cli, bundle, tmp_path, mode):
    grey = Image.new("L", (9, 9), 200)
    made = Image.new("I;16", (9, 9), 200 * 257) if mode == "I;16" else grey.convert(mode)
    made.save(tmp_path / ("a.tiff" if mode == "CMYK" else "a.png"))
    found = json.loads(cli("predict", bundle, tmp_path, "--json").out)
    # grey: reds 8 * -g + ..., yellows: 0.7 + 0.7 - 1.4 = 0 and -g / 2, so yellow is the warmer of the two
    assert found[0]["predictions"][0]["label"] == "yellows"


def test_a_folder_without_images(cli, bundle, tmp_path):
    code, out, err = cli("predict", bundle, tmp_path)
    assert (code, out) == (10, "")
    assert "holds no images" in err


def test_a_bundle_without_preprocessing(cli, tmp_path):
    (tmp_path / "full.onnx").write_bytes(rainbow(spec=None).bytes())
    out = tmp_path / "a.expert"
    assert (
        cli("build", tmp_path / "full.onnx", "--classes", "warm", "-o", out, "--verify", "off", "--measure", "0").code
        == 0
    )
    code, _, err = cli("predict", out, picture(tmp_path / "a.png", "reds"))
    assert code == 3
    assert "does not say how images become tensors" in err


def test_the_python_face(bundle, tmp_path):
    import expertc

    red = picture(tmp_path / "a.png", "reds")
    with expertc.Expert.open(bundle) as expert:
        predictions = expert.predict([red, Image.new("RGB", (5, 5), (255, 255, 0))])
    assert [prediction.labels[0][0] for prediction in predictions] == ["reds", "yellows"]
