"""Experts in half precision, and with their preprocessing inside: what the ladder says of sound ones and of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import comb
from typing import Any

import branched
import controlled
import numpy as np
import onnx
import pytest
from branched import Case, altered, insert_after, put, quiet_session, weight
from networks import Net, card, run
from onnx import helper, numpy_helper

from expertc.card import CARD_KEY, Card
from expertc.errors import BundleError, ExitCode, VerificationError
from expertc.graph import Model, read_model, to_bytes
from expertc.preprocessing import Preprocess
from expertc.surgery import precision as conversions
from expertc.surgery.bake import Bake
from expertc.surgery.fold import Fold
from expertc.surgery.half import Half, choose_islands
from expertc.surgery.prune import prune
from expertc.verify import Certificate
from expertc.verify.inputs import prepare
from expertc.verify.ladder import climb
from expertc.verify.lowered import BUDGETS, Lowered
from expertc.verify.process import verify

Array = np.ndarray[Any, Any]


def with_gains() -> Case:
    own = controlled.controlled()
    full = altered(
        next(iter(controlled.FORMS.values()))().bytes(), lambda p: helper.set_model_props(p, {CARD_KEY: own.to_json()})
    )
    cut = to_bytes(prune(read_model(full), own, (1, 3)).model)
    return Case(full, own, (1, 3), cut, to_bytes(Fold().run(read_model(cut))[0]))


CASES = {
    "separate": branched.separate(),
    "grouped": branched.grouped(),
    "one class": branched.nested((1,)),
    "fixed batch": branched.separate((0, 4), 2),
    "softmax": branched.softmax(),
    "log-softmax": branched.softmax((1, 3, 4), "LogSoftmax"),
    "normalised": branched.normalised(),
    "index": branched.indexed(),
    "four outputs": branched.several(),
    "a branch that reads from outside": branched.captured(),
    "branches with weights": branched.deciding(),
    "gains": with_gains(),
}


def photos(count: int = 24, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def half(case: Case, islands: Mapping[str, str] | None = None) -> Lowered:
    final = read_model(case.final)
    done = Half(choose_islands(final) if islands is None else islands)
    return Lowered(to_bytes(done.run(final)[0]), done.recipe(final))


def climbed(
    case: Case, lowered: Lowered | None, images: Array | None = None, baked: Preprocess | None = None
) -> Certificate:
    model = read_model(case.full)
    spec, shape = case.card.preprocess, model.inputs[case.card.input]
    inputs = prepare(images, spec, shape, images=images is not None, baked=baked)
    return climb(
        quiet_session, model, case.cut, case.final, card=case.card, indices=case.indices, inputs=inputs, lowered=lowered
    )


@pytest.mark.parametrize("given", [None, photos()], ids=["noise", "photos"])
@pytest.mark.parametrize("name", CASES)
def test_an_expert_in_half_precision_is_verified(name: str, given: Array | None) -> None:
    case = CASES[name]
    size = read_model(case.full).inputs[case.card.input][2:]
    given = None if given is None else np.resize(given, (24, 3, *size))
    certificate = climbed(case, half(case), given)
    assert certificate.failure is None, certificate.failure
    assert (certificate.verdict, certificate.carried_by) == ("verified", "precision")
    numbers = certificate.steps[-1].numbers
    assert 0 <= numbers["mean_error"] <= numbers["largest_error"] <= 0.05
    if given is None:
        assert "says nothing about decisions" in certificate.steps[-1].detail
        assert "agreed" not in numbers
    else:
        assert numbers["agreed"] + numbers["undecided"] == numbers["inputs"] == 24
        assert [step.name for step in certificate.steps][-2:] == ["decisions", "precision"]


def test_the_errors_are_those_of_the_probabilities() -> None:
    """The worst image and the mean, as ONNX Runtime gives them: for the file, and with every tensor handed over."""
    case, x = branched.separate(), photos()
    lowered = half(case)
    assert isinstance(lowered.file, bytes)
    open_to_see = onnx.load_from_string(lowered.file)
    made = [name for node in open_to_see.graph.node for name in node.output if name != "scores"]
    open_to_see.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    sides = [quiet_session(lowered.file).run(x)["scores"], run(open_to_see, {"image": x})["scores"]]
    assert not np.array_equal(*sides)

    def likely(scores: Array) -> Array:
        powers = np.exp(scores.astype(np.float64))
        return powers / powers.sum(axis=1, keepdims=True)

    wanted = likely(run(case.final, {"image": x})["scores"])
    errors = np.max([np.abs(likely(scores) - wanted).max(axis=1) for scores in sides], axis=0)
    numbers = climbed(case, lowered, x).steps[-1].numbers
    assert numbers["largest_error"] == pytest.approx(errors.max(), rel=0.01)
    assert numbers["mean_error"] == pytest.approx(errors.mean(), rel=0.01)
    assert numbers["worst_input"] == errors.argmax() + 1


def test_few_photos_are_judged_alone() -> None:
    """Noise joins them, for NaN's sake."""
    certificate = climbed(branched.separate(), half(branched.separate()), photos(3))
    assert certificate.inputs["noise"] == 5
    numbers = certificate.steps[-1].numbers
    assert numbers["inputs"] == numbers["agreed"] + numbers["undecided"] == 3


