"""within_budget: as many layers in int8 as decide like fp32; what it reports is what ONNX Runtime then does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Array, Net, run

from expertc import sensitivity
from expertc.backends.cpu import open_session
from expertc.backends.processor import saturates
from expertc.card import Output
from expertc.errors import DataError, UsageError, VerificationError
from expertc.graph import Model, read_model, to_bytes
from expertc.observe import Range, observe
from expertc.sensitivity import Sensitivity, within_budget
from expertc.surgery.quantise import ONNXRUNTIME as GENERAL
from expertc.surgery.quantise import TENSORRT, Flavour

CLASSES = 6
OUTPUT = Output("scores")
ONNXRUNTIME = replace(GENERAL, reduce_range=saturates())  # as it is built for this machine


def images(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8), np.float32)


def uneven(batch: int | str = "batch") -> Net:
    """Four convolutions; the channels of the second differ by a factor of 3,000, which one scale for all cannot hold.

    The third makes up for it, so that all channels matter for the scores.
    """
    net = Net(17, batch=batch)
    x = net.image(3, 8, 8)
    for number, (cin, cout) in enumerate([(3, 8), (8, 8), (8, 8), (8, 8)]):
        x = net.node("Relu", net.conv(x, cin, cout, kernel=3, name=f"conv-{number}"))
    spread = np.geomspace(1, 3000, 8).astype(np.float32)
    net.initializers["conv-1.w"] *= spread[:, None, None, None]
    net.initializers["conv-1.b"] *= spread
    net.initializers["conv-2.w"] /= spread[None, :, None, None]
    net.result(net.head(x, 8, CLASSES, name="head"), CLASSES, name="scores")
    # Take the mean off the scores, so that which class wins depends on the image.
    if batch == "batch":
        net.initializers["head.b"] -= run(net.model(), {"image": images(64, 9)})["scores"].mean(axis=0)
    else:
        net.initializers["head.b"] = uneven().initializers["head.b"]
    return net


def judged(net: Net, **options: Any) -> tuple[Model, Model, Sensitivity]:
    model = read_model(net.bytes())
    ranges = observe(model, [images(32, 0)], open_session=one_thread)
    options = {"flavour": ONNXRUNTIME, "output": OUTPUT, "open_session": one_thread} | options
    made, report = within_budget(model, ranges, options.pop("images", images(100, 1)), **options)
    return model, made, report


def one_thread(model: Path | bytes, *, optimise: bool) -> Any:
    return open_session(model, optimise=optimise, threads=1)


def differing(model: Model, made: Model, x: Array) -> int:
    one, other = (open_session(to_bytes(m), threads=1).run(x)["scores"] for m in (model, made))
    return int((one.argmax(axis=1) != other.argmax(axis=1)).sum())


def test_all_stays_quantised_if_the_budget_holds() -> None:
    """Nothing is ranked then: the trials are the calibrations, and the best of them is the last."""
    told: list[str] = []
    model, made, report = judged(uneven(), max_drop=60, progress=lambda stage, done, total: told.append(stage))
    assert set(told) == {"calibrate"}
    assert report.restored == ()
    assert {trial.percentile for trial in report.trials} == {None, 99.99, 99.9}
    assert report.chosen.differing == min(trial.differing for trial in report.trials)
    assert report.chosen.differing == differing(model, made, images(100, 1))


@pytest.mark.parametrize(("batch", "flavour"), [("batch", ONNXRUNTIME), (1, ONNXRUNTIME), (8, TENSORRT)])
def test_the_worst_layers_go_back_to_fp32(batch: int | str, flavour: Flavour) -> None:
    model, made, report = judged(uneven(batch), max_drop=2, flavour=flavour)
    assert report.trials[0].drop > 2
    assert report.chosen.drop <= 2
    assert {layer.layer for layer in report.restored} & {"conv-1", "conv-2"}
    assert report.layers == 5
    assert 0 < len(report.restored) == report.chosen.restored < 5
    errors = [layer.error for layer in report.restored]
    assert errors == sorted(errors, reverse=True)
    weighted = [node for node in made.nodes if node.op in ("Conv", "Gemm")]
    single = {node.outputs[0].name for node in weighted if node.inputs[1].name in made.constants}
    assert {layer.layer for layer in report.restored} == single
    if batch == "batch":
        assert report.chosen.differing == differing(model, made, images(100, 1))
    assert f"{len(report.restored)} of 5 layers" in report.notes[0]


def test_the_same_every_time() -> None:
    one, other = (judged(uneven(), max_drop=2) for _ in range(2))
    assert to_bytes(one[1]) == to_bytes(other[1])
    assert one[2] == other[2]


def test_few_images_are_said_to_be_few() -> None:
    _, _, report = judged(uneven(), images=images(20, 1), max_drop=4)
    assert report.chosen.differing == 0
    assert "20 images cannot tell 4 points" in report.notes[1]


@pytest.mark.parametrize("total", [1, 2, 3, 10, 51])
def test_the_fewest_by_few_trials(total: int) -> None:
    for least in range(1, total + 2):
        asked: list[int] = []

        def holds(count: int, least: int = least, asked: list[int] = asked) -> bool:
            asked.append(count)
            return count >= least

        assert sensitivity._fewest(holds, total) == (least if least < total else 0)
        assert len(asked) == len(set(asked)) <= 2 * total.bit_length() + 1


def test_a_budget_that_cannot_be_met() -> None:
    """Ranges that are far too small: whatever is in int8 is wrong."""
    model = read_model(uneven().bytes())
    ranges = {name: Range(0.0, 1e-9, {}) for name in observe(model, [images(2, 0)])}
    with pytest.raises(VerificationError, match="a single layer in int8") as caught:
        within_budget(
            model,
            ranges,
            images(50, 1),
            flavour=ONNXRUNTIME,
            output=OUTPUT,
            percentiles=[None],
            open_session=one_thread,
        )
    assert "--max-drop" in caught.value.hint


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "size": ({"images": np.zeros((4, 3, 9, 8), np.float32)}, DataError, r"\(4, 3, 9, 8\), the expert takes"),
    "one image": ({"images": np.zeros((3, 8, 8), np.float32)}, DataError, "of shape"),
    "none": ({"images": np.zeros((0, 3, 8, 8), np.float32)}, DataError, "of shape"),
    "NaN": ({"images": np.full((4, 3, 8, 8), np.nan, np.float32)}, DataError, "not numbers"),
    "budget": ({"max_drop": -1}, UsageError, "no budget"),
    "all": ({"max_drop": 100}, UsageError, "no budget"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_judged(case: str) -> None:
    options, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        judged(uneven(), **options)
