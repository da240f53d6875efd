"""Ranges of tensors: against NumPy, on what ONNX's reference evaluator computes, one tensor at a time."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Net, reference

from expertc import observe as room
from expertc.backends.cpu import open_session
from expertc.errors import DataError, ExitCode, ModelError
from expertc.graph import read_model
from expertc.observe import Range, observe

observed = partial(observe, open_session=partial(open_session, threads=1))


def tiny(batch: int | str = "batch") -> Net:
    """Two convolutions, an integer output, a constant that nothing of the image reaches."""
    net = Net(17, batch=batch)
    x = net.node("Relu", net.conv(net.image(), 3, 4, kernel=3, name="first"), out="relu")
    scores = net.head(net.node("Mul", x, net.node("Sqrt", net.constant(4.0), out="two"), out="twice"), 4, 5)
    net.result(scores, 5)
    best = net.node("ArgMax", scores, out="best", axis=1, keepdims=0)
    net.outputs.append(onnx.helper.make_tensor_value_info(best, onnx.TensorProto.INT64, [batch]))
    return net


def exposed_by_hand(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The same model with one more output."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    del changed.graph.output[:]
    changed.graph.output.add(name=name).type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return changed


def percentiles_of(values: np.ndarray, p: float) -> tuple[float, float]:
    low, high = np.percentile(values, [100 - p, p])
    return float(low), float(high)


@pytest.mark.parametrize("held", [2**29, 1])
@pytest.mark.parametrize("batch", ["batch", 4])
def test_every_tensor_has_the_range_that_numpy_finds(
    batch: int | str, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether all tensors come from one session or every one from its own; the last batch is not full."""
    monkeypatch.setattr(room, "HELD", held)
    net, images = tiny(batch), np.random.default_rng(0).standard_normal((10, 3, 4, 4), np.float32)
    proto = net.model()
    told: list[int] = []
    ranges = observed(
        read_model(net.bytes()), [images[:3], images[3:]], percentiles=(50, 90, 99.9), progress=told.append
    )
    assert told == ([3, 7, 10] if batch == 4 else list(range(1, 11)))
    made = {name for node in proto.graph.node for name in node.output} - {"best"}
    assert ranges.keys() == {"image", *made}  # no weight, no integer
    assert ranges["two"] == Range(2, 2, {50: (2, 2), 90: (2, 2), 99.9: (2, 2)})
    parts = [images[:3], images[2:3], images[3:7], images[7:10], images[9:10]] if batch == 4 else [images]
    shown = np.concatenate(parts)  # a batch that is not full repeats its last image
    for name in made - {"two"}:
        if batch == 4:
            runs = [reference(exposed_by_hand(proto, name), {"image": shown[at : at + 4]}) for at in (0, 4, 8)]
            values = np.concatenate([run[name] for run in runs])
        else:
            values = reference(exposed_by_hand(proto, name), {"image": images})[name]
        assert (ranges[name].low, ranges[name].high) == pytest.approx((values.min(), values.max()), rel=1e-5)
        for p, found in ranges[name].percentile.items() if values.size > 100 else ():  # else they lie far apart
            assert found == pytest.approx(percentiles_of(values, p), rel=0.1, abs=1e-3), (name, p)


@given(st.integers(0, 999), st.sampled_from([1e-9, 1e-3, 1.0, 1e4, 1e30]), st.sampled_from([np.float32, np.float64]))
@settings(deadline=None, max_examples=30)
def test_percentiles_are_those_of_all_values_within_a_bin(seed: int, scale: float, dtype: type) -> None:
    random = np.random.default_rng(seed)
    values = (random.standard_normal(20_000) * scale * random.choice([0, 1, 3], 20_000)).astype(dtype)
    tally = room._Tally()
    for part in np.split(values, 4):
        tally.add(part)
    found = tally.range([50, 75, 99, 99.9, 100])
    assert (found.low, found.high) == (values.min(), values.max())
    for p, pair in found.percentile.items():
        if scale < 1e12:  # above 2^40 there is only one bin
            assert pair == pytest.approx(percentiles_of(values, p), rel=1 / 32, abs=2.0**-24)
        assert found.low <= pair[0] <= pair[1] <= found.high


def test_chosen_tensors_alone() -> None:
    ranges = observed(read_model(tiny().bytes()), [np.ones((1, 3, 4, 4), np.float32)], tensors=["relu"])
    assert list(ranges) == ["relu"]


def test_a_large_model_goes_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertc.graph.write.EXTERNAL_ABOVE", 100)
    ranges = observed(read_model(tiny().bytes()), [np.ones((1, 3, 4, 4), np.float32)], scratch=tmp_path)
    assert "relu" in ranges
    assert (tmp_path / "observed-0.onnx.data").is_file()


@pytest.mark.parametrize(("op", "words"), [("Log", "NaN"), ("Reciprocal", "infinity")])
def test_the_first_node_that_gives_no_number_is_named(op: str, words: str) -> None:
    """Of all that is NaN from there on; the second image is the first that shows it."""
    net = Net(17)
    made = net.node(op, net.node("ReduceMax", net.image(), out="most", axes=[1, 2, 3]), out="bad [bold]")
    net.result(net.node("Flatten", net.node("Mul", made, net.constant(0.0))), 1, name="scores")
    images = np.ones((3, 3, 4, 4), np.float32)
    images[1] = -1 if op == "Log" else 0
    sentence = rf"^The node '{op}:bad \[bold\]' \('{op}'\) gives {words} on image 2\.$"
    with pytest.raises(ModelError, match=sentence):
        observed(read_model(net.bytes()), [images])


def test_images_must_be_there_and_be_numbers() -> None:
    model, images = read_model(tiny(4).bytes()), np.ones((6, 3, 4, 4), np.float32)
    with pytest.raises(DataError, match="no images") as caught:
        observed(model, [images[:0]])
    assert caught.value.exit_code == ExitCode.DATA
    images[5, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="one of the images 5 to 6"):
        observed(model, [images])