# -- NaN and infinity ----------------------------------------------------------------------------------------------


def overflowing() -> Case:
    """A channel reaches 1e5 and is scaled down again: ONNX Runtime's processor, in single precision, never sees it."""
    net = Net(17, seed=20)
    x = net.node("Relu", net.conv(net.image(3, 8, 8), 3, 8, kernel=3, name="c"))
    x = net.node("Relu", net.node("Mul", x, net.constant(3e4), out="huge"), out="still huge")
    net.node("Identity", net.head(net.node("Mul", x, net.constant(3e-5)), 8, 3, name="fc"), out="scores")
    net.result("scores", 3)
    return branched.case(net.bytes(), card(3), (0, 2))


def test_what_is_infinite_only_in_between_fails() -> None:
    case = overflowing()
    lowered = half(case)
    assert isinstance(lowered.file, bytes)
    session = quiet_session(lowered.file)
    assert all(np.isfinite(values).all() for values in session.run(photos()).values())  # as if nothing were
    failure = climbed(case, lowered).failure
    assert failure is not None
    assert failure.name == "precision"
    assert failure.detail == "In fp16 the node 'Mul:huge' ('Mul') gives infinity."


def test_it_is_an_error_with_exit_code_5() -> None:
    """Across the process that runs it; and with the node in single precision there is none."""
    case = overflowing()
    options: dict[str, Any] = {"card_full": case.card, "indices": case.indices}
    with pytest.raises(
        VerificationError, match=r"^Verification failed \(precision\): In fp16 the node .* infinity\.$"
    ) as it:
        verify(case.full, case.cut, case.final, half(case), **options)
    assert it.value.exit_code == ExitCode.VERIFICATION == 5
    assert it.value.hint.startswith("Calibrate on more photos")
    ranges = {"huge": (-1e5, 1e5), "still huge": (0.0, 1e5)}
    sound = half(case, choose_islands(read_model(case.final), ranges))
    certificate = verify(case.full, case.cut, case.final, sound, **options)
    assert (certificate.verdict, certificate.carried_by) == ("verified", "precision")


# -- what the conversion did not make ------------------------------------------------------------------------------


def smuggled(proto: onnx.ModelProto) -> None:
    """A weight of a class that was removed, rounded, where nobody reads it."""
    full = onnx.load_from_string(branched.separate().full)
    weight = next(t for t in full.graph.initializer if t.name == "b0.conv.w")
    proto.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), "w"))


