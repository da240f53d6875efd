"""bake: bytes in, the same scores, borders included, and a card that says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from networks import Array, Net, card, operators, run
from onnx import TensorProto, helper
from PIL import Image

from expertc.backends.cpu import open_session
from expertc.card import CARD_KEY, Card, Preprocess
from expertc.errors import CardError
from expertc.graph import read_model, to_bytes
from expertc.instructions import instructions
from expertc.runtime import Expert
from expertc.runtime.preprocess import apply
from expertc.surgery.bake import Bake
from expertc.surgery.fold import Fold
from expertc.surgery.passes import run_all

HEIGHT, WIDTH = 9, 12
SPEC = Preprocess((HEIGHT, WIDTH), 14, "bilinear", mean=(0.2, 0.5, 0.7), std=(0.1, 0.2, 0.4))
CLASSES = 4
ROUNDING = 1e-5  # of the largest |score|


def network(spec: Preprocess, **padding: object) -> Net:
    """One convolution that sees the borders, and a score of every one of its pixels."""
    net = Net()
    dtype = TensorProto.FLOAT16 if spec.dtype == "float16" else TensorProto.FLOAT
    shape = (3, HEIGHT, WIDTH) if spec.layout == "NCHW" else (HEIGHT, WIDTH, 3)
    x = net.image(*shape, dtype=dtype)
    x = net.node("Cast", x, to=TensorProto.FLOAT) if spec.dtype == "float16" else x
    x = net.node("Transpose", x, perm=[0, 3, 1, 2]) if spec.layout == "NHWC" else x
    x = net.node("Conv", x, net.weight(5, 3, 3, 3, name="first"), net.weight(5), strides=[2, 2], **padding)
    net.result(x, 5, None, None, name="seen")
    net.result(net.head(net.node("Relu", x), 5, CLASSES, name="scores"), CLASSES)
    return net


def pictures(count: int = 3) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (17, 19, 3), dtype=np.uint8)) for _ in range(count)]


def baked(data: bytes, spec: Preprocess, *, fold: bool) -> tuple[bytes, Card]:
    """The baked file, checked, and the card in it."""
    described = replace(card(CLASSES), preprocess=spec)
    model, passes = run_all(read_model(data), (Bake(described), Fold()) if fold else (Bake(described),))
    result = to_bytes(model)
    onnx.checker.check_model(onnx.load_from_string(result), full_check=True)
    assert passes[0] == "bake"
    return result, Card.from_json(model.metadata[CARD_KEY])


def tensors(spec: Preprocess) -> Array:
    return np.stack([apply(picture, spec) for picture in pictures()])


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("colour", ["RGB", "BGR"])
@pytest.mark.parametrize("padding", [{"pads": [1, 1, 1, 1]}, {"auto_pad": "SAME_LOWER"}, {}])
def test_the_numbers_are_those_of_the_normalised_image(
    fold: bool, layout: str, colour: str, padding: dict[str, object]
) -> None:
    spec = replace(SPEC, layout=layout, colour=colour)
    data = network(spec, **padding).bytes()
    result, described = baked(data, spec, fold=fold)
    wanted = run(data, {"image": tensors(spec)})
    assert described.preprocess is not None
    pixels = tensors(described.preprocess)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (3, HEIGHT, WIDTH, 3))
    got = run(result, {described.input: pixels})
    for name, values in wanted.items():
        np.testing.assert_allclose(got[name], values, rtol=0, atol=ROUNDING * np.abs(values).max(), err_msg=name)


def test_halves_are_made_in_single_precision() -> None:
    spec = replace(SPEC, dtype="float16")
    data = network(spec, pads=[1, 1, 1, 1]).bytes()
    result, described = baked(data, spec, fold=True)
    assert described.preprocess is not None
    got = run(result, {described.input: tensors(described.preprocess)})["seen"]
    wanted = run(data, {"image": tensors(spec)})["seen"]
    # A last bit of a half may tip over, a rounded mean may not: 255 * 0.7 is 0.03 off in half precision.
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("spec", "padding", "wanted"),
    [
        (SPEC, {"pads": [1, 1, 1, 1]}, ["Cast", "Transpose", "Sub", "Conv"]),
        (SPEC, {}, ["Cast", "Transpose", "Conv"]),
        (replace(SPEC, mean=(0.0, 0.0, 0.0)), {"pads": [1, 1, 1, 1]}, ["Cast", "Transpose", "Conv"]),
        (replace(SPEC, colour="BGR"), {"pads": [1, 1, 1, 1]}, ["Cast", "Transpose", "Gather", "Sub", "Conv"]),
    ],
)
def test_what_is_left_of_it_after_folding(spec: Preprocess, padding: dict[str, object], wanted: list[str]) -> None:
    result, _ = baked(network(spec, **padding).bytes(), spec, fold=True)
    assert operators(result)[: len(wanted)] == wanted


def test_the_card_and_the_input() -> None:
    model = read_model(network(SPEC).bytes())
    after, changed = Bake(replace(card(CLASSES), preprocess=SPEC)).run(model)
    described = Card.from_json(after.metadata[CARD_KEY])
    assert changed
    assert described.input == "pixels"
    assert described.preprocess == Preprocess(
        SPEC.size, 14, "bilinear", (0.0,) * 3, (1.0,) * 3, layout="NHWC", dtype="uint8"
    )
    assert after.inputs == {"pixels": ("batch", HEIGHT, WIDTH, 3)}
    described.check_graph(after.inputs, after.outputs, after.types)
    assert Bake(described).run(after) == (after, False)
    with pytest.raises(CardError, match="does not take bytes"):
        replace(described, input="image").check_graph({"image": (1, HEIGHT, WIDTH, 3)}, after.outputs, {"image": 1})
    with pytest.raises(CardError, match="does not say how"):
        Bake(card(CLASSES)).run(model)


def test_a_tensor_that_is_called_pixels_and_a_subgraph_that_reads_the_image() -> None:
    net = Net()
    x = net.node("Conv", net.image(3, HEIGHT, WIDTH), net.weight(3, 3, 1, 1), out="pixels")
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["image", "pixels"], [f"{op}1"])],
            op, [], [helper.make_tensor_value_info(f"{op}1", TensorProto.FLOAT, None)],
        )
        for op in ("Mul", "Add")
    ]  # fmt: skip
    condition = net.node("Greater", net.node("ReduceMean", "image", keepdims=0), net.constant(0.0))
    x = net.node("If", condition, then_branch=branches[0], else_branch=branches[1])
    net.result(net.head(x, 3, CLASSES, name="scores"), CLASSES)
    result, described = baked(net.bytes(), SPEC, fold=True)
    assert described.input == "pixels.1"
    assert described.preprocess is not None
    got = run(result, {"pixels.1": tensors(described.preprocess)})["scores"]
    wanted = run(net.bytes(), {"image": tensors(SPEC)})["scores"]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=ROUNDING * np.abs(wanted).max())


def test_predictions_are_the_same() -> None:
    net = network(SPEC, pads=[1, 1, 1, 1])
    net.outputs = net.outputs[1:]
    result, described = baked(net.bytes(), SPEC, fold=True)
    labels = tuple("abcd")
    answers = []
    for data, spec in ((net.bytes(), SPEC), (result, described.preprocess)):
        with Expert(open_session(data), labels, spec, "scores", "logits") as expert:
            answers.append(expert.predict(pictures(), batch=2))
    for plain, ours in zip(*answers, strict=True):
        assert [label for label, _ in ours.labels] == [label for label, _ in plain.labels]
        np.testing.assert_allclose([p for _, p in ours.labels], [p for _, p in plain.labels], rtol=0, atol=1e-5)


def test_the_instructions_run_without_this_package(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    net = network(SPEC, pads=[1, 1, 1, 1])
    result, described = baked(net.bytes(), SPEC, fold=True)
    text = instructions(replace(described, selected_from=9))
    assert "mean" not in text
    (folder / "expert.onnx").write_bytes(result)
    (folder / "labels.txt").write_text("a\nb\nc\nd\n")
    photo = pictures()[0].resize((40, 50))
    photo.save(folder / "photo.png")
    snippet = text.partition("With ONNX Runtime alone\n")[2].partition("With TensorRT")[0]
    code = "\n".join(line.strip() for line in snippet.splitlines()).replace("photo.jpg", "photo.png")
    monkeypatch.chdir(folder)
    exec(code, {})
    best = run(net.bytes(), {"image": apply(photo, SPEC)[None]})["scores"][0].argmax()
    assert capsys.readouterr().out.strip() == "abcd"[best]


def test_bytes_have_neither_mean_nor_deviation() -> None:
    described = SPEC.as_bytes()
    assert Preprocess.from_mapping(described.to_mapping()) == described
    for key in ("mean", "std"):
        with pytest.raises(CardError, match=f"'{key}'") as caught:
            replace(described, **{key: (0.5, 0.5, 0.5)})
        assert "three times for uint8" in caught.value.hint
