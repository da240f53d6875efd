"""The pieces of the ladder, each against a slow and obvious version of itself."""

from __future__ import annotations

from itertools import combinations

import branched
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import run

from expertc.errors import BundleError, DataError
from expertc.graph import read_model, to_bytes
from expertc.limits import Limits
from expertc.preprocessing import Preprocess
from expertc.verify import Certificate
from expertc.verify.inputs import noise, prepare
from expertc.verify.reference import poisoned, whole
from expertc.verify.scores import decisions, monotony, relative_distance, reversals
from expertc.verify.structure import trace
from expertc.verify.views import views
from expertc.verify.weights import is_part

# -- parts of weights ----------------------------------------------------------------------------------------------


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_rows_of_a_weight_are_recognised(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    few = data.draw(st.booleans())  # values that occur again and again
    full = random.integers(0, 3, shape).astype(np.float32) if few else random.standard_normal(shape).astype(np.float32)
    axes = data.draw(st.sets(st.sampled_from(range(len(shape))), max_size=1 if few else len(shape)))
    taken = [
        sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1))) if axis in axes else list(range(size))
        for axis, size in enumerate(shape)
    ]
    assert is_part(full[np.ix_(*taken)], full)


@given(st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_other_rows_are_not(seed: int) -> None:
    random = np.random.default_rng(seed)
    full = random.permutation(60).reshape(5, 4, 3).astype(np.float32)
    part = full[np.ix_([0, 2, 3], [1, 3], [0, 1, 2])]
    assert not is_part(part[::-1], full)
    assert not is_part(part[[0, 0, 1]], full)
    assert not is_part(part[:, ::-1], full)
    assert not is_part(part + np.float32(1e-6), full)
    assert not is_part(part.astype(np.float64), full)
    assert not is_part(full.transpose(2, 0, 1), full)
    changed = part.copy()
    changed[random.integers(3), random.integers(2), random.integers(3)] += 0.5
    assert not is_part(changed, full)


def test_bits_are_compared_not_numbers() -> None:
    full = np.array([0.0, -0.0, np.nan, 1.0], np.float32)
    assert is_part(full[1:3], full)
    assert not is_part(np.array([-0.0, 0.0], np.float32), full)


# -- scores --------------------------------------------------------------------------------------------------------


def test_distance_is_relative_to_the_largest_score() -> None:
    want = np.array([[1.0, -4.0], [0.5, 0.0]], np.float32)
    assert relative_distance(want, want) == 0
    assert relative_distance(want + np.float32(0.5), want) == pytest.approx(0.125)
    assert relative_distance(np.ones(2), np.zeros(2)) == np.inf


@given(st.integers(0, 9999), st.integers(1, 7), st.sampled_from([0, 0.5, 3]))
@settings(deadline=None, max_examples=60)
def test_reversals_are_pairs_in_the_wrong_order(seed: int, classes: int, margin: float) -> None:
    random = np.random.default_rng(seed)
    want = random.integers(0, 9, (4, classes)).astype(np.float64)
    got = want + random.integers(-2, 3, want.shape)
    slow = sum(
        any(
            (a - b) * (c - d) <= 0 and abs(a - b) > margin for (a, c), (b, d) in combinations(zip(w, g, strict=True), 2)
        )
        for w, g in zip(want, got, strict=True)
    )
    assert reversals(got, want, margin) == slow


def test_decisions_tell_clear_cases_from_ties() -> None:
    want = np.array([[0.0, 1.0], [0.50, 0.51], [0.0, 1.0]])
    got = np.array([[1.0, 0.0], [0.52, 0.51], [0.2, 0.9]])
    assert decisions(got, want, 0.1) == (1, 1)


def test_scores_that_vary_say_something() -> None:
    table = np.random.default_rng(0).standard_normal((8, 3))
    assert monotony(table, 1e-5) == (None, "")
    assert monotony(np.where([True, False, True], table, 2.0), 1e-5) == (1, "is the same for every input")
    assert monotony(1 + 1e-7 * table, 1e-5)[1] == "hardly vary from input to input"
    assert monotony(np.repeat(table[:, :1], 3, axis=1), 1e-5)[1] == "hardly vary from class to class"
    assert monotony(table[:, :1], 1e-5) == (None, "")


# -- inputs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_noise_goes_through_the_preprocessing(layout: str) -> None:
    spec = Preprocess((32, 32), 32, "nearest", (0.1, 0.2, 0.3), (0.5, 0.25, 0.125), layout=layout)
    made = noise(8, spec, (None, 3, 32, 32), 0)
    planes = made.transpose(0, 3, 1, 2) if layout == "NHWC" else made
    assert planes.shape == (8, 3, 32, 32)
    pixels = (planes * np.reshape(spec.std, (3, 1, 1)) + np.reshape(spec.mean, (3, 1, 1))) * 255
    assert np.abs(pixels - pixels.round()).max() < 1e-3
    assert pixels.min() > -0.5
    assert pixels.max() < 255.5
    for number in range(6):
        square = 2**number
        corners = pixels[number, :, ::square, ::square]
        assert np.array_equal(pixels[number], corners.repeat(square, 1).repeat(square, 2))
    assert len({image.tobytes() for image in made}) == 8
    assert np.array_equal(noise(8, spec, (None, 3, 32, 32), 0), made)
    assert not np.array_equal(noise(8, spec, (None, 3, 32, 32), 1), made)


def test_without_preprocessing_the_inputs_are_normal() -> None:
    made = noise(8, None, ("batch", 3, 20, None), 0)
    assert made.shape == (8, 3, 20, 224)
    assert made.dtype == np.float32
    assert abs(made.mean()) < 0.02
    assert abs(made.std() - 1) < 0.02


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(DataError, match="shape"):
        prepare(np.zeros((2, 3, 9, 9), np.float32), branched.PREPROCESS, (None, 3, 8, 8), images=True)


# -- the reference -------------------------------------------------------------------------------------------------


def test_the_kept_nodes_alone_give_the_same_scores() -> None:
    case = branched.nested((0, 3))
    full, cut = read_model(case.full), read_model(case.cut)
    kept = trace(full, cut, views(full, case.card), case.card, case.indices).twins
    x = prepare(None, branched.PREPROCESS, (None, 3, 8, 8)).values
    scores = run(to_bytes(poisoned(full, kept, ["scores"], {"batch": len(x)}).model), {"image": x})["scores"]
    truth = run(case.full, {"image": x})["scores"]
    assert np.array_equal(scores[:, [0, 3]], truth[:, [0, 3]])
    assert np.isnan(scores[:, [1, 2, 4]]).all()
    assert np.array_equal(run(to_bytes(whole(full, ["scores"])), {"image": x})["scores"], truth)


def test_every_node_that_is_left_out_is_noticed() -> None:
    case = branched.separate((1, 3))
    full, cut = read_model(case.full), read_model(case.cut)
    kept = trace(full, cut, views(full, case.card), case.card, case.indices).twins
    x = prepare(None, branched.PREPROCESS, (None, 3, 8, 8)).values
    for at in kept:
        if full.nodes[at].op != "Concat":  # rearranging is never left out
            scores = run(to_bytes(poisoned(full, kept - {at}, ["scores"], {"batch": len(x)}).model), {"image": x})[
                "scores"
            ]
            assert np.isnan(scores[:, [1, 3]]).any(), full.nodes[at].name


# -- limits and certificates ---------------------------------------------------------------------------------------


def test_limits_grow_with_the_model_and_the_inputs() -> None:
    small, large = read_model(branched.separate().cut), read_model(branched.separate().full)
    one, other = (Limits.of(m, m.inputs["image"], (8, 3, 8, 8), 8) for m in (small, large))
    assert one.memory_bytes < other.memory_bytes
    assert one.seconds < other.seconds
    many = Limits.of(small, small.inputs["image"], (1000, 3, 8, 8), 8)
    assert many.memory_bytes == one.memory_bytes
    assert many.seconds > one.seconds


def test_a_certificate_of_nothing() -> None:
    assert Certificate.from_mapping(Certificate.off().to_mapping()) == Certificate.off()
    assert Certificate.off().failure is None


@pytest.mark.parametrize(
    "change", [{"verdict": "perfect"}, {"level": "some"}, {"steps": {}}, {"steps": [{"name": "x"}]}, {"more": 1}]
)
def test_a_malformed_certificate_is_refused(change: dict[str, object]) -> None:
    mapping = branched.separate().climb().to_mapping()
    with pytest.raises(BundleError):
        Certificate.from_mapping({**mapping, **change})
