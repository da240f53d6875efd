"""The ladder accepts what the cut makes, in every form of network, and says what it saw."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import branched
import numpy as np
import pytest
from branched import Case

from expertc.graph import read_model, to_bytes, with_batch
from expertc.verify import Certificate
from expertc.verify.inputs import noise

CASES: dict[str, Case] = {
    "separate branches": branched.separate(),
    "separate branches, one class": branched.separate((2,)),
    "separate branches, all classes": branched.separate((0, 1, 2, 3, 4)),
    "separate branches, fixed batch": branched.separate((0, 4), 2),
    "grouped": branched.grouped(),
    "grouped, one class": branched.grouped((4,)),
    "nested": branched.nested(),
    "nested, one category": branched.nested((2, 3, 4)),
    "nested, one class": branched.nested((1,)),
    "softmax": branched.softmax(),
    "softmax, one class": branched.softmax((5,)),
    "log-softmax": branched.softmax((1, 3, 4), "LogSoftmax"),
    "softmax, then log": branched.softmax((1, 5), "Log"),
    "normalised over all classes": branched.normalised(),
    "normalised, scattered": branched.normalised((0, 2, 4)),
    "index of the best class": branched.indexed(),
    "four outputs": branched.several(),
    "a subgraph that reads from outside": branched.captured(),
    "split and concatenated": branched.shuffled(),
    "split and concatenated, one class": branched.shuffled((3,)),
}


@pytest.mark.parametrize("level", ["fast", "full"])
@pytest.mark.parametrize("name", CASES)
def test_an_expert_is_verified(name: str, level: str) -> None:
    certificate = CASES[name].climb(level)
    assert certificate.failure is None
    assert [(step.name, step.passed) for step in certificate.steps] == [
        ("structure", True), ("raw scores", True), ("optimised", True),
    ]  # fmt: skip
    assert certificate.verdict == "verified"
    assert certificate.level == level


def test_separate_branches_must_be_equal_bit_for_bit() -> None:
    raw = branched.separate().climb().steps[1]
    assert raw.numbers["allowed"] == raw.numbers["largest_difference"] == 0
    assert raw.numbers["poisoned_tensors"] == 3  # what the final Concat read from the branches that are gone
    assert "bit for bit" in raw.detail


def test_a_smaller_kernel_may_round_otherwise() -> None:
    assert branched.grouped().climb().steps[1].numbers["allowed"] == 1e-5


def test_the_whole_model_has_no_poison() -> None:
    assert branched.separate().climb("full").steps[1].numbers["poisoned_tensors"] == 0


def test_structure_counts_what_went() -> None:
    numbers = branched.separate().climb().steps[0].numbers
    full = read_model(branched.separate().full)
    assert numbers["nodes"] + numbers["removed_nodes"] == len(full.nodes)
    assert numbers["weights"] + numbers["removed_weights"] == len(full.constants)
    assert numbers["removed_nodes"] == 3 * 6  # conv, norm, relu, pool, flatten, gemm of three branches


def test_a_final_model_for_one_image_is_run_image_by_image() -> None:
    case = branched.grouped()
    single = to_bytes(with_batch(read_model(case.final), 1))
    assert replace(case, final=single).climb().verdict == "verified"


def test_a_final_model_for_many_images_is_filled_up() -> None:
    case = branched.grouped()
    many = to_bytes(with_batch(read_model(case.final), 30))
    assert replace(case, final=many).climb().verdict == "verified"


def test_an_expert_of_an_expert_is_verified_against_it() -> None:
    first = branched.nested((0, 3, 4))
    card = first.card.restrict(first.indices)
    assert branched.case(first.cut, card, (1, 2)).climb().verdict == "verified"


def test_the_certificate_is_the_same_every_time() -> None:
    certificate = branched.grouped().climb()
    assert branched.grouped().climb() == certificate
    assert Certificate.from_mapping(certificate.to_mapping()) == certificate


# -- photos --------------------------------------------------------------------------------------------------------


def images(count: int) -> np.ndarray[Any, Any]:
    return noise(count, branched.PREPROCESS, (None, 3, 8, 8), 7)


def test_decisions_on_photos_are_a_step() -> None:
    certificate = branched.grouped().climb(images=images(19))
    assert certificate.inputs == {"kind": "images", "count": 19, "noise": 0, "seed": 0}
    assert certificate.steps[-1].name == "decisions"
    assert certificate.steps[-1].numbers == {"images": 19, "agreed": 19, "undecided": 0}
    assert certificate.steps[1].numbers["inputs"] == 19


def test_a_single_photo_is_joined_by_noise() -> None:
    certificate = branched.separate().climb(images=images(1))
    assert certificate.verdict == "verified"
    assert certificate.inputs == {"kind": "images", "count": 1, "noise": 7, "seed": 0}
    assert certificate.steps[-1].numbers["images"] == 1


def test_without_photos_there_is_noise() -> None:
    certificate = branched.separate().climb()
    assert certificate.inputs == {"kind": "noise", "count": 8, "noise": 8, "seed": 0}


# -- scores that say nothing ---------------------------------------------------------------------------------------


def flat(full: bytes, *names: str) -> bytes:
    def change(proto: Any) -> None:
        for name in names:
            branched.put(proto, name, np.zeros_like(branched.weight(proto, name)))

    return branched.altered(full, change)


def test_constant_scores_are_uninformative() -> None:
    whole = branched.separate()
    case = branched.case(flat(whole.full, *(f"b{i}.head.w" for i in range(5))), whole.card, (1, 3))
    certificate = case.climb()
    assert certificate.verdict == "uninformative"
    assert all(step.passed for step in certificate.steps)
    assert "'class-1' is the same for every input" in certificate.steps[1].detail


def test_one_dead_class_is_uninformative_and_named() -> None:
    whole = branched.separate()
    case = branched.case(flat(whole.full, "b3.head.w"), whole.card, (1, 3))
    certificate = case.climb()
    assert certificate.verdict == "uninformative"
    assert "'class-3'" in certificate.steps[1].detail
    assert branched.case(case.full, whole.card, (1, 2)).climb().verdict == "verified"


def test_classes_that_never_differ_are_uninformative() -> None:
    def same(proto: Any) -> None:
        for kind in ("w", "b"):
            values = branched.weight(proto, f"fc.{kind}")
            branched.put(proto, f"fc.{kind}", np.broadcast_to(values[:1], values.shape))

    whole = branched.softmax()
    case = branched.case(branched.altered(whole.full, same), whole.card, (0, 2))
    certificate = case.climb()
    assert certificate.verdict == "uninformative"
    assert "from class to class" in certificate.steps[1].detail


def test_nan_in_the_full_model_is_said_to_be_its_own() -> None:
    def spoil(proto: Any) -> None:
        values = branched.weight(proto, "b1.head.w")
        values[0, 0] = np.nan
        branched.put(proto, "b1.head.w", values)

    whole = branched.separate()
    certificate = branched.case(branched.altered(whole.full, spoil), whole.card, (1, 3)).climb()
    assert certificate.verdict == "failed"
    assert certificate.failure is not None
    assert certificate.failure.detail == "The full model itself gives NaN or infinity for the selected classes."