CHANGES: dict[str, Callable[[onnx.ModelProto], Any]] = {
    "one weight": lambda proto: put(proto, "b1.head.b", weight(proto, "b1.head.b") * np.float16(1.01)),
    "a removed weight": smuggled,
    "another metadata entry": lambda proto: proto.metadata_props.add(key="note", value="class-0"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_only_what_the_conversion_makes_is_accepted(name: str) -> None:
    case = branched.separate()
    lowered = half(case)
    assert isinstance(lowered.file, bytes)
    failure = climbed(case, replace(lowered, file=altered(lowered.file, CHANGES[name]))).failure
    assert failure is not None
    assert (failure.name, failure.detail) == (
        "structure", "The expert in fp16 is not what its conversion makes of it.",
    )  # fmt: skip


def test_the_recipe_is_part_of_it() -> None:
    case = branched.separate()
    lowered = half(case)
    other = {"precision": "fp16", "islands": {**lowered.recipe["islands"], "scores": "asked for"}}
    failure = climbed(case, replace(lowered, recipe=other)).failure
    assert failure is not None
    assert failure.name == "structure"


@pytest.mark.parametrize(
    "recipe",
    [{"precision": "fp16"}, {"precision": "fp16", "islands": ["a"]}, {"precision": "fp16", "islands": {"a": 1}},
     {"precision": "[bold]fp3"}, {}],
)  # fmt: skip
def test_a_recipe_that_makes_no_sense_is_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(BundleError) as caught:
        conversions.conversion(recipe)
    assert caught.value.exit_code == ExitCode.INVALID


# -- budgets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Biased:
    """A stand-in for a coarse conversion: the last class scores higher than it should."""

    by: float
    name: str = "biased"
    requires: str = ""
    ensures: str = ""

    def run(self, model: Model) -> tuple[Model, bool]:
        count = int(next(iter(model.outputs.values()))[1] or 0)
        bias = np.zeros(count, np.float32)
        bias[-1] = self.by

        def change(proto: onnx.ModelProto) -> None:
            proto.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
            insert_after(proto, "scores", "Add", "bias")

        return read_model(to_bytes(read_model(altered(to_bytes(model), change)))), True


@pytest.fixture
def biased(monkeypatch: pytest.MonkeyPatch) -> Callable[[Case, str, float], Lowered]:
    def make(case: Case, kind: str, by: float) -> Lowered:
        monkeypatch.setattr(conversions, "CONVERSIONS", {kind: lambda _: Biased(by)})
        return Lowered(to_bytes(Biased(by).run(read_model(case.final))[0]), {"precision": kind})

    return make


def test_a_drop_is_allowed_up_to_what_was_asked_for(
    biased: Callable[[Case, str, float], Lowered], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By how many photos change their class, counted here."""
    monkeypatch.setitem(BUDGETS, "int8", replace(BUDGETS["int8"], worst=1.0, mean=1.0))  # type: ignore[arg-type]
    case, x = branched.separate(), photos(50)
    scores = run(case.final, {"image": x})["scores"]
    gaps = np.sort(scores[:, 0] - scores[:, 1])
    by = float(gaps[gaps > 0][[2, 3]].mean())  # three photos change
    lowered = biased(case, "int8", by)
    failure = climbed(case, lowered, x).failure
    assert failure is not None
    assert (failure.name, failure.numbers["disagreed"]) == ("precision", 3)
    # Of experts that lose 1.6 points, more than 95 in 100 show two or fewer such photos of fifty; of 1.7 points, not.
    chances = [[comb(50, k) * p**k * (1 - p) ** (50 - k) for k in range(3)] for p in (0.016, 0.017)]
    assert sum(chances[0]) > 0.95 > sum(chances[1])
    assert climbed(case, replace(lowered, max_drop=1.6), x).verdict == "failed"
    step = climbed(case, replace(lowered, max_drop=1.7), x).steps[-1]
    assert (step.passed, step.numbers["disagreed"], step.numbers["agreed"]) == (True, 3, 47)
    assert climbed(case, lowered).verdict == "verified"  # on noise there are no decisions


def test_probabilities_that_move_too_far_fail_even_on_noise(biased: Callable[[Case, str, float], Lowered]) -> None:
    """No class changes, but half precision does not do that."""
    case = branched.separate()
    scores = run(case.final, {"image": photos()})["scores"]
    failure = climbed(case, biased(case, "fp16", float(np.abs(scores).max()))).failure
    assert failure is not None
    assert failure.name == "precision"
    assert failure.detail.startswith("In fp16 the probabilities move by up to ")
    assert failure.numbers["largest_error"] > failure.numbers["allowed_largest"]


# -- preprocessing inside ------------------------------------------------------------------------------------------


def bake(case: Case, spec: Preprocess) -> Case:
    own = replace(case.card.restrict(case.indices), preprocess=spec)
    return replace(case, final=to_bytes(Bake(own).run(read_model(case.final))[0]))


SPEC = branched.PREPROCESS


def pixels(count: int = 9) -> Array:
    return np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("given", [None, pixels()], ids=["noise", "photos"])
def test_an_expert_with_its_preprocessing_inside_is_verified(given: Array | None) -> None:
    case = bake(branched.separate(), SPEC)
    certificate = climbed(case, None, given, SPEC)
    assert certificate.failure is None
    assert certificate.carried_by == ("optimised" if given is None else "decisions")
    certificate = climbed(case, half(case), given, SPEC)
    assert (certificate.verdict, certificate.carried_by) == ("verified", "precision")


@pytest.mark.parametrize(
    "other", [replace(SPEC, mean=SPEC.mean[::-1], std=SPEC.std[::-1]), replace(SPEC, mean=(0.5, 0.4, 0.31))]
)
def test_another_preprocessing_inside_fails(other: Preprocess) -> None:
    """The channels in another order; a mean that is off by a hundredth."""
    failure = climbed(bake(branched.separate(), other), None, None, SPEC).failure
    assert failure is not None
    assert failure.name == "optimised"


def test_its_card_says_what_is_left_to_do() -> None:
    case = bake(branched.separate(), SPEC)

    def claim(proto: onnx.ModelProto) -> None:
        helper.set_model_props(proto, {CARD_KEY: replace(own, preprocess=replace(own.preprocess, resize=9)).to_json()})

    own = Card.from_json(read_model(case.final).metadata[CARD_KEY])
    assert own.preprocess is not None
    failure = climbed(case.finally_changed(claim), None, None, SPEC).failure
    assert failure is not None
    assert failure.detail == "The expert's card is not the full model's card for the selected classes."


def test_one_that_takes_no_bytes_has_nothing_inside() -> None:
    failure = climbed(branched.separate(), None, None, SPEC).failure
    assert failure is not None
    assert failure.detail == "The expert's card is not the full model's card for the selected classes."


def test_bytes_are_what_the_full_model_gets_normalised() -> None:
    """Whatever its order of channels and axes; the other half of the definition is torchvision's."""
    spec = Preprocess((8, 8), 8, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), colour="BGR", layout="NHWC")
    inputs = prepare(pixels(), spec, ("batch", 8, 8, 3), images=True, baked=spec)
    assert inputs.pixels is not None
    wanted = (inputs.pixels[..., ::-1] / 255 - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(inputs.values, wanted, rtol=1e-5, atol=1e-6)
    assert (inputs.values.dtype, inputs.fed.dtype, len(inputs.fed)) == (np.float32, np.uint8, 9)


def test_both_reach_the_process() -> None:
    case = bake(branched.separate(), SPEC)
    certificate = verify(
        case.full, case.cut, case.final, half(case), card_full=case.card, indices=case.indices, inputs=pixels(),
        images=True, baked=SPEC,
    )  # fmt: skip
    assert (certificate.carried_by, certificate.inputs["kind"]) == ("precision", "images")


# -- the certificate -----------------------------------------------------------------------------------------------


def test_a_certificate_names_the_step_that_carries_it_and_older_ones_are_read() -> None:
    certificate = climbed(branched.separate(), half(branched.separate()))
    written = certificate.to_mapping()
    assert written["carried_by"] == "precision"
    assert Certificate.from_mapping(written) == certificate
    del written["carried_by"]
    assert Certificate.from_mapping(written) == certificate
    assert Certificate.off().to_mapping()["carried_by"] == ""


def test_the_card_of_an_expert_in_lower_precision_is_the_experts() -> None:
    case = branched.separate()
    lowered = half(case)
    assert isinstance(lowered.file, bytes)
    held = Card.from_json(read_model(lowered.file).metadata[CARD_KEY])
    assert held.to_json() == case.card.restrict(case.indices).to_json()
